# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speed of the detokenizer on a mid-size random model: `python benchmarks/detokenizer.py`.

Two threads, float32; medians of seven interleaved pairs in one process. Each push is a group of
five speech tokens, as the language model produces them.
"""

import copy
import statistics
import time

import torch
from common import (
    PAIRS,
    THREADS,
    Report,
    detokenizer,
    ratio,
    seconds_of,
    style_of_report,
)

from funaudiochat.constants import CODEBOOK_SIZE, GROUP_SIZE, TOKEN_FPS
from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer, DetokenizerStream

SCHEDULE = ChunkSchedule()
SPEAKER = torch.linspace(-1, 1, 192)


def random_tokens(seconds: int) -> list[int]:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, CODEBOOK_SIZE, (seconds * TOKEN_FPS,), generator=generator).tolist()


def push_groups(stream: DetokenizerStream, ids: list[int]) -> float:
    """Return the seconds of pushing these tokens."""
    start = time.perf_counter()
    for index in range(0, len(ids), GROUP_SIZE):
        stream.push(ids[index : index + GROUP_SIZE])
    return time.perf_counter() - start


def stream_all(model: CosyVoice3Detokenizer, ids: list[int]) -> float:
    """Return the seconds of a whole streamed reply."""
    stream = model.stream(SPEAKER, SCHEDULE)
    return push_groups(stream, ids) + seconds_of(stream.finish)


def first_audio_s(model: CosyVoice3Detokenizer, ids: list[int]) -> float:
    """Return the computing time in seconds until the first samples."""
    start, stream = time.perf_counter(), model.stream(SPEAKER, SCHEDULE)
    for index in range(0, len(ids), GROUP_SIZE):
        if len(stream.push(ids[index : index + GROUP_SIZE])):
            break
    return time.perf_counter() - start


def state_bytes(stream: DetokenizerStream) -> int:
    """Return the bytes of the tensors of a running reply."""
    flow, vocoder = stream.state.flow, stream.state.vocoder
    assert flow is not None
    tensors = [vocoder.mel, vocoder.source, flow.cache.keys_values, flow.cache.conv_inputs]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def long_reply(model: CosyVoice3Detokenizer, seconds: int, report: Report) -> None:
    """Stream a long reply once, and compare its last second with its fifth.

    A chunk is two seconds, so the chunks compared are seconds five and six, and the last two. Both
    are repeated, interleaved, from copies of the state before them.
    """
    ids, stream, took = random_tokens(seconds), model.stream(SPEAKER, SCHEDULE), 0.0
    size = SCHEDULE.max_tokens
    fifth, half, last = 4 * TOKEN_FPS, len(ids) // 2, (seconds - 2) * TOKEN_FPS
    before = {}
    for start in range(0, len(ids), size):
        if start in (fifth, half, last):
            before[start] = copy.deepcopy(stream.state)
        took += push_groups(stream, ids[start : start + size])
    took += seconds_of(stream.finish)
    report.add(f"{seconds} s: real-time factor, streaming", took / seconds, "")

    def again(start: int) -> float:
        stream.state = copy.deepcopy(before[start])
        return push_groups(stream, ids[start : start + size])

    costs = ratio(lambda: again(last), lambda: again(fifth))
    report.add(f"last second of {seconds} s over the fifth", costs.share, "", 1.1)
    for start in (half, last):
        stream.state = before[start]
        second = start // TOKEN_FPS + 1
        report.add(f"state before second {second}", state_bytes(stream) / 2**20, "MiB")


def measure(model: CosyVoice3Detokenizer, size: int) -> Report:
    report = Report(f"random flow and vocoder of {size / 1e6:.0f} M parameters in use")
    ids = random_tokens(8)
    first_audio_s(model, ids)  # warm up
    first = statistics.median(first_audio_s(model, ids) for _ in range(PAIRS))
    report.add("first-audio latency, computing time", 1000 * first, "ms")
    masked = ratio(
        lambda: stream_all(model, ids),
        lambda: seconds_of(lambda: model.decode(ids, SPEAKER, schedule=SCHEDULE)),
    )
    report.add("8 s: streaming over chunk-masked one-shot", masked.share, "", 1.3)
    report.add("8 s: real-time factor, streaming", masked.first_s / 8, "")
    one_shot = statistics.median(seconds_of(lambda: model.decode(ids, SPEAKER)) for _ in range(3))
    report.add("8 s: real-time factor, one-shot", one_shot / 8, "")
    long_reply(model, 60, report)
    one_shot = seconds_of(lambda: model.decode(random_tokens(60), SPEAKER))
    report.add("60 s: real-time factor, one-shot", one_shot / 60, "")
    return report


def main() -> None:
    style = style_of_report(__doc__.splitlines()[0])
    torch.set_num_threads(THREADS)
    measure(*detokenizer()).show(style)


if __name__ == "__main__":
    main()
