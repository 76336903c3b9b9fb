# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Detection of the option that a reply chooses, by the rules of VoiceBench, MMAU and MMSU."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

LETTERS = "ABCD"
_TABLES = Path(__file__).parents[1] / "tables"
_WORD = re.compile(r"\b\w+\b")
_BARE_LETTER = re.compile(r"\s*\(?([A-D])(?:[).:]|\s*$)")


@cache
def _templates() -> list[str]:
    path = _TABLES / "voicebench_rules.json"
    return json.loads(path.read_text(encoding="utf-8"))["choice_templates"]


def without_tag(reply: str) -> str:
    """Remove the leading turn tag that some models of VoiceBench produce."""
    return reply[3:].strip() if reply.startswith(("<1>", "<2>", "<3>")) else reply


def voicebench_letter(reply: str) -> str | None:
    """Return the letter A to D that a reply to a spoken multiple-choice question gives, if any."""
    text = without_tag(reply.lower())
    for template in _templates():
        for letter in "abcd":
            if template.replace("[CHOICE]", letter) in text:
                return letter.upper()
    for letter in "abcd":
        if text == letter or any(text.startswith(letter + mark) for mark in ".,:)"):
            return letter.upper()
    return None  # the remaining special cases of the published scorer are unreachable


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def mmau_match(answer: str, choices: list[str], reply: str) -> bool:
    """Apply MMAU's string match: all words of the answer, and none found only in wrong choices."""
    given, wanted = _words(reply), _words(answer)
    others = set[str]().union(*(_words(choice) for choice in choices))
    return bool(given) and wanted <= given and not given & (others - wanted)


def mmsu_letter(reply: str) -> str | None:
    """Apply MMSU's own rule: the first or else the second to last character, if it is A to D."""
    text = reply.strip().replace("\n", "")
    if text[:1] and text[0] in LETTERS:
        return text[0]
    if len(text) > 1 and text[-2] in LETTERS:
        return text[-2]
    return None


def mmsu_bridged_letter(reply: str, choices: list[str | None]) -> str | None:
    """Return a bracketed letter or that of a choice's text; else apply MMSU's own rule."""
    lettered = _BARE_LETTER.match(reply)
    if lettered is not None:
        return lettered[1]
    same = [
        letter
        for letter, choice in zip(LETTERS, choices, strict=False)
        if choice is not None and choice.strip().lower() == reply.strip().lower()
    ]
    return same[0] if len(same) == 1 else mmsu_letter(reply)


def mmsu_reference_verdicts(records: list[dict[str, Any]]) -> list[bool | None]:
    """Score replies in file order by MMSU's own rule: correct, wrong, or None for not counted.

    An empty reply inherits the letter of the previous record, as in the published script; where
    that would crash, on the first record, the reply is wrong.
    """
    verdicts: list[bool | None] = []
    letter: str | None = None
    for record in records:
        reply = str(record["response"]).strip()
        if reply not in ("", "None"):
            found = mmsu_letter(reply)
            if found is None:
                verdicts.append(None)
                continue
            letter = found
        chosen = record.get(f"choice_{letter.lower()}") if letter else object()
        verdicts.append(chosen == record["answer_gt"])
    return verdicts
