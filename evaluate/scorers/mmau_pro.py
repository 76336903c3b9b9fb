# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMAU-Pro's 27 instruction-following checks.

The original rules are published as code without a licence. Known here are recorded verdicts, that
sections are counted exactly, and that highlights may span lines. Where neither applies,
placeholders, titles, bullets and two responses follow IFEval, from which the tasks are derived.
"""

import re
from collections.abc import Callable
from typing import Any

from evaluate.scorers.sentences import count_sentences

_Kwargs = dict[str, Any]


def _plain(text: str) -> str:
    """Convert to lower case, remove punctuation and collapse whitespace."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def _listed(text: Any) -> list[str]:
    items = text.split(",") if isinstance(text, str) else text
    return [str(item).strip().lower() for item in items]


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _words(text: str) -> int:
    return len(text.split())


def _capital_words(text: str) -> int:
    return sum(word.isupper() for word in text.split())


def _keyword_count(text: str, keyword: str) -> int:
    return len(re.findall(rf"\b{re.escape(keyword.lower())}\b", text.lower()))


def _differ(parts: list[str]) -> bool:
    return len(parts) == 2 and parts[0].lower() != parts[1].lower()


def _two_responses(text: str) -> bool:
    """Check for two different responses; empty ones are allowed only at either end."""
    parts = [part.strip() for part in text.split("******")]
    return all(parts[1:-1]) and _differ([part for part in parts if part])


def _titled(text: str) -> bool:
    return any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _quoted(text: str) -> bool:
    return len(text) > 1 and text.startswith('"') and text.endswith('"')


# task -> check(reply, settings); the task that needs the question is handled separately.
_CHECKS: dict[str, Callable[[str, _Kwargs], bool]] = {
    "Include Keywords": lambda r, k: all(w in r.lower() for w in _listed(k["keywords"])),
    "Keyword Frequency": lambda r, k: _keyword_count(r, k["keyword"]) == int(k["N"]),
    "Forbidden Words": lambda r, k: not any(w in r.lower() for w in _listed(k["forbidden_words"])),
    "Number Paragraphs": lambda r, k: len(_parts(r, "***")) == int(k["N"]),
    "Postscript": lambda r, k: _letters(k["postscript_marker"]) in _letters(r),
    "Number Placeholder": lambda r, k: len(re.findall(r"\[.*?\]", r)) >= int(k["N"]),
    "Number Bullets": lambda r, k: len(re.findall(r"(?m)^\s*\*[^*].*$", r)) == int(k["N"]),
    "Title": lambda r, k: _titled(r),
    "Minimum Number Highlighted Section": lambda r, k: (
        len(re.findall(r"\*[^*]+\*", r)) >= int(k["N"])
    ),
    "Multiple Sections": lambda r, k: len(_parts(r, k["section_splitter"])) == int(k["N"]),
    "Two Responses": lambda r, k: _two_responses(r),
    "All Uppercase": lambda r, k: r.isupper(),
    "All Lowercase": lambda r, k: r.islower(),
    "Start Checker": lambda r, k: _plain(r).startswith(_plain(k["start_phrase"])),
    "End Checker": lambda r, k: _plain(r).endswith(_plain(k["end_phrase"])),
    "Quotation": lambda r, k: _quoted(r),
    "No Commas": lambda r, k: "," not in r,
}

_COUNTED: dict[str, Callable[[str], int]] = {
    "Number Words": _words,
    "Number Sentences": count_sentences,
    "All-capital Words": _capital_words,
}
_BOUND = re.compile(r"(.+) \((at least|at most|range)\)")


def follows(task: str, kwargs: _Kwargs, question: str, reply: str) -> bool:
    """Check whether a reply follows the instruction; an unknown task counts as not followed.

    Raises:
        KeyError: a setting of the task is missing.
        ValueError: a setting of the task is not a number.
    """
    reply = reply.strip()
    if task == "Repeat Prompt":
        return reply.lower().startswith(question.strip().lower())
    bound = _BOUND.fullmatch(task)
    if bound and bound[1] in _COUNTED:
        count = _COUNTED[bound[1]](reply)
        if bound[2] == "range":
            return int(kwargs["N1"]) <= count <= int(kwargs["N2"])
        limit = int(kwargs["N"])
        return count >= limit if bound[2] == "at least" else count <= limit
    check = _CHECKS.get(task)
    return check is not None and check(reply, kwargs)
