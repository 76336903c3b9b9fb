# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Documents, docstrings, comments and messages use the terms of ``docs/glossary.md``."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

# Retired words, and what to write instead.
RETIRED = {
    r"(first )?sounds?": "audio, waveform or speech; first-audio latency",
    r"waves?": "waveform or audio",
    r"talkers?": "user",
    r"(a|the|this|each|every|one|of|long|fifty) talks?": "conversation or session",
    r"speech codes?|codes a second|row of codes": "speech tokens",
    r"hush(es|ed)?": "stop playback",
    r"anew": "again",
    r"least wanted": "target",
    r"(goes|go|gone|going) on (where|with it|from (the|its))": "resume or continue",
    r"(?<!there )is no (?!longer|more than|less than|later than)\w+": "is not a ..., or has no ...",
    r"what of (it|them|the)|some of what of": "the part that",
    r"(mend|mends|mended)": "repair or fix",
    r"way to you": "delivery",
}
PATTERN = re.compile(rf"\b({'|'.join(f'(?:{word})' for word in RETIRED)})\b", re.IGNORECASE)

# Phrases in which a retired word is the right one.
ALLOWED = {
    "sound card": "a device has this name",
    "Sounds good": "the verb, in the microphone test of the page",
    "RIFF, WAVE": "the format's own name",
    '"WAVE"': "the format's own name",
    "....WAVE": "the format's own name",
    "utt.save.wave": "a command of Festival",
    "waves, batch of two texts": "a key of recorded results",
    "`sound`": "a category of MMAU, or a word to be matched",
}
FOLDERS = (
    ".github", "benchmarks", "docs", "evaluate", "examples", "funaudiochat", "pretrained_models",
    "tests", "training", "utils", "web_demo",
)  # fmt: skip
# Data, recorded results, what is built or installed, and files that are not prose.
SKIPPED = {"dist", "golden", "judge_prompts", "node_modules", "outputs", "saves", "work"}


def prose(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Yield what people read in a file: line number, text."""
    if suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
        for node in ast.walk(ast.parse(text)):
            # A message or docstring has spaces; keys and names do not.
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if " " in node.value:
                    yield node.lineno, node.value
    elif suffix in (".ts", ".tsx", ".mjs"):
        for number, line in enumerate(text.splitlines(), 1):
            for part in re.findall(r"//.*|/?\*+ .*|\"[^\"]* [^\"]*\"|`[^`]* [^`]*`", line):
                yield number, part
    else:
        yield from enumerate(text.splitlines(), 1)


def retired_words(text: str, suffix: str) -> list[str]:
    """List the retired words in the prose of a file, each with its line number."""
    if not PATTERN.search(text):
        return []
    found = []
    for number, part in prose(text, suffix):
        for phrase in ALLOWED:
            part = part.replace(phrase, "")
        found += [f"{number}: {match[0]}" for match in PATTERN.finditer(part)]
    return found


def files() -> Iterator[Path]:
    yield from (*ROOT.glob("*.md"), ROOT / "Makefile")
    for folder in FOLDERS:
        for suffix in (".py", ".md", ".ts", ".tsx", ".mjs", ".sh", ".yml"):
            for path in (ROOT / folder).rglob(f"*{suffix}"):
                if not SKIPPED & set(path.relative_to(ROOT).parts):
                    yield path


def test_retired_words_do_not_come_back():
    texts = {path: path.read_text(encoding="utf-8") for path in files() if path != Path(__file__)}
    found = {
        str(path.relative_to(ROOT)): words
        for path, text in texts.items()
        if (words := retired_words(text, path.suffix))
    }
    assert len(texts) > 300  # nothing is left out by mistake
    assert found == {}, f"say instead: {RETIRED}"


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("x = 1  # the sound of a reply\n", ".py"),
        ('def f():\n    """Start anew."""\n', ".py"),
        ('raise ValueError(f"{x} is no number")\n', ".py"),
        ("A page with two talkers.\n", ".md"),
        ("/** Plays the waves. */\n", ".ts"),
        ('title: "Hush the reply",\n', ".ts"),
    ],
)
def test_a_retired_word_is_found(text, suffix):
    assert len(retired_words(text, suffix)) == 1


def test_names_keys_and_allowed_phrases_are_left_alone():
    assert retired_words('kind = {"sound": wave}  # no sound card\n', ".py") == []
    assert retired_words("There is no queue, and it is no longer needed.\n", ".md") == []
