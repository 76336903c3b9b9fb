# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Wordings: templates with slots and alternatives, and how people say them.

A template holds slots, ``{x}`` or in a form as ``{x:a}``, and alternatives, ``(a|b)``.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from training.nano.words import normalized_words, number_words, with_article

FRAMED_SHARE = 0.5  # share of framed wordings of an intent that fits the frames
PARTS = ("train", "valid", "test")
# Share of the training questions that are not said fluently, and how they differ.
DELIVERED_SHARE = 0.3
_WAYS = {"before": 0.4, "pause": 0.2, "restart": 0.15, "correction": 0.15, "after": 0.1}

Row = dict[str, Any]
_SLOT = re.compile(r"\{([\w:]+)\}")
_SENTENCE_START = re.compile(r"(?:^|[.?!] )[a-z]")


def variants(template: str) -> list[str]:
    """Expand a template into all its wordings: ``(a|b)`` means either."""
    pieces = re.split(r"\(([^()]*\|[^()]*)\)", template)
    options = [p.split("|") if i % 2 else [p] for i, p in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*options)]


def insert(template: str, row: Row) -> str:
    """Insert slot values, numbers as words: ``{x}``, or one of :data:`FORMS` as ``{x:a}``."""

    def value(match: re.Match[str]) -> str:
        name, _, form = match.group(1).partition(":")
        text = number_words(row[name]) if isinstance(row[name], int) else row[name]
        return FORMS[form](text)

    return _SLOT.sub(value, template)


def fill(template: str, row: Row) -> str:
    """Insert slot values and capitalise the start of sentences."""
    return _SENTENCE_START.sub(lambda m: m.group(0).upper(), insert(template, row))


FORMS: dict[str, Callable[[str], str]] = {
    "": str,
    "a": with_article,
    "s": lambda text: text + ("'" if text.endswith("s") else "'s"),
    "h": lambda text: text + (" hour" if text == "one" else " hours"),
}


def spoken_form(template: str) -> str:
    """Reduce a wording to what is audible, without punctuation and capitals."""
    return " ".join(re.sub(r"[^a-z{}:_' ]", " ", template.lower()).split())


def holds_keys(text: str, keys: list[str]) -> bool:
    """Check whether a text or transcript contains every key word for word."""
    words = f" {' '.join(normalized_words(text))} "
    return all(f" {' '.join(normalized_words(key))} " in words for key in keys)


@dataclass
class Wordings:
    """Wordings of a question, its own and those in frames; each is a list of variants."""

    own: list[list[str]]
    framed: list[list[str]]

    def __iter__(self) -> Iterator[str]:
        """Yield every wording once; wordings with the same spoken form are the same."""
        found: dict[str, str] = {}
        for wording in itertools.chain(*self.own, *self.framed):
            found.setdefault(spoken_form(wording), wording)
        return iter(found.values())

    def pick(self, rng: Random) -> str:
        """Draw a wording; the number of its variants does not make it more likely."""
        framed = self.framed and (not self.own or rng.random() < FRAMED_SHARE)
        return rng.choice(rng.choice(self.framed if framed else self.own))


def all_wordings(spec: dict[str, Any], frames: dict[str, Any]) -> dict[str, Wordings]:
    """Build the wordings of every part: an intent's own, and its pieces in frames.

    Test wordings are removed from validation and training, validation wordings from training.
    """
    taken: set[str] = set()
    found = {}
    for part in reversed(PARTS):
        own = [variants(template) for template in spec.get(part, [])]
        framed = [
            variants(frame.replace(f"{{{kind}}}", piece))
            for kind, forms in frames.items()
            for piece in spec.get(kind, [])
            for frame in forms[part]
        ]
        own, framed = (
            [
                left
                for group in groups
                if (left := [t for t in group if spoken_form(t) not in taken])
            ]
            for groups in (own, framed)
        )
        found[part] = Wordings(own, framed)
        taken |= set(map(spoken_form, found[part]))
    return found


class Delivery:
    """Varies questions as people say them: hesitations, restarts, corrections.

    Args:
        spec: ``delivery`` of the domain file.
    """

    def __init__(self, spec: dict[str, list[str]]) -> None:
        self.spec = spec

    def say(self, template: str, slip: str, framed: bool, rng: Random) -> str:
        """Vary the template as people say it; mostly keep it unchanged.

        Args:
            template: a wording.
            slip: the mistaken wording and what was meant, on two lines, or empty.
            framed: whether it is a request, so that "please" may follow.
            rng: source of every draw.
        """
        way = rng.choices(list(_WAYS), list(_WAYS.values()))[0]
        words = template.split(" ")
        if rng.random() >= DELIVERED_SHARE:
            return template
        if way == "pause" and len(words) > 3:
            place = rng.randrange(1, len(words))
            return " ".join([*words[:place], rng.choice(self.spec["pauses"]), *words[place:]])
        if way == "restart" and len(words) > 4:
            begun = " ".join(words[: rng.randint(2, min(4, len(words) - 2))]).rstrip(",.?!")
            return f"{begun}, {rng.choice(self.spec['restarts'])} {template}"
        if way == "correction" and slip:
            wrong, meant = slip.split("\n")
            correction = rng.choice(self.spec["corrections"])
            return f"{wrong.rstrip('.?!')}, {correction} {meant}{template[-1]}"
        if way == "after" and framed and not re.search("please|thank", template):
            return f"{template[:-1]}, {rng.choice(self.spec['after'])}{template[-1]}"
        return f"{rng.choice(self.spec['before'])} {template}"
