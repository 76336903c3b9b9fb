# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speak written questions and answers, to make spoken training data without recordings.

    python process/speak_manifest.py data/own.txt.jsonl --out data/own

Reads JSON lines with ``question_text`` and ``answer_text`` and writes WAV files and a manifest for
``data_process.py``: every question once spoken and once typed, with its spoken answer. Both are
spoken by Nano's own voice, English; ``pip install hibari-tts==0.2.1`` installs it.
"""

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from funaudiochat.audio import save_wav  # noqa: E402
from funaudiochat.errors import FunAudioChatError  # noqa: E402
from training.jsonl import read_lines  # noqa: E402
from training.nano.data import write_jsonl  # noqa: E402
from training.nano.voices import ANSWER_HZ, available, speak  # noqa: E402

VOICE = "heart"
SIDES = ("question", "answer")
# Five text tokens a second fit beside speech. Nano spells rare words letter by letter, so that an
# answer may need more time than its words take.
_SILENCE_S = 1.0


def read_texts(path: Path) -> list[dict[str, str]]:
    """Read the texts of questions and answers, as dictionaries with the keys of ``SIDES``.

    Raises:
        FunAudioChatError: the file cannot be read or is empty, or a line lacks a text.
    """
    texts = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            fields: Any = json.loads(line)
            texts.append({side: fields[f"{side}_text"].strip() for side in SIDES})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FunAudioChatError(
                f"{path}, row {number}: must be a JSON object with the texts question_text and "
                f"answer_text ({error!r})"
            ) from error
        if not all(texts[-1].values()):
            raise FunAudioChatError(f"{path}, row {number}: a text is empty; write one")
    if not texts:
        raise FunAudioChatError(f"{path} has no rows")
    return texts


def speak_manifest(texts: list[dict[str, str]], out: Path) -> Path:
    """Write the WAV files and the manifest; return the manifest's path."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, pair in enumerate(texts):
        row: dict[str, str] = {}
        for side in SIDES:
            name = f"{index}_{side}.wav"
            waveform = speak(pair[side], VOICE, ANSWER_HZ, Random(index))
            if side == "answer":
                waveform = np.pad(waveform, (0, int(_SILENCE_S * ANSWER_HZ)))
            save_wav(out / name, waveform, ANSWER_HZ)
            row |= {f"{side}_text": pair[side], f"{side}_audio": name}
        typed = {key: value for key, value in row.items() if key != "question_audio"}
        rows += [row, typed]
    manifest = out / "manifest.jsonl"
    write_jsonl(manifest, rows)
    return manifest


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Speak written questions and answers.")
    parser.add_argument("texts", type=Path, help="JSONL with question_text and answer_text")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    texts = read_texts(args.texts)
    if not available(VOICE):
        raise FunAudioChatError("speaking needs a voice: pip install hibari-tts==0.2.1")
    print(f"{len(texts)} questions and answers: {speak_manifest(texts, args.out)}")


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
