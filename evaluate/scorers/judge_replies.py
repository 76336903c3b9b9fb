# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Parsers of judge replies: a number or a decision, None if a reply cannot be parsed."""

import ast
import json
import re
from typing import Any

_RATING = re.compile(r"\[\[(\d+)\]\]")
_CORRECTNESS = re.compile(r"[Tt]he score is \[(Correct|Incorrect|correct|incorrect)\]")
_GRADE = re.compile(r"\[([0-5])\]")
_DOUBLE_BRACKETS = re.compile(r"\[\[([^\[\]]*)\]\]")
_ASPECTS = ("correctness", "relevance", "completeness", "clarity")
_MIDDLE = 3.0  # score of an aspect that is not rated


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None  # also drops nan and inf


def rating_1_to_5(reply: str) -> float | None:
    """Parse a VoiceBench rating: a bare number, or ``[[n]]``; the scale is not enforced."""
    value = _number(reply.strip())
    if value is None and (found := _RATING.search(reply)):
        value = _number(found[1])
    return value


def rating_1_to_10(reply: str) -> int | None:
    """Parse an AlpacaEval rating: the first ``[[n]]``."""
    found = _RATING.search(reply)
    value = int(found[1]) if found and len(found[1]) < 4 else 0
    return value if 1 <= value <= 10 else None


def is_yes(reply: str) -> bool | None:
    """Search the last line for "yes", or else for "no" (which "unknown" contains, too)."""
    last = reply.strip().lower().split("\n")[-1]
    if "yes" in last:
        return True
    return False if "no" in last else None


def is_scored_correct(reply: str) -> bool | None:
    """Parse Llama Questions: the first ``the score is [Correct]`` or ``[Incorrect]``."""
    found = _CORRECTNESS.search(reply)
    return found[1].lower() == "correct" if found else None


def grade_0_to_5(reply: str) -> int | None:
    """Parse a Reasoning QA grade: the last ``[n]``."""
    found = _GRADE.findall(reply)
    return int(found[-1]) if found else None


def is_judged_correct(reply: str) -> bool | None:
    """Parse TriviaQA and Web Questions: ``judgment`` of the first object in braces.

    The object reaches from the first ``{`` to the first ``}``. The published script evaluates it as
    code; here it must be JSON or a Python literal. Any judgment other than "correct" is wrong.
    """
    start, end = reply.find("{"), reply.find("}")
    if start < 0 or end < start:
        return None
    fields = _literal(reply[start : end + 1])
    if not isinstance(fields, dict) or "judgment" not in fields:
        return None
    return str(fields["judgment"]).strip().lower() == "correct"


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def open_answer_scores(reply: str) -> dict[str, float]:
    """Parse MMAU-Pro: the four aspects and the overall score of an open answer."""
    scores = {}
    for aspect in _ASPECTS:
        found = re.search(rf"{aspect}:\s*(\d+)", reply, re.IGNORECASE)
        scores[aspect] = float(found[1]) if found else _MIDDLE
    found = re.search(r"overall:\s*(\d+(?:\.\d+)?)", reply, re.IGNORECASE)
    scores["overall"] = float(found[1]) if found else _MIDDLE
    if scores["overall"] == _MIDDLE:
        scores["overall"] = sum(scores[aspect] for aspect in _ASPECTS) / len(_ASPECTS)
    return scores


def vstyle_score(reply: str) -> str:
    """Parse VStyle: the last numeric ``[[x]]``, else the whole reply if it is a number, else ""."""
    for text in reversed(_DOUBLE_BRACKETS.findall(reply)):
        if _number(text.strip()) is not None:
            return text.strip()
    whole = reply.strip()
    return whole if _number(whole) is not None else ""
