# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn recordings of a voice into a manifest of sentences to be said in that voice.

    python process/voice_manifest.py recordings --model-path MODEL --out data/voice

``recordings`` holds audio files and, beside each NAME.wav (or .flac), its words in NAME.txt. Writes
``manifest.jsonl`` for ``data_process.py``, in which every sentence is asked for in writing and
answered with its recording, and ``held_out.jsonl`` with every tenth recording (20 at most), which
is not trained on and serves to measure the result.
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from funaudiochat.audio import load_audio, load_audio_and_rate, save_wav  # noqa: E402
from funaudiochat.constants import (  # noqa: E402
    GROUP_SIZE,
    INPUT_RATE_HZ,
    OUTPUT_RATE_HZ,
    STEPS_PER_SECOND,
    TOKEN_FPS,
)
from funaudiochat.errors import AudioError, FunAudioChatError  # noqa: E402
from funaudiochat.plain_text import encode_text  # noqa: E402
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor  # noqa: E402
from training.check_data import DELAY_CODES  # noqa: E402
from training.nano.data import write_jsonl  # noqa: E402

REQUEST = "Say: "  # Nano was trained to read aloud what follows
SUFFIXES = (".wav", ".flac")
HELD_OUT_EVERY, MOST_HELD_OUT = 10, 20
_SHORTEST_S, _LONGEST_S = 0.3, 30.0
_TOLD = 10


def read_recordings(folder: Path) -> list[tuple[Path, str]]:
    """Return the recordings of a folder with their texts, by name.

    Raises:
        FunAudioChatError: the folder has no recordings, or some cannot be used; it names them.
    """
    found: list[tuple[Path, str]] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in SUFFIXES:
            try:
                found.append((path, _text_of(path)))
                _check(path)
            except (AudioError, OSError, ValueError) as error:
                problems.append(f"{path.name}: {error}")
    if problems:
        more = f"\n... and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        raise FunAudioChatError(
            f"{len(problems)} of {len(found)} recordings in {folder} cannot be used; correct or "
            "remove them:\n" + "\n".join(problems[:_TOLD]) + more
        )
    if len(found) < 2:
        raise FunAudioChatError(
            f"{folder} holds {len(found)} recordings; put NAME.wav and NAME.txt there, two at least"
        )
    return found


def _text_of(path: Path) -> str:
    """Return the words of a recording; raise ValueError if there are none."""
    words = path.with_suffix(".txt")
    if not words.is_file():
        raise ValueError(f"its words are missing; write them to {words.name}")
    text = " ".join(words.read_text(encoding="utf-8").split())
    if not text:
        raise ValueError(f"{words.name} is empty; write its words there")
    return text


def _check(path: Path) -> None:
    """Raise AudioError or ValueError if a voice cannot be learned from a recording."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        waveform, rate_hz = load_audio_and_rate(path)
    seconds = len(waveform) / rate_hz
    if told:
        raise ValueError(str(told[0].message))
    if rate_hz < INPUT_RATE_HZ:
        raise ValueError(f"has a sample rate of {rate_hz:g} Hz; record at 16 kHz or more")
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise ValueError(
            f"is {seconds:.1f} s long; divide recordings into sentences of {_SHORTEST_S:g} to "
            f"{_LONGEST_S:g} s"
        )


def voice_manifest(recordings: list[tuple[Path, str]], tokenizer: Any, out: Path) -> Path:
    """Write audio files at 24 kHz and both manifests; return that of the training rows.

    A recording whose text has more tokens than its speech has groups is followed by silence, as the
    model writes one text token in the time of a group.

    Args:
        recordings: audio files and texts.
        tokenizer: of the model that is to be trained.
        out: folder to write.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    held_out: list[dict[str, str]] = []
    for number, (path, text) in enumerate(recordings):
        name = f"{number:05d}.wav"
        waveform = load_audio(path, OUTPUT_RATE_HZ)
        if number % HELD_OUT_EVERY == 1 and len(held_out) < MOST_HELD_OUT:
            held_out.append({"audio": name, "text": text})
        else:
            # The end of the text is a token, too.
            seconds = (len(encode_text(tokenizer, text)) + 1) / STEPS_PER_SECOND
            seconds -= DELAY_CODES / TOKEN_FPS - GROUP_SIZE / TOKEN_FPS
            waveform = np.pad(
                waveform, (0, max(0, round(seconds * OUTPUT_RATE_HZ) - len(waveform)))
            )
            rows.append(
                {"question_text": REQUEST + text, "answer_text": text, "answer_audio": name}
            )
        save_wav(out / name, waveform, OUTPUT_RATE_HZ)
    for file, content in (("manifest.jsonl", rows), ("held_out.jsonl", held_out)):
        write_jsonl(out / file, content)
    return out / "manifest.jsonl"


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Make a manifest of recordings of a voice.")
    parser.add_argument("recordings", type=Path, help="folder of NAME.wav and NAME.txt")
    parser.add_argument("--model-path", type=Path, required=True, help="model to be trained")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    recordings = read_recordings(args.recordings)
    tokenizer = FunAudioChatProcessor.from_pretrained(args.model_path).tokenizer
    print(f"{len(recordings)} recordings: {voice_manifest(recordings, tokenizer, args.out)}")


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
