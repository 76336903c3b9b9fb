# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speed of the detokenizer on a mid-size random model: `python benchmarks/detokenizer.py`.

Two threads, float32; medians of seven interleaved pairs in one process. Pushes are groups of five
codes, as the model gives them.
"""

import resource
import statistics
import time

import torch
from common import PAIRS, detokenizer, parameters, ratio, seconds_of

from funaudiochat.cosyvoice3.flow import ChunkSchedule

SCHEDULE = ChunkSchedule()
SPEAKER = torch.linspace(-1, 1, 192)


def codes(seconds: int) -> list[int]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 6561, (seconds * 25,), generator=generator).tolist()


def stream_all(model, ids: list[int]) -> float:
    """Run a streamed reply -> seconds to its first sound."""
    start, first = time.perf_counter(), 0.0
    stream = model.stream(SPEAKER, SCHEDULE)
    for index in range(0, len(ids), 5):
        if len(stream.push(ids[index : index + 5])) and not first:
            first = time.perf_counter() - start
    stream.finish()
    return first


def second_costs(model, seconds: int, wanted: tuple[int, ...]) -> list[float]:
    """Cost of some seconds of one reply, each a chunk of 25 codes."""
    stream, ids, costs = model.stream(SPEAKER, SCHEDULE), codes(seconds), []
    for second in range(seconds):
        piece = ids[second * 25 : second * 25 + 25]
        costs.append(seconds_of(lambda piece=piece: stream.push(piece)))
    return [costs[second] for second in wanted]


def main() -> None:
    torch.set_num_threads(2)
    model = detokenizer()
    print(f"model: {(parameters(model.flow) + parameters(model.hift)) / 1e6:.0f} M parameters")
    stream_all(model, codes(2))  # warm up
    for seconds in (8, 60):
        ids = codes(seconds)
        one_shot = seconds_of(lambda ids=ids: model.decode(ids, SPEAKER))
        streamed = seconds_of(lambda ids=ids: stream_all(model, ids))
        print(
            f"{seconds} s: real-time factor one-shot {one_shot / seconds:.2f}, "
            f"streaming {streamed / seconds:.2f}"
        )
    ids = codes(8)
    print(f"first sound after {1000 * stream_all(model, ids):.0f} ms of computing")
    _, _, share = ratio(
        lambda: stream_all(model, ids), lambda: model.decode(ids, SPEAKER, schedule=SCHEDULE)
    )
    print(f"streaming over chunk-masked one-shot, 8 s: {share:.2f} (aim 1.3)")
    # Counted from 0: the left context of four seconds is full when the fifth begins.
    pairs = [second_costs(model, 60, (5, 59)) for _ in range(PAIRS)]
    share = statistics.median(last / fifth for fifth, last in pairs)
    print(f"last second of 60 s over the fifth: {share:.2f} (1.1)")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
