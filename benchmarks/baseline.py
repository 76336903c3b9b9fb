# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Decoding against an earlier commit, as ratios: `python benchmarks/baseline.py --baseline FOLDER`.

FOLDER is a checkout of that commit (`git worktree add FOLDER COMMIT`). Two processes, one for each
tree, load the same models and take turns, so that other load on the machine meets both. What counts
is processor time of one thread, which waiting for a core does not change. Every figure is the
median over the pairs. "After N s" stands for a text prompt of as many positions.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[1]
NANO = TREE / "pretrained_models" / "Fun-Audio-Chat-Nano"
WARM_UP, STEPS, TEXT_STEPS = 2, 12, 64
EARLY, LATE, LONG = 50, 1500, 3000  # positions, five a second
QUESTIONS, ANSWER_TOKENS, RATE_HZ = 32, 32, 16000
TRAINED = 512  # positions of a row
PAD, AUDIO = 4005, 4000


# --- the process of one tree; both trees have the names that these functions import


@cache
def _model(name: str, weights: str = "fp32") -> Any:
    if name == "nano":
        import torch

        from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration

        kind: Any = FunAudioChatForConditionalGeneration
        model = kind.from_pretrained(NANO, dtype=torch.float32).eval().requires_grad_(False)
    else:
        from common import chat_model

        model = chat_model()
    if weights != "fp32":
        from funaudiochat.compact_weights import compact

        compact(model, weights)
    return model


def _options(speech: bool = True, **settings: Any) -> Any:
    from funaudiochat.generation_funaudiochat import GenerationOptions

    return GenerationOptions(
        max_new_tokens=1 << 20, eos_token_ids=(-1,), pad_token_id=PAD,
        disable_speech=not speech, force_text_abos=speech, **settings,
    )  # fmt: skip


def _text(positions: int, rows: int = 1) -> dict[str, Any]:
    import torch

    ids = (torch.arange(positions) % 1800).expand(rows, -1).contiguous()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _step_seconds(model: Any, inputs: Any, options: Any, seed: int | None = None) -> float:
    """Return the median seconds of a step, the first ones left out."""
    import torch

    from funaudiochat.generation_funaudiochat import prefill, step

    generator = None if seed is None else torch.Generator().manual_seed(seed)
    state = prefill(model, inputs, options, generator)
    taken = []
    for _ in range(WARM_UP + STEPS):
        start = time.process_time()
        step(model, state, options)
        taken.append(time.process_time() - start)
    return statistics.median(taken[WARM_UP:])


def _spoken(rows: int = 1, weights: str = "fp32") -> float:
    return _step_seconds(_model("random", weights), _text(60, rows), _options())


def _nano(weights: str = "fp32", **settings: Any) -> float:
    chosen = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "top_k": 0}
    sampled = settings.pop("do_sample", True)
    options = _options(text_greedy=True, do_sample=sampled, **(chosen if sampled else {}))
    return _step_seconds(_model("nano", weights), _text(60), options, seed=1)


def _written(weights: str = "fp32") -> float:
    """Return the seconds of 64 text tokens after ten seconds of audio, the prompt included."""
    from generation import prompt

    from funaudiochat.generation_funaudiochat import prefill, step

    model, options = _model("random", weights), _options(speech=False)
    inputs = prompt(10)
    start = time.process_time()
    state = prefill(model, inputs, options)
    for _ in range(TEXT_STEPS):
        step(model, state, options)
    return time.process_time() - start


def _answers() -> float:
    """Return the seconds of Nano's written answers to 32 spoken questions in one batch."""
    import numpy as np
    import torch

    from funaudiochat.generation_funaudiochat import GenerationOptions, generate
    from funaudiochat.processing_funaudiochat import FunAudioChatProcessor

    processor = FunAudioChatProcessor.from_pretrained(NANO)
    draw = np.random.default_rng(0)
    questions = [
        (0.05 * draw.standard_normal(round(seconds * RATE_HZ))).astype(np.float32)
        for seconds in np.linspace(1.5, 3.5, QUESTIONS)
    ]
    text = (
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|><|im_end|>\n<|im_start|>assistant\n"
    )
    options = GenerationOptions(
        max_new_tokens=ANSWER_TOKENS, eos_token_ids=(-1,), pad_token_id=0, disable_speech=True
    )
    model, start = _model("nano"), time.process_time()
    inputs = processor(
        text=[text] * QUESTIONS, audio=questions, return_tensors="pt", padding_side="left"
    )
    with torch.no_grad():
        generate(model, dict(inputs), options)
    return time.process_time() - start


def _training_step() -> float:
    """Return the seconds of a training step on two rows of 512 positions, half of them answers.

    It is the second of two steps, as the first waits seconds for memory from the system.
    """
    import torch

    torch.set_flush_denormal(True)
    model = _model("random").requires_grad_(True).train()
    # What the launcher sets, by the name that it has in each tree.
    model.lean_losses = model.lean_speech_loss = True
    groups = TRAINED // 2
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 4000, (2, TRAINED), generator=draw)
    labels = torch.full_like(ids, -100)
    ids[:, -groups:] = labels[:, -groups:] = AUDIO
    labels[:, : TRAINED // 8] = ids[:, : TRAINED // 8]
    tokens = torch.randint(0, 6561, (2, 5 * groups), generator=draw)
    batch = {
        "input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids),
        "speech_ids": tokens, "speech_attention_mask": torch.ones_like(tokens),
        "text_ids": ids[:, :20], "text_attention_mask": torch.ones(2, dtype=torch.bool),
    }  # fmt: skip
    for _ in range(2):
        start = time.process_time()
        model(**batch).loss.backward()
        seconds = time.process_time() - start
        model.zero_grad()
    model.requires_grad_(False).eval()
    return seconds


def _first_step(positions: int) -> float:
    from funaudiochat.generation_funaudiochat import prefill, step

    model, options = _model("random"), _options()
    state = prefill(model, _text(positions), options)
    start = time.process_time()
    step(model, state, options)
    return time.process_time() - start


def _at(positions: int) -> float:
    return _step_seconds(_model("random"), _text(positions), _options())


WORK: dict[str, Callable[[], float]] = {
    "S2S step, 73 M": _spoken,
    "S2S step, 73 M, bf16": lambda: _spoken(weights="bf16"),
    "S2S step, 73 M, int8": lambda: _spoken(weights="int8"),
    "S2S step, 73 M, 4 rows": lambda: _spoken(4),
    "S2S step, 73 M, 8 rows": lambda: _spoken(8),
    "S2S step, Nano, sampled": _nano,
    "S2S step, Nano, sampled, int8": lambda: _nano("int8"),
    "S2S step, Nano, greedy": lambda: _nano(do_sample=False),
    "S2T, 64 tokens, 10 s of audio": _written,
    f"{QUESTIONS} text answers, Nano": _answers,
    f"training step, 2 x {TRAINED}": _training_step,
    f"S2S step at position {EARLY}": lambda: _at(EARLY),
    f"S2S step at position {LATE}": lambda: _at(LATE),
    f"first step after {LONG // 5} s": lambda: _first_step(LONG),
    f"first step after {LONG // 10} s": lambda: _first_step(LONG // 2),
}
OURS_ONLY = ("bf16", "int8")  # set against the baseline's fp32 work of the same name
SLOW = ("first step", "training step")  # one pair
MEMORY = (
    "S2S step, 73 M", "S2S step, 73 M, bf16", "S2S step, 73 M, int8",
    f"training step, 2 x {TRAINED}",
    f"first step after {LONG // 5} s", f"first step after {LONG // 10} s",
)  # fmt: skip
OVER = (  # ratios of the tree's own figures
    ("S2S step, 73 M, 4 rows", "S2S step, 73 M"),
    ("S2S step, 73 M, 8 rows", "S2S step, 73 M"),
    (f"S2S step at position {LATE}", f"S2S step at position {EARLY}"),
    (f"first step after {LONG // 5} s", f"first step after {LONG // 10} s"),
)


def _work(tree: str) -> None:
    """Answer names of WORK on standard input with seconds and peak memory in GiB."""
    sys.path[:0] = [tree, str(Path(tree) / "benchmarks")]
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        seconds = WORK[line.strip()]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps([seconds, peak]), flush=True)


# --- the process that compares


class _Tree:
    """A process that works in one tree."""

    def __init__(self, tree: Path) -> None:
        command = [sys.executable, "-W", "ignore", __file__, "--work", str(tree)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            command, cwd=tree, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, name: str) -> tuple[float, float]:
        """Return the seconds of one piece of work, and the process's peak memory in GiB."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        print(name, file=process.stdin, flush=True)
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{name!r} failed; its error stands above")
        seconds, peak = json.loads(line)
        return seconds, peak

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _baselines_name(name: str) -> str:
    return ", ".join(part for part in name.split(", ") if part not in OURS_ONLY)


def _compare(baseline: Path, pairs: int, names: list[str]) -> dict[str, tuple[float, float, float]]:
    """Return per work the median seconds before and after, and the median ratio."""
    before, after = _Tree(baseline), _Tree(TREE)
    found = {}
    print("| work | before, ms | after, ms | after / before |\n| --- | ---: | ---: | ---: |")
    for name in names:
        slow = name.startswith(SLOW)
        taken = []
        for pair in range(1 if slow else pairs + 1):
            one = before.run(_baselines_name(name))[0], after.run(name)[0]
            if pair or slow:  # the first pair loads the model
                taken.append(one)
        old, new = (statistics.median(times) for times in zip(*taken, strict=True))
        share = statistics.median(b / a for a, b in taken)
        found[name] = old, new, share
        print(f"| {name} | {1000 * old:.1f} | {1000 * new:.1f} | {share:.3f} |", flush=True)
    before.close()
    after.close()
    return found


def _over(found: dict[str, tuple[float, float, float]]) -> None:
    known = [(name, other) for name, other in OVER if name in found and other in found]
    if known:
        print("\n| ratio | before | after |\n| --- | ---: | ---: |")
    for name, other in known:
        shares = [found[name][at] / found[other][at] for at in (0, 1)]
        print(f"| {name} over {other} | {shares[0]:.2f} | {shares[1]:.2f} |")


def _memory(baseline: Path, names: list[str]) -> None:
    """Print peak memory, each figure from a process of its own."""
    print("\n| peak memory of a process | before, GiB | after, GiB | after / before |")
    print("| --- | ---: | ---: | ---: |")
    for name in names:
        peaks = []
        for tree, work in ((baseline, _baselines_name(name)), (TREE, name)):
            process = _Tree(tree)
            peaks.append(process.run(work)[1])
            process.close()
        print(f"| {name} | {peaks[0]:.2f} | {peaks[1]:.2f} | {peaks[1] / peaks[0]:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="work whose name holds this text")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory figures")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return _work(args.work)
    if args.baseline is None or not (args.baseline / "benchmarks" / "common.py").is_file():
        parser.error("--baseline must name a checkout of this repository")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, load average at the start {load}\n")
    chosen = [name for name in WORK if args.only in name]
    _over(_compare(args.baseline.resolve(), args.pairs, chosen))
    if not args.no_memory:
        _memory(args.baseline.resolve(), [name for name in MEMORY if name in chosen])


if __name__ == "__main__":
    main()
