# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Does the recipe do what the paper says, at this scale? Writes benchmarks/nano_ablation.md.

    python -m training.nano.ablation                   # goes on where it was stopped

Every arm trains the same rows from the same weights, once for each seed, in one thread:

* ``5 Hz``: the recipe's model, all parts at a high rate.
* ``25 Hz``: groups of one code.
* ``direct``: a head without layers, so codes come from the backbone's state and the code before.
* ``cocktail``: half of the steps at the high rate, merged with the language model of the text
  stage, the other half at a low rate (paper, Core-Cocktail training).

Only spoken questions are trained, so what is forgotten of typed ones shows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from funaudiochat.conversation import Sampling, VoiceChat
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.nano.data import WORK, read_jsonl
from training.nano.export import FOLDER as DETOKENIZER
from training.nano.score import is_right, is_right_typed, score_speech

REPORT = Path("benchmarks/nano_ablation.md")
ARMS = ("5 Hz", "25 Hz", "direct", "cocktail")
SEEDS = (0, 1, 2)
HIGH_RATE, LOW_RATE = 5e-4, 5e-5
COLUMNS = {
    "cpu_s": "training, CPU s",
    "text_loss": "text loss",
    "speech_loss": "speech loss",
    "heard_percent": "spoken questions right, %",
    "typed_percent": "typed questions right, %",
    "wer_percent": "WER of the spoken answer, %",
    "right_as_heard_percent": "right as heard, %",
}


def starting_model(arm: str, start: Path, folder: Path) -> None:
    """Write the weights an arm begins with: those of ``start`` wherever the sizes agree."""
    config = FunAudioChatForConditionalGeneration.config_class.from_pretrained(start)
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


def train(start: Path, folder: Path, steps: int, rate: float, seed: int) -> dict[str, float]:
    """Train one stage; returns CPU seconds and the losses of its last quarter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    config = Path(__file__).with_name("configs") / "stage1.yaml"
    settings = {
        "model_name_or_path": start, "output_dir": folder, "max_steps": steps, "seed": seed,
        "learning_rate": rate, "dataset": "ablation", "save_steps": steps, "logging_steps": 10,
        "overwrite_output_dir": True,
    }  # fmt: skip
    command = [sys.executable, "-m", "training.launch", str(config)]
    command += [f"{key}={value}" for key, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NPROC_PER_NODE": "1"}
    subprocess.run(command, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    log = read_jsonl(folder / "trainer_log.jsonl")
    points = [p for p in log if "speech_loss" in p][-max(1, steps // 40) :]
    losses = {name: mean(p[name] for p in points) for name in ("text_loss", "speech_loss")}
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": seconds, **losses}


def run(arm: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and score one arm with one seed."""
    folder = args.work / "ablation" / f"{arm.replace(' ', '')}-{seed}"
    begin, trained = folder / "begin", folder / "trained"
    starting_model(arm, args.start, begin)
    if arm == "cocktail":
        first = train(begin, folder / "stage1", args.steps // 2, HIGH_RATE, seed)
        merge = ["merge", "--trained", folder / "stage1", "--base", args.text, "--alpha", "0.5"]
        command = [sys.executable, "-m", "funaudiochat.cli", *merge, "--out", folder / "merged"]
        subprocess.run(command, check=True)
        result = train(folder / "merged", trained, args.steps // 2, LOW_RATE, seed)
        result["cpu_s"] += first["cpu_s"]
    else:
        result = train(begin, trained, args.steps, HIGH_RATE, seed)
    chat = VoiceChat.from_pretrained(trained, args.tts, device="cpu")
    records = read_jsonl(args.work / "dialogues" / "test_paraphrase.jsonl")[: args.items]
    for name, test in {"heard_percent": is_right, "typed_percent": is_right_typed}.items():
        result[name] = 100 * mean(test(chat, record, args.work) for record in records)
    spoken = score_speech(chat, records[: args.spoken], args.work, Sampling(seed=0))
    return {"arm": arm, "seed": seed, **result, **spoken}


def report(results: list[dict[str, Any]], steps: int) -> str:
    """A table of every arm's mean and deviation over its seeds."""
    lines = [
        "# Nano: what each part of the recipe does",
        "",
        f"`python -m training.nano.ablation`: {steps} steps of 16 rows from the same weights on the"
        " same rows, one thread, scored on held-out wordings. Mean and standard deviation over the"
        f" seeds {', '.join(map(str, SEEDS))}; what each arm is, the module says.",
        "",
        "| arm | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for arm in ARMS:
        found = [r for r in results if r["arm"] == arm]
        cells = []
        for column in COLUMNS:
            values = [r[column] for r in found]
            digits = 2 if column.endswith("loss") else 1
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.{digits}f}{spread}" if values else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Compare the parts of Nano's recipe.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--start", type=Path, default=WORK / "models" / "begin")
    parser.add_argument("--text", type=Path, default=WORK / "models" / "text")
    parser.add_argument("--tts", type=Path, default=DETOKENIZER, help="detokenizer")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--items", type=int, default=100, help="questions of a text column")
    parser.add_argument("--spoken", type=int, default=30, help="questions of a spoken column")
    parser.add_argument("--output", type=Path, default=REPORT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = args.work / "ablation" / "results.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = read_jsonl(path)
    for seed in SEEDS:
        for arm in ARMS:
            if not any((r["arm"], r["seed"]) == (arm, seed) for r in results):
                results.append(run(arm, seed, args))
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    args.output.write_text(report(results, args.steps), encoding="utf-8")


if __name__ == "__main__":
    main()
