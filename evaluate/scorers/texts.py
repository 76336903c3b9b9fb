# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Refusals, reference answers in a transcript, and word error rates."""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_TABLES = Path(__file__).parents[1] / "tables"


@cache
def _refusal_phrases() -> tuple[list[str], list[str]]:
    """Load the refusal phrases, as published and in lower case."""
    path = _TABLES / "voicebench_rules.json"
    phrases = json.loads(path.read_text(encoding="utf-8"))["refusal_phrases"]
    return phrases, [phrase.lower() for phrase in phrases]


def refused(reply: str, case_sensitive: bool = False) -> bool:
    """Check whether a reply refuses (AdvBench), by VoiceBench's phrases; a blank reply does.

    Args:
        reply: reply of the model.
        case_sensitive: whether case matters, as in Kimi-Audio-Evalkit but not in VoiceBench.
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
    """Check whether any reference is a run of tokens of the transcript (UltraEval-Audio).

    An empty reference always occurs; an empty list of references never does.
    """
    references = [reference] if isinstance(reference, str) else reference
    # Tokens contain no spaces, so runs of tokens are substrings of the joined text.
    tokens = f" {' '.join(_tokens(transcript))} "
    wanted = (" ".join(_tokens(text)) for text in references)
    return any(not run or f" {run} " in tokens for run in wanted)


@dataclass(frozen=True)
class ErrorCounts:
    """Error counts of one utterance; ``total`` is the number of tokens in the reference."""

    reference: str
    hypothesis: str
    total: int
    substituted: int
    deleted: int
    inserted: int

    @property
    def errors(self) -> int:
        """The number of errors of all kinds."""
        return self.substituted + self.deleted + self.inserted


@cache
def _normalizer(language: str) -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()


@cache
def _calculator() -> Any:
    from compute_wer import Calculator

    return Calculator(to_char=False, case_sensitive=False, remove_tag=True, ignore_punctuation=True)


def count_errors(language: str, reference: str, hypothesis: str) -> ErrorCounts:
    """Count the word errors of one utterance; Chinese is counted by character.

    Args:
        language: "en" for the English normaliser, else the language-neutral one is used.
        reference: expected text.
        hypothesis: recognised text.
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
