# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Test preference training on Nano's own answers; writes benchmarks/nano_preference.md.

    python -m training.compare_preferences --seeds 3       # resumes an interrupted run

Nano answers held-out questions several times. ``make-pairs`` scores the answers by their text and
by what the judge hears, and pairs the best with the worst. Every arm starts from Nano and trains on
these pairs, once for each seed, by LoRA (``training/configs/dpo_nano.yaml``); the ``ARMS`` differ
in the streams that are compared and in the SFT term on the chosen answer. ``before`` is Nano
itself. The questions of the pairs are those of the split ``valid_paraphrase``; what is measured are
answers to questions of ``test_paraphrase``. Every second question is typed.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
from itertools import product
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from funaudiochat.audio import load_audio
from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError
from funaudiochat.voice_chat import VoiceChat
from training.lora import merge_lora
from training.make_pairs import (
    Judge,
    PairMaker,
    PairOptions,
    Question,
    make_pairs,
    whisper_judge,
)
from training.measure_speech import Speech, answer_scores
from training.nano.arms import table_of_arms
from training.nano.data import WORK, read_jsonl, write_jsonl
from training.nano.export import FOLDER as DETOKENIZER
from training.nano.export_model import FOLDER as MODEL
from training.nano.rows import VOICE
from training.nano.words import normalized_words

REPORT = Path("benchmarks/nano_preference.md")
TRAINING = Path(__file__).parent
PAIRED, MEASURED = "valid_paraphrase", "test_paraphrase"
BEFORE = "before"
WITH_SFT_TERM = 0.1
ARMS: dict[str, dict[str, float]] = {
    "text and speech, SFT term": {"pref_speech_weight": 0.2, "pref_ftx": WITH_SFT_TERM},
    "text and speech": {"pref_speech_weight": 0.2, "pref_ftx": 0},
    "text only, SFT term": {"pref_speech_weight": 0, "pref_ftx": WITH_SFT_TERM},
    "text only": {"pref_speech_weight": 0, "pref_ftx": 0},
}
COLUMNS = {
    "text_right_percent": "text right, %",
    "heard_right_percent": "right as heard, %",
    "wer_percent": "word error rate, %",
    "pitch_hz": "pitch, Hz",
    "pitch_range_semitones": "pitch range, semitones",
    "words_per_second": "words a second",
    "speaker_similarity": "speaker similarity",
}
_REFERENCES = 20  # recordings of the voice, for speaker similarity


def questions_of(
    work: Path, split: str, count: int, wordings: frozenset[str] = frozenset()
) -> list[Question]:
    """Return the first questions of a split whose answer has one key phrase.

    They are spoken and typed in turn, and of the kinds whose scores include the word error rate.

    Args:
        work: data folder.
        split: name of the split.
        count: number of questions.
        wordings: those that are not taken, see :func:`wording`.

    Raises:
        FunAudioChatError: the split has fewer questions.
    """
    found: dict[str, Question] = {}
    for record in read_jsonl(work / "dialogues" / f"{split}.jsonl"):
        asked, answer = record["messages"][:2]
        if len(found) == count:
            break
        if len(record["messages"]) > 2 or record["tools"] or len(answer["keys"]) != 1:
            continue
        name, answers = record["id"], tuple(answer["keys"])
        if len(found) % 2:
            question = Question(name, "instruction", text=asked["text"], answers=answers)
        else:
            audio = str((work / asked["audio"]).resolve())
            question = Question(
                name, "robustness", audio, answers=answers, transcript=asked["text"]
            )
        if wording(question) not in wordings:
            found.setdefault(wording(question), question)
    if len(found) < count:
        raise FunAudioChatError(
            f"{work} has {len(found)} questions of {split}, not {count}; make more with "
            "`python -m training.nano.data`, or ask for fewer"
        )
    return list(found.values())


def wording(question: Question) -> str:
    """Return the words of a question, spoken or typed, as they are compared."""
    return " ".join(normalized_words(question.text or question.transcript))


def reference_speech(work: Path) -> list[Speech]:
    """Return recordings of the assistant's voice that no stage was trained on."""
    records = (
        record
        for record in read_jsonl(work / "answers.jsonl")
        if record["voice"] == VOICE and record["part"] != "train"
    )
    return [
        (record["text"], load_audio(work / record["audio"], OUTPUT_RATE_HZ))
        for record, _ in zip(records, range(_REFERENCES), strict=False)
    ]


def train(
    arm: str, seed: int, model: Path, pairs: Path, steps: int, rate: float, adapter: Path, out: Path
) -> None:
    """Train one arm with one seed; a stopped run resumes from its last checkpoint.

    Args:
        arm: name of the arm.
        seed: seed of the run.
        model: folder of the model to start from.
        pairs: folder of ``pairs.jsonl``.
        steps: updates, of four pairs each.
        rate: learning rate.
        adapter: folder of the run.
        out: folder of the trained model.
    """
    settings = {
        "model_name_or_path": model.resolve(), "dataset_dir": pairs.resolve(),
        "output_dir": adapter.resolve(), "seed": seed, "max_steps": steps, "learning_rate": rate,
        "save_strategy": "steps", "save_steps": max(1, steps // 4), "save_total_limit": 1,
        **ARMS[arm],
    }  # fmt: skip
    command = [sys.executable, "-m", "training.launch", str(TRAINING / "configs" / "dpo_nano.yaml")]
    command += [f"{key}={value}" for key, value in settings.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NPROC_PER_NODE": "1"}
    subprocess.run(command, env=environment, check=True)
    merge_lora(adapter, out, model)


def compare(args: argparse.Namespace, judge: Judge) -> list[dict[str, Any]]:
    """Make the pairs, and train and measure every arm that has no results yet.

    Args:
        args: those of the command line.
        judge: transcribes (waveform [samples], rate in Hz).

    Returns:
        The results of ``before`` and of every arm and seed.

    Raises:
        FunAudioChatError: the folder's results are from other settings, or no pair was found.
    """
    folder = args.work / "preference"
    pairs, path = folder / "pairs" / "pairs.jsonl", folder / "results.jsonl"
    models = {"model": str(args.model.resolve()), "tts": str(args.tts.resolve())}
    numbers = {
        name: getattr(args, name) for name in ("questions", "samples", "steps", "rate", "items")
    }
    settings = models | numbers
    results = read_jsonl(path)
    if any(result["settings"] != settings for result in results):
        raise FunAudioChatError(
            f"{path} has results from other settings; use those, or remove {folder}"
        )
    measured = questions_of(args.work, MEASURED, args.items)
    known = frozenset(wording(question) for question in measured)
    paired = questions_of(args.work, PAIRED, args.questions, known)
    start = VoiceChat.from_pretrained(args.model, args.tts, device="cpu")
    maker = PairMaker(start, judge, PairOptions(samples=args.samples), pairs.with_name("noise"))
    count, _ = make_pairs(maker, paired, pairs, models)
    if not count:
        raise FunAudioChatError(
            "no pair: the answers to each question are too alike, or none is good enough; ask more "
            "--questions, or questions that the model knows"
        )
    shutil.copyfile(TRAINING / "data" / "dataset_info.json", pairs.with_name("dataset_info.json"))
    reference = reference_speech(args.work)
    done = {(result["arm"], result["seed"]) for result in results}
    for seed, arm in [(0, BEFORE), *product(range(args.seeds), ARMS)]:
        if (arm, seed) in done:
            continue
        with TemporaryDirectory() as out:
            chat = start
            if arm != BEFORE:
                adapter = folder / f"{arm.replace(',', '').replace(' ', '_')}-{seed}"
                train(
                    arm, seed, args.model, pairs.parent, args.steps, args.rate, adapter, Path(out)
                )
                chat = VoiceChat.from_pretrained(Path(out), args.tts, device="cpu")
            scores = answer_scores(chat, measured, reference, judge)
        result = {"arm": arm, "seed": seed, "pairs": count, "settings": settings, "scores": scores}
        results.append(result)
        write_jsonl(path, results)
    return results


def report(results: list[dict[str, Any]]) -> str:
    """Tabulate mean and standard deviation of every arm over its seeds."""
    settings, seeds = results[0]["settings"], len({result["seed"] for result in results})
    lines = [
        "# Nano: preference training on its own answers",
        "",
        f"`python -m training.compare_preferences --seeds {seeds}`:"
        f" {results[0]['pairs']} pairs from {settings['samples']} answers to each of"
        f" {settings['questions']} held-out questions; {settings['steps']} steps of four pairs by"
        f" LoRA, learning rate {settings['rate']:g}. Measured on {settings['items']} other"
        " questions, every second one typed: whether the text, and what the judge hears, contains"
        " the right answer, and the word error rate of what it hears against the model's own text."
        f" Mean and standard deviation over {seeds} seeds. The module's docstring describes the"
        " arms.",
        "",
    ]
    arms = {
        arm: [
            {name: value for name, value in result["scores"].items() if not isnan(value)}
            for result in results
            if result["arm"] == arm
        ]
        for arm in (BEFORE, *ARMS)
    }
    lines += table_of_arms(arms, COLUMNS, ("words_per_second", "speaker_similarity"))
    return "\n".join(lines) + "\n"


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Compare kinds of preference training on Nano.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--model", type=Path, default=MODEL, help="model to start from")
    parser.add_argument("--tts", type=Path, default=DETOKENIZER, help="detokenizer")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every arm")
    parser.add_argument("--questions", type=int, default=100, help="questions to make pairs of")
    parser.add_argument("--samples", type=int, default=6, help="answers of each question")
    parser.add_argument("--steps", type=int, default=40, help="updates, of four pairs each")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--items", type=int, default=60, help="questions that are measured")
    return parser


def main() -> None:
    """Run the command line described in the module's docstring."""
    args = command_line().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    REPORT.write_text(report(compare(args, whisper_judge())), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
