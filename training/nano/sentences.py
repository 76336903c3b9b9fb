# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentences to train the ears on: open text, the domain's questions, coffee orders, symbols.

A sentence is a function of (seed, index) and the open text alone, so a data set grows by raising
the index. Transcripts consist of lower-case letters, apostrophes and spaces.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from training.nano.domain import Domain, unit_hash
from training.nano.drawn import order, symbols

# Shares of the kinds; the share of a kind that is not available goes to the others.
SHARES = {"open": 0.38, "question": 0.28, "order": 0.2, "symbols": 0.14}
SCRAMBLED_SHARE = 0.25  # of the questions
OPEN_WORDS = range(3, 14)
HELD_OUT = 0.01  # share of the open text that is never trained on


@dataclass(frozen=True)
class Sentence:
    """A text to synthesise, and its transcript.

    Attributes:
        kind: a key of ``SHARES``.
        said: text for a voice; letters are upper case and stand apart.
        heard: the transcript: lower-case letters, apostrophes and spaces.
    """

    kind: str
    said: str
    heard: str


def plain(text: str) -> str:
    """Normalise a text to lower-case letters, apostrophes inside words, and single spaces."""
    text = re.sub(r"[^a-z' ]", " ", text.lower().replace("’", "'"))
    return " ".join(word for part in text.split() if (word := part.strip("'")))


def open_text(files: Iterable[Path], held_out: bool = False) -> list[str]:
    """List the unique sentences of 3 to 13 words of ASCII letters, in a fixed order."""
    lines = {line.strip() for path in files for line in path.read_text("utf-8").splitlines()}
    return sorted(
        line
        for line in lines
        if re.fullmatch(r"[A-Za-z' ,.;:?!\"’-]+", line)
        and len(line.split()) in OPEN_WORDS
        and (unit_hash("open", line) < HELD_OUT) == held_out
    )


class Sentences:
    """Numbered sentences of all kinds.

    Args:
        texts: open sentences; if empty, that kind is left out.
        domain: source of the questions.
        wording: split of the domain that the questions come from.
        seed: seed of every draw.
    """

    def __init__(
        self, texts: list[str], domain: Domain, wording: str = "train", seed: int = 0
    ) -> None:
        self.texts, self.domain, self.wording, self.seed = texts, domain, wording, seed
        words = {w for text in texts for w in plain(text).split()}
        self.words = sorted(w for w in words if w.isalpha() and 2 < len(w) < 11)
        self.shares = {k: s for k, s in SHARES.items() if k != "open" or texts}

    def __getitem__(self, index: int) -> Sentence:
        rng = Random(f"{self.seed}/sentence/{self.wording}/{index}")
        kind = rng.choices(list(self.shares), list(self.shares.values()))[0]
        if kind == "symbols":
            said = symbols(self.words, rng)
            return Sentence(kind, said, plain(said))
        if kind == "open":
            text = rng.choice(self.texts)
        elif kind == "order":
            text = order(rng)[0]
        else:
            text = self._question(rng)
        return Sentence(kind, text, plain(text))

    def _question(self, rng: Random) -> str:
        scrambled = self.wording == "train" and rng.random() < SCRAMBLED_SHARE
        split = "scrambled" if scrambled else self.wording
        messages = self.domain.dialogue(split, rng.randrange(10**6)).messages
        return rng.choice([m.text for m in messages if m.role == "user"])
