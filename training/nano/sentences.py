# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentences for the ears to hear: open text, the domain's questions, coffee orders, symbols.

A sentence is a function of (seed, index) and the open text alone, so a data set grows by raising
the index. What is heard is written in lower-case letters, apostrophes and spaces.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from training.nano.domain import Domain, unit_hash
from training.nano.words import number_words, with_article

# Shares of the kinds; what cannot be drawn leaves its share to the others.
SHARES = {"open": 0.38, "question": 0.28, "order": 0.2, "symbols": 0.14}
SCRAMBLED_SHARE = 0.25  # of the questions
OPEN_WORDS = range(3, 14)
HELD_OUT = 0.01  # share of the open text that is never trained on

SLOTS = {
    "size": (
        "eight ounce", "twelve ounce", "sixteen ounce", "twenty ounce", "small", "medium", "large",
    ),
    "numberOfShots": ("single shot", "double shot", "triple shot"),
    "roast": ("light roast", "medium roast", "dark roast"),
    "coffeeDrink": (
        "americano", "cappuccino", "coffee", "drip coffee", "espresso", "house coffee",
        "iced coffee", "iced mocha", "latte", "mocha",
    ),
    "milkAmount": ("milk", "cream", "whole milk", "skim milk", "soy milk", "almond milk"),
    "sugarAmount": ("sugar", "brown sugar", "sweetener"),
}  # fmt: skip
_AMOUNTS = ("", "", "", "some ", "a bit of ", "a little bit of ", "a lot of ", "lots of ")
_ORDER = (
    "can i get", "can i have", "may i have", "could i have", "i want", "i'd like", "i would like",
    "get me", "give me", "make me", "brew", "brew me",
)  # fmt: skip
_SLOT_SHARES = {"size": 0.55, "numberOfShots": 0.6, "roast": 0.65}
_ADDED_SHARES = {"milkAmount": 0.55, "sugarAmount": 0.6}

_MONTHS = (
    "january february march april may june july august september october november december"
).split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_COMMANDS = "yes no go stop help start repeat erase enter rubout undo cancel next back okay".split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Sentence:
    """What a voice is asked to say, and what there is to hear of it.

    Attributes:
        kind: a key of ``SHARES``.
        said: text for a voice; letters are upper case and stand apart.
        heard: lower-case letters, apostrophes and spaces.
    """

    kind: str
    said: str
    heard: str


def plain(text: str) -> str:
    """A text in lower-case letters, apostrophes inside words, and single spaces."""
    text = re.sub(r"[^a-z' ]", " ", text.lower().replace("’", "'"))
    return " ".join(word for part in text.split() if (word := part.strip("'")))


def open_text(files: Iterable[Path], held_out: bool = False) -> list[str]:
    """Sentences of 3 to 13 words of ASCII letters, each once, in a fixed order."""
    lines = {line.strip() for path in files for line in path.read_text("utf-8").splitlines()}
    return sorted(
        line
        for line in lines
        if re.fullmatch(r"[A-Za-z' ,.;:?!\"’-]+", line)
        and len(line.split()) in OPEN_WORDS
        and (unit_hash("open", line) < HELD_OUT) == held_out
    )


def order(rng: Random) -> tuple[str, dict[str, str]]:
    """A coffee order and its slots, by the grammar of people's orders."""
    slots = {
        name: rng.choice(SLOTS[name])
        for name, share in _SLOT_SHARES.items()
        if rng.random() < share
    }
    before = list(slots.values())
    rng.shuffle(before)
    slots["coffeeDrink"] = rng.choice(SLOTS["coffeeDrink"])
    noun = " ".join([*before, slots["coffeeDrink"]])
    added = {
        name: rng.choice(_AMOUNTS) + rng.choice(SLOTS[name])
        for name, share in _ADDED_SHARES.items()
        if rng.random() < share
    }
    extras = list(added.values())
    rng.shuffle(extras)
    words = [rng.choice(_ORDER), with_article(noun) if rng.random() < 0.85 else noun]
    if extras:
        words += ["with", " and ".join(extras)]
    if rng.random() < 0.1:
        words.append("please")
    return " ".join(words), slots | added


def _spell(word: str, rng: Random) -> str:
    """Letters of a word for a voice; a lone "A" would be read as an article without its stop."""
    gap = rng.choice([" ", " ", ", ", ". "])
    return gap.join("A." if c == "a" and gap != ". " else c.upper() for c in word)


def _digits(count: int, rng: Random) -> str:
    zero = rng.choice(["zero", "oh"])
    return " ".join(number_words(d) if (d := rng.randrange(10)) else zero for _ in range(count))


def _pairs(rng: Random) -> str:
    """A number read in pairs, as in "fifty six sixty nine"."""
    return " ".join(number_words(rng.randrange(10, 100)) for _ in range(rng.choice([1, 2, 2, 3])))


def _year(rng: Random) -> str:
    year = rng.randrange(1900, 2030)
    if 2000 <= year < 2010:
        return number_words(year)
    rest = year % 100
    ending = number_words(rest) if rest > 9 else f"oh {number_words(rest)}" if rest else "hundred"
    return f"{number_words(year // 100)} {ending}"


def _date(rng: Random) -> str:
    month, day = rng.choice(_MONTHS), rng.randint(1, 31)
    tens = {2: "twenty ", 3: "thirty "}.get(day // 10, "")
    ordinal = _ORDINALS[day - 1] if day <= 20 else "thirtieth" if day == 30 else (
        tens + _ORDINALS[day % 10 - 1]
    )  # fmt: skip
    forms = [f"{month} {ordinal}", f"{ordinal} of {month}", f"{month} {number_words(day)}"]
    return rng.choice(forms) + (f" {_year(rng)}" if rng.random() < 0.8 else "")


def _telephone(rng: Random) -> str:
    return ", ".join(_digits(count, rng) for count in rng.choice([(3, 4), (3, 3, 4), (3, 3, 4)]))


def symbols(words: list[str], rng: Random) -> tuple[str, str]:
    """Spelled words, digits, dates, telephone numbers or commands -> (said, heard)."""
    kind = rng.choice("spelled spelled spelled code digits pairs date date telephone word".split())
    if kind == "spelled":
        word = rng.choice(words) if words and rng.random() < 0.8 else _random_letters(rng)
        said = _spell(word, rng)
        if rng.random() < 0.1:
            said = f"{word} {said}"
    elif kind == "code":
        said = f"rubout {_spell(_random_letters(rng), rng)} {_digits(rng.randint(1, 4), rng)}"
        said = said if rng.random() < 0.5 else said.removeprefix("rubout ")
    elif kind == "word":
        said = rng.choice(_COMMANDS)
        said += f" {rng.choice([_digits(rng.randint(1, 5), rng), _pairs(rng), ''])}"
    else:
        makers = {"date": _date, "telephone": _telephone, "pairs": _pairs}
        said = makers[kind](rng) if kind in makers else _digits(rng.randint(1, 9), rng)
    return said.strip(), plain(said)


def _random_letters(rng: Random) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 7)))


class Sentences:
    """Numbered sentences of all kinds.

    Args:
        texts: open sentences; without any, their kind is left out.
        domain: whose training questions are asked.
        wording: split of the domain that the questions come from.
        seed: every draw depends on it.
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
            return Sentence(kind, *symbols(self.words, rng))
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
