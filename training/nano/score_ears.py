# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Measure the character transcription of the ears on unseen voices and real speakers.

    python -m training.nano.score_ears --real-speech FOLDER

Scores ``test_known`` and ``test_new`` of ``training.nano.speech`` and, in ``FOLDER``, the ``test``
rows of ``train/an4/rows.jsonl``, ``other/transcripts.json`` (name of a FLAC file -> text) and
``orders/labels.json`` (name -> slots). For orders, it counts the slot words that were recognised
and the orders in which all were. Missing sets are skipped. Writes ``NAME_scores.json``.
"""

import argparse
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jiwer
import torch
from torch import Tensor

from training.nano.data import WORK, read_jsonl
from training.nano.ears import PACKAGED, Ears, load_ears
from training.nano.features import WHISPER_HZ, read_waveform
from training.nano.sentences import plain
from training.nano.speech import SpeechStore

log = logging.getLogger(__name__)


def people(real_speech: Path) -> dict[str, dict[Path, str]]:
    """List the recordings of real speakers with their texts, by set, without empty sets."""
    an4 = real_speech / "train" / "an4"
    rows = [row for row in read_jsonl(an4 / "rows.jsonl") if row["split"] == "test"]
    sets = {"an4_test": {an4 / row["file"]: row["text"] for row in rows}}
    if (path := real_speech / "other" / "transcripts.json").exists():
        found = json.loads(path.read_text("utf-8"))
        sets["other"] = {path.with_name(f"{name}.flac"): text for name, text in found.items()}
    return {name: texts for name, texts in sets.items() if texts}


def orders(real_speech: Path) -> dict[Path, dict[str, str]]:
    """List the recordings of coffee orders with their slots, if there are any."""
    path = real_speech / "orders" / "labels.json"
    if not path.exists():
        return {}
    slots = json.loads(path.read_text("utf-8"))
    return {path.with_name(f"{name}.flac"): found for name, found in slots.items()}


def word_errors(ears: Ears, recordings: Iterable[tuple[Tensor, str]]) -> dict[str, Any]:
    """Compute word and letter error rates on 16 kHz waveforms with their texts."""
    pairs = [(text, ears.hear(waveform)) for waveform, text in recordings]
    texts, heard = map(list, zip(*pairs, strict=True))
    return {
        "recordings": len(pairs),
        "word_error_percent": round(100 * jiwer.wer(texts, heard), 2),
        "letter_error_percent": round(100 * jiwer.cer(texts, heard), 2),
        "examples": pairs[:: max(1, len(pairs) // 8)],
    }


def slots_found(slots: list[dict[str, str]], heard: list[str]) -> dict[str, float]:
    """Compute the percentages of slot words recognised and of orders with all of them."""
    needed = [[word for value in found.values() for word in value.split()] for found in slots]
    got = [
        [word in text.split() for word in words]
        for words, text in zip(needed, heard, strict=True)
    ]  # fmt: skip
    return {
        "slot_words_percent": round(100 * sum(map(sum, got)) / sum(map(len, got)), 2),
        "whole_orders_percent": round(100 * sum(map(all, got)) / len(got), 2),
    }


def score(ears: Ears, work: Path, real_speech: Path | None) -> dict[str, Any]:
    """Score every set that exists, by name."""
    scores = {}
    for name in ("test_known", "test_new"):
        store = SpeechStore(work / "ears" / name)
        if store.rows:
            scores[name] = word_errors(ears, ((store.waveform(r), r["text"]) for r in store.rows))
            log.info("%s: %s", name, scores[name])
    if real_speech is None:
        return scores
    for name, texts in people(real_speech).items():
        recordings = ((read_waveform(path, WHISPER_HZ), plain(t)) for path, t in texts.items())
        scores[name] = word_errors(ears, recordings)
        log.info("%s: %s", name, scores[name])
    if slots := orders(real_speech):
        heard = [ears.hear(read_waveform(path, WHISPER_HZ)) for path in slots]
        scores["orders"] = slots_found(list(slots.values()), heard) | {
            "recordings": len(slots),
            "examples": list(zip(slots.values(), heard, strict=True))[:8],
        }
        log.info("orders: %s", scores["orders"])
    return scores


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Measure the transcription of the ears.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument(
        "--ears",
        type=Path,
        default=Path("ears_best.pt"),
        help="checkpoint, relative to the data folder",
    )
    parser.add_argument("--real-speech", type=Path, help="folder of recordings of people")
    parser.add_argument(
        "--audio-encoder", default=PACKAGED, help="Whisper folder that the ears were trained from"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    path = args.work / args.ears
    scores = score(load_ears(path, args.audio_encoder), args.work, args.real_speech)
    output = path.with_name(f"{path.stem}_scores.json")
    output.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
