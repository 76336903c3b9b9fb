# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Compare ears with and without Whisper's weights; writes benchmarks/nano_ablation_ears.md.

    python -m training.nano.ablation_ears              # resumes an interrupted run

Each arm trains on the same speech for equally many steps, once for each seed: ``Whisper tiny.en``
starts from its encoder's weights, ``random`` from the same encoder with random ones.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from training.nano.data import WORK
from training.nano.ears import PACKAGED, open_whisper
from training.nano.train_ears import SETS, EarsRun

REPORT = Path("benchmarks/nano_ablation_ears.md")
ARMS = ("Whisper tiny.en", "random")
SEEDS = (0, 1, 2)
COLUMNS = dict(zip(SETS, ("people", "training voices", "held-out voices"), strict=True))


def train(work: Path, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Train an arm to the end and return the last point of its curve."""
    folder = work / "ablation" / f"ears-{ARMS.index(arm)}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ears").exists():
        (folder / "ears").symlink_to((work / "ears").resolve())
    whisper = open_whisper(PACKAGED)
    run = EarsRun(folder, whisper if arm == ARMS[0] else replace(whisper, weights={}), steps,
                  seed=seed)  # fmt: skip
    run.train()
    return run.state["curve"][-1]


def report(results: dict[str, list[dict[str, Any]]], steps: int) -> str:
    """Tabulate mean and standard deviation over the seeds; results are by arm."""
    measured = next(iter(results.values()))[0]["held_out"]
    columns = {name: title for name, title in COLUMNS.items() if name in measured}
    lines = [
        "# Nano: ears with and without Whisper's weights",
        "",
        f"`python -m training.nano.ablation_ears --steps {steps}`: word error rates in percent, by"
        " characters without a language model, of held-out real speakers and of held-out texts."
        f" Mean and standard deviation over {len(SEEDS)} seeds.",
        "",
        "| encoder starts from | training, CPU s | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for arm, points in results.items():
        rows = [[point["cpu_s"] for point in points]]
        rows += [
            [p["held_out"][name]["character_word_error_percent"] for p in points]
            for name in columns
        ]  # fmt: skip
        cells = [f"{mean(row):.1f} ± {stdev(row):.1f}" for row in rows]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Compare ears with and without Whisper's weights.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {arm: [train(args.work, arm, seed, args.steps) for seed in SEEDS] for arm in ARMS}
    REPORT.write_text(report(results, args.steps), encoding="utf-8")


if __name__ == "__main__":
    main()
