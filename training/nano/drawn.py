# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Slot values that are generated: coffee orders, spelled words, digits, dates, addresses.

Every function takes its random generator. Texts are written as spoken: numbers are words, and
spelled letters are upper case.
"""

import re
from collections.abc import Callable
from random import Random
from typing import Any

from training.nano.words import number_words, with_article

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
    "January February March April May June July August September October November December"
).split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
_COMMANDS = "yes no go stop help start repeat erase enter rubout undo cancel next back okay".split()
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_STREETS = (
    "Main Oak Maple Pine Park Lake Hill Church Elm Washington River Forbes Fifth Garden Mill King "
    "Queen Market Station School Spring North South Green Bridge Rose Walnut Cherry Highland Murray"
).split()
_ROADS = "Street Street Avenue Avenue Road Lane Drive Place".split()


def order_phrase(rng: Random) -> dict[str, Any]:
    """Draw a coffee order from a grammar of such orders.

    Returns:
        ``noun`` (the drink with its modifiers), ``order`` (the same, mostly with an article),
        ``slots`` (name -> value) and ``coffeeDrink``.
    """
    slots = {
        name: rng.choice(SLOTS[name])
        for name, share in _SLOT_SHARES.items()
        if rng.random() < share
    }
    before = list(slots.values())
    rng.shuffle(before)
    drink = slots["coffeeDrink"] = rng.choice(SLOTS["coffeeDrink"])
    added = {
        name: rng.choice(_AMOUNTS) + rng.choice(SLOTS[name])
        for name, share in _ADDED_SHARES.items()
        if rng.random() < share
    }
    extras = list(added.values())
    rng.shuffle(extras)
    noun = " ".join([*before, drink, *(["with", " and ".join(extras)] if extras else [])])
    phrase = with_article(noun) if rng.random() < 0.85 else noun
    return {"order": phrase, "noun": noun, "slots": slots | added, "coffeeDrink": drink}


def order(rng: Random) -> tuple[str, dict[str, str]]:
    """Draw a coffee order as a sentence, and its slots."""
    drawn = order_phrase(rng)
    words = [rng.choice(_ORDER), drawn["order"]]
    if rng.random() < 0.1:
        words.append("please")
    return " ".join(words), drawn["slots"]


def _slot_pattern(values: tuple[str, ...], amounts: tuple[str, ...] = ("",)) -> re.Pattern[str]:
    phrases = sorted({a + v for a in amounts for v in values}, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(phrases)})\b")


# In the order in which they are looked for: the "medium" of "medium roast" is not its size.
_SLOT_PATTERNS = {
    name: _slot_pattern(SLOTS[name], _AMOUNTS if name in _ADDED_SHARES else ("",))
    for name in ("roast", "size", "numberOfShots", "milkAmount", "sugarAmount", "coffeeDrink")
}


def slots_in(text: str) -> dict[str, str]:
    """Find the slots of a coffee order in its plain text, the inverse of :func:`order`."""
    found = {}
    for name, pattern in _SLOT_PATTERNS.items():
        if match := pattern.search(text):
            found[name] = match[1]
            text = text[: match.start()] + text[match.end() :]
    return {name: found[name] for name in SLOTS if name in found}


def spelled(word: str) -> str:
    """Spell a word in upper-case letters with a short pause after each: "C, A, T"."""
    return ", ".join(word.upper())


def _spell(word: str, rng: Random) -> str:
    """Spell a word for a voice; a full stop keeps a lone "A" from being read as the article."""
    gap = rng.choice([" ", " ", ", ", ". "])
    return gap.join("A." if c == "a" and gap != ". " else c.upper() for c in word)


def digits(count: int, rng: Random) -> str:
    """Draw ``count`` spoken digits; zero is "zero" or "oh" with equal probability."""
    zero = rng.choice(["zero", "oh"])
    return " ".join(number_words(d) if (d := rng.randrange(10)) else zero for _ in range(count))


def _pairs(rng: Random) -> str:
    """Spell out a number in pairs, as in "fifty six sixty nine"."""
    return " ".join(number_words(rng.randrange(10, 100)) for _ in range(rng.choice([1, 2, 2, 3])))


def _year(rng: Random) -> str:
    year = rng.randrange(1900, 2030)
    if 2000 <= year < 2010:
        return number_words(year)
    rest = year % 100
    ending = number_words(rest) if rest > 9 else f"oh {number_words(rest)}" if rest else "hundred"
    return f"{number_words(year // 100)} {ending}"


def date(rng: Random) -> str:
    """Draw a day of a month, mostly with its year."""
    month, day = rng.choice(_MONTHS), rng.randint(1, 31)
    tens = {2: "twenty ", 3: "thirty "}.get(day // 10, "")
    ordinal = _ORDINALS[day - 1] if day <= 20 else "thirtieth" if day == 30 else (
        tens + _ORDINALS[day % 10 - 1]
    )  # fmt: skip
    forms = [f"{month} {ordinal}", f"the {ordinal} of {month}", f"{month} {number_words(day)}"]
    return rng.choice(forms) + (f" {_year(rng)}" if rng.random() < 0.8 else "")


def telephone(rng: Random) -> str:
    """Draw a telephone number in groups of digits."""
    return ", ".join(digits(count, rng) for count in rng.choice([(3, 4), (3, 3, 4), (3, 3, 4)]))


def address(rng: Random) -> str:
    """Draw a house number and a street."""
    number = rng.choice([_pairs, lambda r: digits(r.randint(2, 5), r)])(rng)
    return f"{number} {rng.choice(_STREETS)} {rng.choice(_ROADS)}"


def symbols(words: list[str], rng: Random) -> str:
    """Draw spelled words, digits, dates, telephone numbers or commands, as a voice says them."""
    kind = rng.choice("spelled spelled spelled code digits pairs date date telephone word".split())
    if kind == "spelled":
        word = rng.choice(words) if words and rng.random() < 0.8 else _random_letters(rng)
        said = _spell(word, rng)
        if rng.random() < 0.1:
            said = f"{word} {said}"
    elif kind == "code":
        said = f"rubout {_spell(_random_letters(rng), rng)} {digits(rng.randint(1, 4), rng)}"
        said = said if rng.random() < 0.5 else said.removeprefix("rubout ")
    elif kind == "word":
        said = rng.choice(_COMMANDS)
        said += f" {rng.choice([digits(rng.randint(1, 5), rng), _pairs(rng), ''])}"
    else:
        makers = {"date": date, "telephone": telephone, "pairs": _pairs}
        said = makers[kind](rng) if kind in makers else digits(rng.randint(1, 9), rng)
    return said.strip()


def _random_letters(rng: Random) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(2, 7)))


def _number(rng: Random) -> str:
    """Draw digits one by one or in pairs, at least two words."""
    return _pairs(rng) if rng.random() < 0.3 else digits(rng.randint(2, 8), rng)


def _code(rng: Random) -> str:
    """Draw a command, letters and digits, as in "rubout, G, E, F, five seven"."""
    letters = [spelled(_random_letters(rng))] if rng.random() < 0.6 else []
    command = rng.choice(["rubout", "enter", "erase"])
    return ", ".join([command, *letters, _number(rng)])


def draw(kind: str, words: list[str], rng: Random) -> str | dict[str, Any]:
    """Draw a value of a kind named in the domain file; ``words`` are candidates for spelling."""
    if kind == "letters":
        return spelled(rng.choice(words) if rng.random() < 0.7 else _random_letters(rng))
    makers: dict[str, Callable[[Random], str | dict[str, Any]]] = {
        "order": order_phrase, "digits": _number, "telephone": telephone, "date": date,
        "address": address, "code": _code,
    }  # fmt: skip
    return makers[kind](rng)
