# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a judge's reply says: a number or a verdict, None where it cannot be read."""

import ast
import json
import re
from typing import Any

_RATING = re.compile(r"\[\[(\d+)\]\]")
_CORRECTNESS = re.compile(r"[Tt]he score is \[(Correct|Incorrect|correct|incorrect)\]")
_GRADE = re.compile(r"\[([0-5])\]")
_DOUBLE_BRACKETS = re.compile(r"\[\[([^\[\]]*)\]\]")
_ASPECTS = ("correctness", "relevance", "completeness", "clarity")
_MIDDLE = 3.0  # what an aspect that is not named counts


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None  # also drops nan and inf


def rating_1_to_5(reply: str) -> float | None:
    """VoiceBench: the reply is a number, or holds ``[[n]]``; its scale is not enforced."""
    value = _number(reply.strip())
    if value is None and (found := _RATING.search(reply)):
        value = _number(found[1])
    return value


def rating_1_to_10(reply: str) -> int | None:
    """AlpacaEval: the first ``[[n]]``."""
    found = _RATING.search(reply)
    value = int(found[1]) if found and len(found[1]) < 4 else 0
    return value if 1 <= value <= 10 else None


def is_yes(reply: str) -> bool | None:
    """The last line holds "yes", or else "no" (which "unknown" does too)."""
    last = reply.strip().lower().split("\n")[-1]
    if "yes" in last:
        return True
    return False if "no" in last else None


def is_scored_correct(reply: str) -> bool | None:
    """Llama Questions: the first ``the score is [Correct]`` or ``[Incorrect]``."""
    found = _CORRECTNESS.search(reply)
    return found[1].lower() == "correct" if found else None


def grade_0_to_5(reply: str) -> int | None:
    """Reasoning QA: the last ``[n]``."""
    found = _GRADE.findall(reply)
    return int(found[-1]) if found else None


def is_judged_correct(reply: str) -> bool | None:
    """TriviaQA, Web Questions: ``judgment`` of the object from the first ``{`` to the first ``}``.

    The published script runs that text as code; here it is JSON or a literal. Any other judgment
    than "correct", in whatever words, counts as wrong.
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
    """MMAU-Pro: the four aspects and the overall score of an open answer."""
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
    """VStyle: the last ``[[x]]`` that is a number, else the whole reply if it is one, else ""."""
    for text in reversed(_DOUBLE_BRACKETS.findall(reply)):
        if _number(text.strip()) is not None:
            return text.strip()
    whole = reply.strip()
    return whole if _number(whole) is not None else ""
