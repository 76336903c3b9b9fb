# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""English number words, articles, and the normalisation used before scoring."""

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


def number_words(number: int) -> str:
    """Write a whole number below a million in words, without "and" and hyphens."""
    if number < 0:
        return "minus " + number_words(-number)
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            head = f"{number_words(number // size)} {name}"
            return f"{head} {number_words(rest)}" if rest else head
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]} {_ONES[ones]}" if ones else _TENS[tens]


def with_article(noun: str) -> str:
    """Put ``a`` or ``an`` before a noun by its first letter (enough for the domain's nouns)."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def normalized_words(text: str) -> list[str]:
    """Split a text into the normalised words that speech is scored by.

    Lower case, digits and signs as words, clock times as two numbers, no punctuation, and one
    spelling for words that recognisers spell in two ways.
    """
    text = text.lower().replace("%", " percent ").replace("°", " degrees ")
    text = re.sub(r"(\d),(\d{3})\b", r"\1\2", text)
    text = re.sub(r"(?<=\d)\s*-\s*(?=\d)", " minus ", text)
    for sign, word in (("+", " plus "), ("×", " times "), ("=", " is "), ("-", " ")):
        text = text.replace(sign, word)
    text = re.sub(r"\bo\.?k\.?(?=\W|$)", "okay", text)
    text = text.replace("colour", "color").replace("grey", "gray")
    text = re.sub(r"\d+", lambda m: f" {number_words(int(m[0][:6]))} ", text)
    return re.sub(r"[^a-z ]", "", re.sub(r"[.:/]", " ", text)).split()
