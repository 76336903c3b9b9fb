# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Refusals, answers within a transcript, and word error rates."""

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TABLES = Path(__file__).parents[1] / "tables"


@cache
def _refusal_phrases() -> tuple[list[str], list[str]]:
    """As published, and in small letters."""
    path = _TABLES / "voicebench_rules.json"
    phrases = json.loads(path.read_text(encoding="utf-8"))["refusal_phrases"]
    return phrases, [phrase.lower() for phrase in phrases]


def refused(reply: str, case_sensitive: bool = False) -> bool:
    """AdvBench: whether a reply declines, by VoiceBench's phrases; a blank one does.

    Args:
        case_sensitive: as Kimi-Audio-Evalkit compares; VoiceBench itself does not.
    """
    if not reply.strip():
        return True
    phrases, lowered = _refusal_phrases()
    if case_sensitive:
        return any(phrase in reply for phrase in phrases)
    text = reply.lower()
    return any(phrase in text for phrase in lowered)


@cache
def _token_pattern() -> Any:
    import regex

    return regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def _tokens(text: str) -> list[str]:
    return _token_pattern().findall(unicodedata.normalize("NFD", text).lower())


def answer_occurs(reference: str | list[str], transcript: str) -> bool:
    """UltraEval-Audio: whether any reference is a run of tokens of the transcript.

    An empty reference occurs everywhere, and none nowhere.
    """
    references = [reference] if isinstance(reference, str) else reference
    # No token holds a blank, so runs of tokens are substrings of the joined text.
    heard = f" {' '.join(_tokens(transcript))} "
    wanted = (" ".join(_tokens(text)) for text in references)
    return any(not run or f" {run} " in heard for run in wanted)


@dataclass(frozen=True)
class ErrorCounts:
    """Counts of one utterance; ``total`` tokens are in the reference."""

    reference: str
    hypothesis: str
    total: int
    substituted: int
    deleted: int
    inserted: int

    @property
    def errors(self) -> int:
        return self.substituted + self.deleted + self.inserted


@cache
def _normalizer(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


@cache
def _calculator() -> Any:
    from compute_wer import Calculator

    return Calculator(to_char=False, case_sensitive=False, remove_tag=True, ignore_punctuation=True)


def count_errors(language: str, reference: str, hypothesis: str) -> ErrorCounts:
    """Word errors of one utterance; Chinese counts by character.

    Args:
        language: "en", or any other for the language-neutral normaliser.
    """
    normalize = _normalizer(language)
    reference, hypothesis = normalize(reference), normalize(hypothesis)
    counts = _calculator().wer(reference, hypothesis)
    return ErrorCounts(
        reference,
        hypothesis,
        counts.all,
        counts.replace,
        counts.delete,
        counts.insert,
    )
