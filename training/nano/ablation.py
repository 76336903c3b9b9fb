# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Test the claims of the paper at this scale; writes benchmarks/nano_ablation.md.

    python -m training.nano.ablation                   # resumes an interrupted run

Every arm trains on the same rows, all with spoken questions, from the same text model, mel encoder
and adapter and an untrained head, once for each seed, in one thread:

* ``5 Hz``: the recipe's model, all parts at a high rate.
* ``25 Hz``: groups of one speech token.
* ``direct``: a head without layers, which predicts each speech token from the backbone's state and
  the token before.
* ``cocktail``: two thirds of the steps at the high rate, merged with the text model, the rest at a
  low rate (paper, Core-Cocktail training).

``before`` is the common starting point. Every row is seen once, so the losses of the last steps are
losses on unseen rows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from itertools import islice, product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.voice_chat import VoiceChat
from training.nano.arms import table_of_arms
from training.nano.data import WORK, read_jsonl
from training.nano.new_model import begin
from training.nano.score import is_right, is_right_typed

REPORT = Path("benchmarks/nano_ablation.md")
BEFORE = "before"
ARMS = ("5 Hz", "25 Hz", "direct", "cocktail")
SEEDS = (0, 1, 2)
HIGH_RATE, LOW_RATE, ALPHA = 3e-4, 3e-5, 0.5
ROWS = 8
LOGGED_EVERY = 10
COLUMNS = {
    "cpu_s": "training, CPU s",
    "text_loss": "text loss",
    "speech_loss": "speech loss",
    "heard_percent": "spoken questions right, %",
    "typed_percent": "typed questions right, %",
}


def starting_model(arm: str, start: Path, folder: Path) -> None:
    """Write an arm's initial weights: those of ``start`` wherever the shapes agree."""
    config = FunAudioChatConfig.from_pretrained(start)
    processor = FunAudioChatProcessor.from_pretrained(start)
    if arm == "25 Hz":
        config.audio_config.group_size = processor.audio_group_size = 1
        processor.speech_tokenizer.init_kwargs["audio_group_size"] = 1
    if arm == "direct":
        head = dict(config.audio_config.crq_transformer_config)
        layers = {"num_hidden_layers": 0, "layer_types": []}
        config.audio_config.crq_transformer_config = {**head, **layers}
    torch.manual_seed(0)
    model = FunAudioChatForConditionalGeneration(config)
    known = FunAudioChatForConditionalGeneration.from_pretrained(start).state_dict()
    sizes = {name: value.shape for name, value in model.state_dict().items()}
    same = {n: v for n, v in known.items() if n in sizes and v.shape == sizes[n]}
    model.load_state_dict(same, strict=False)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(
    start: Path, folder: Path, rows: list[str], info: str, rate: float, seed: int
) -> dict[str, float]:
    """Train one stage and return its CPU seconds and the mean losses of its last fifth.

    Args:
        start: folder of the initial weights.
        folder: output folder.
        rows: lines of a dataset file, each seen once.
        info: LLaMA-Factory's description of the dataset.
        rate: peak learning rate.
        seed: seed of the run.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    data = folder.with_name(f"{folder.name}_rows")
    data.mkdir(parents=True, exist_ok=True)
    (data / "ablation.jsonl").write_text("".join(rows), encoding="utf-8")
    (data / "dataset_info.json").write_text(info)
    config, steps = Path(__file__).with_name("configs") / "stage1.yaml", len(rows) // ROWS
    settings = {
        "model_name_or_path": start, "output_dir": folder, "max_steps": steps, "seed": seed,
        "learning_rate": f"{rate:.1e}", "lr_scheduler_kwargs": f"{{min_lr: {rate / 10:.1e}}}",
        "warmup_steps": steps // 10, "dataset": "ablation", "dataset_dir": data,
        "per_device_train_batch_size": ROWS, "save_steps": steps, "logging_steps": LOGGED_EVERY,
    }  # fmt: skip
    command = [sys.executable, "-m", "training.launch", str(config)]
    command += [f"{key}={value}" for key, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NPROC_PER_NODE": "1"}
    subprocess.run(command, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    state = json.loads((folder / "trainer_state.json").read_text())
    log = [point for point in state["log_history"] if "speech_loss" in point]
    last = log[-max(1, steps // LOGGED_EVERY // 5) :]
    losses = {name: mean(p[name] for p in last) for name in ("text_loss", "speech_loss")}
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": seconds, **losses}


def accuracies(model: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return the percentage of held-out questions answered correctly in text, spoken and typed."""
    chat = VoiceChat.from_pretrained(model, device="cpu")
    records = read_jsonl(args.work / "dialogues" / "test_paraphrase.jsonl")[: args.items]
    tests = {"heard_percent": is_right, "typed_percent": is_right_typed}
    return {
        name: 100 * mean(test(chat, record, args.work) for record in records)
        for name, test in tests.items()
    }


def run(arm: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Train and score one arm with one seed."""
    folder = args.work / "ablation" / f"{arm.replace(' ', '')}-{seed}"
    start, trained = folder / "begin", folder / "trained"
    starting_model(arm, args.work / "ablation" / "start", start)
    text = args.work / "models" / args.text
    info = (args.work / "rows" / "dataset_info.json").read_text()
    with (args.work / "rows" / "ablation.jsonl").open(encoding="utf-8") as file:
        rows = list(islice(file, ROWS * args.steps))
    if arm == "cocktail":
        high = ROWS * (2 * args.steps // 3)
        first = train(start, folder / "stage1", rows[:high], info, HIGH_RATE, seed)
        merge = ["merge", "--trained", folder / "stage1", "--base", text]
        merge += ["--alpha", str(ALPHA), "--out", folder / "merged"]
        subprocess.run([sys.executable, "-m", "funaudiochat.cli", *merge], check=True)
        result = train(folder / "merged", trained, rows[high:], info, LOW_RATE, seed)
        result["cpu_s"] += first["cpu_s"]
    else:
        result = train(start, trained, rows, info, HIGH_RATE, seed)
    return {**result, **accuracies(trained, args)}


def report(results: list[dict[str, Any]], text: str, steps: int, items: int) -> str:
    """Tabulate mean and standard deviation of every arm over its seeds."""
    lines = [
        "# Nano: what each part of the recipe does",
        "",
        f"`python -m training.nano.ablation --text {text}`: {steps} steps of {ROWS} rows from the"
        f" same weights on the same rows, one thread, {items} held-out wordings. Mean and standard"
        f" deviation over {len(SEEDS)} seeds. The module's docstring describes the arms.",
        "",
    ]
    arms = {arm: [r for r in results if r["arm"] == arm] for arm in (BEFORE, *ARMS)}
    lines += table_of_arms(arms, COLUMNS, [name for name in COLUMNS if name.endswith("loss")])
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command line described in the module's docstring."""
    parser = argparse.ArgumentParser(description="Compare the parts of Nano's recipe.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--text", default="text", help="text model, relative to models/")
    parser.add_argument("--steps", type=int, default=225)
    parser.add_argument("--items", type=int, default=200, help="questions per accuracy")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = args.work / "ablation" / "start"
    if not start.exists():
        begin(args.work, args.work / "models" / args.text, start)
    path = start.with_name("results.jsonl")
    results = read_jsonl(path)
    for seed, arm in [(0, BEFORE), *product(SEEDS, ARMS)]:
        if not any((r["arm"], r["seed"]) == (arm, seed) for r in results):
            trained = arm != BEFORE
            found = run(arm, seed, args) if trained else accuracies(start, args)
            results.append({"arm": arm, "seed": seed, **found})
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(results[-1]) + "\n")
    REPORT.write_text(report(results, args.text, args.steps, args.items), encoding="utf-8")


if __name__ == "__main__":
    main()
