# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Divide stereo conversations into turns, as a manifest for ``data_process.py``.

    python process/stereo_manifest.py conversations.jsonl --out data/conversations

Conversations are in the layout of moshi-finetune: JSON lines with ``path`` of a stereo file (left
the assistant, right the user), and beside each file a JSON file of the same name, whose
``alignments`` are ``[word, [start_s, end_s], speaker]``. Where no words of the user are given, the
user's turns are found by the level of the right channel. Every answer becomes a row, with the turns
before it as its history. Rows need one conversation in memory at a time.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(Path(__file__).parents[2]))

from funaudiochat.audio import save_wav  # noqa: E402
from funaudiochat.constants import INPUT_RATE_HZ  # noqa: E402
from funaudiochat.errors import FunAudioChatError  # noqa: E402

ASSISTANT = "SPEAKER_MAIN"
# Words of a speaker closer than this belong to one turn, unless the other speaks in between.
_GAP_S = 1.5
_FRAME = INPUT_RATE_HZ // 50
# Frames this far below the loudest one (40 dB) are silence.
_SILENCE_RATIO = 0.01
_MARGIN_S = 0.1
# Backchannels and clicks are not questions.
_SHORTEST_QUESTION_S = 0.3


@dataclass
class Words:
    """Consecutive words of the assistant, with their start and end in seconds."""

    text: str
    start_s: float
    end_s: float


def read_words(path: Path) -> tuple[list[Words], list[tuple[str, float, float]]]:
    """Read the words of the assistant and of the user, each as (text, start, end) in seconds.

    Raises:
        ValueError: the file is not a JSON object with ``alignments`` as described above.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["alignments"]
        words = [(str(w), float(a), float(b), str(who)) for w, (a, b), who in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} has no alignments of words ({error!r})") from error
    if any(not 0 <= start <= end for _, start, end, _ in words):
        raise ValueError(f"{path.name} has a word whose end is before its start")
    words.sort(key=lambda word: word[1])
    return (
        [Words(w, a, b) for w, a, b, who in words if who == ASSISTANT],
        [(w, a, b) for w, a, b, who in words if who != ASSISTANT],
    )


def _speech(channel: np.ndarray, start_s: float, end_s: float) -> tuple[float, float] | None:
    """Return start and end of what is not silent between two times, None if all is."""
    first = int(start_s * INPUT_RATE_HZ)
    part = channel[first : int(end_s * INPUT_RATE_HZ)]
    frames = part[: len(part) // _FRAME * _FRAME].reshape(-1, _FRAME)
    threshold = max(1e-3, _SILENCE_RATIO * float(np.abs(channel).max(initial=0.0)))
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > threshold)
    if not len(loud):
        return None
    ends = first / INPUT_RATE_HZ + np.array([loud[0], loud[-1] + 1]) * _FRAME / INPUT_RATE_HZ
    if ends[1] - ends[0] < _SHORTEST_QUESTION_S:
        return None
    return max(start_s, ends[0] - _MARGIN_S), min(end_s, ends[1] + _MARGIN_S)


def turns(words: list[Words], user: np.ndarray) -> list[tuple[tuple[float, float], Words]]:
    """Return the question's start and end, and the answer, of every turn.

    What the assistant says before the first question is left out, and what it says without a
    question before it is part of its previous answer.

    Args:
        words: of the assistant, in the order of their starts.
        user: [samples] the right channel at 16 kHz.
    """
    found: list[tuple[tuple[float, float], Words]] = []
    heard_s = 0.0
    for word in words:
        pause = not found or word.start_s - found[-1][1].end_s > 0.2
        question = _speech(user, heard_s, word.start_s) if pause else None
        if question is not None:
            found.append((question, Words(word.text, word.start_s, word.end_s)))
        elif found and word.start_s - found[-1][1].end_s <= _GAP_S:
            answer = found[-1][1]
            answer.text, answer.end_s = f"{answer.text} {word.text}", word.end_s
        else:
            continue
        heard_s = word.end_s
    return found


def conversation_rows(audio: Path, out: Path, name: str) -> Iterator[dict[str, Any]]:
    """Write the turns of a conversation as WAV files and yield their manifest rows.

    Raises:
        ValueError: the file is not stereo audio, or its words cannot be read.
    """
    words, said = read_words(audio.with_suffix(".json"))
    try:
        waveform, rate_hz = soundfile.read(audio, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{audio.name} cannot be read: {error}") from error
    if waveform.shape[1] != 2:
        raise ValueError(f"{audio.name} has {waveform.shape[1]} channels, not 2")
    assistant, user = soxr.resample(waveform, rate_hz, INPUT_RATE_HZ).T
    if words and words[-1].end_s > len(waveform) / rate_hz + 1:
        raise ValueError(f"{audio.name} ends before its last word")
    history: list[dict[str, str]] = []
    for index, ((start_s, end_s), answer) in enumerate(turns(words, user)):
        row = {
            "question_text": " ".join(w for w, a, _ in said if start_s <= a < end_s),
            "answer_text": answer.text,
        }
        for side, channel, times in (
            ("question", user, (start_s, end_s)),
            ("answer", assistant, (answer.start_s - _MARGIN_S, answer.end_s + _MARGIN_S)),
        ):
            first, last = (max(0, int(time * INPUT_RATE_HZ)) for time in times)
            row[f"{side}_audio"] = f"{name}_{index}_{side}.wav"
            save_wav(out / row[f"{side}_audio"], channel[first:last], INPUT_RATE_HZ)
        yield {**row, "history": list(history)} if history else row
        history.append(
            {key: row[key] for key in ("question_audio", "question_text", "answer_text")}
        )


def convert(conversations: Path, out: Path) -> tuple[int, list[str]]:
    """Write ``manifest.jsonl`` and its audio; return the number of rows and what was skipped.

    Raises:
        FunAudioChatError: the list of conversations cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, problems = 0, []
    try:
        lines = conversations.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise FunAudioChatError(f"{conversations} cannot be read: {error}") from error
    with (out / "manifest.jsonl").open("w", encoding="utf-8") as manifest:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                path = conversations.parent / json.loads(line)["path"]
                for row in list(conversation_rows(path, out, f"{number}")):
                    manifest.write(json.dumps(row, ensure_ascii=False) + "\n")
                    rows += 1
            except (ValueError, KeyError, TypeError) as error:
                problems.append(f"row {number}: {error}")
    return rows, problems


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Divide stereo conversations into turns.")
    parser.add_argument("conversations", type=Path, help="JSONL with the paths of stereo files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    rows, problems = convert(args.conversations, args.out)
    for problem in problems:
        print(f"skipped: {problem}")
    print(f"{rows} rows in {args.out / 'manifest.jsonl'}; {len(problems)} conversations skipped")


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
