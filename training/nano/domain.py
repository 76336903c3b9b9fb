# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Questions and answers of Nano's domain, drawn from ``domain.yaml``.

A dialogue is a function of (seed, split, index) alone, so a data set grows by raising the index
and is resumed by skipping what exists. Three things are held out, each by construction:

* wordings: the lists ``train``, ``valid`` and ``test`` of an intent never mix;
* slot values: a hash decides once for every row whether it may be asked in training, so the
  answers of ``valid_slot`` and ``test_slot`` occur nowhere in training, spoken or written;
* voices: the split ``test_voice`` is spoken by voices used nowhere else (see ``voices.py``).
"""

import hashlib
import itertools
import json
import math
import operator
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml

from training.nano.words import number_words, with_article

DOMAIN_PATH = Path(__file__).with_name("domain.yaml")

# Split -> (list of wordings, which rows). Follow-ups and tools have test splits of their own.
SPLITS = {
    "train": ("train", "train"),
    "scrambled": ("train", "train"),
    "valid_paraphrase": ("valid", "train"),
    "valid_slot": ("train", "valid"),
    "test_paraphrase": ("test", "train"),
    "test_voice": ("train", "train"),
    "test_slot": ("train", "test"),
    "test_follow_up": ("test", "train"),
    "test_tool": ("test", "train"),
}
TWO_TURN_SHARE = 0.3  # of the training dialogues whose intent can be followed up
TOOLS_OFFERED_SHARE = 0.2  # of the training dialogues that need none
SCRAMBLED_PIECES, SCRAMBLED_WORDS = 4, 3  # at most so many pieces, and words in each

Row = dict[str, Any]
_OPERATORS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, ">": operator.gt, ">=": operator.ge
}  # fmt: skip


@dataclass
class Message:
    """One message of a dialogue.

    Attributes:
        role: ``user``, ``assistant`` or ``tool`` (the result of a call, as JSON).
        text: what is written; for spoken messages also what is said.
        spoken: whether the message has sound.
    """

    role: str
    text: str
    spoken: bool = True


@dataclass
class Dialogue:
    """Messages with their split, intent, and whether the system prompt offers tools."""

    split: str
    index: int
    intent: str
    tools: bool
    messages: list[Message] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """The dialogue as a JSON object with an ``id``."""
        return {"id": f"{self.split}-{self.index:06d}", **asdict(self)}


@dataclass
class Intent:
    """One thing that can be asked, with its rows sorted into the part they may be used in."""

    name: str
    spec: dict[str, Any]
    rows: dict[str, list[Row]]
    results: list[Row]

    @property
    def is_tool(self) -> bool:
        """Whether the answer needs a function call."""
        return "call" in self.spec

    @property
    def weight(self) -> float:
        """Share of the dialogues: grows with the square root of what there is to ask."""
        return max(2.0, math.sqrt(len(self.rows["train"])))


def unit_hash(*parts: Any) -> float:
    """A number in [0, 1) that depends on the parts alone, on every machine and Python."""
    text = json.dumps(parts, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def variants(template: str) -> list[str]:
    """All wordings of a template: ``(a|b)`` means either."""
    pieces = re.split(r"\(([^()]*\|[^()]*)\)", template)
    options = [p.split("|") if i % 2 else [p] for i, p in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*options)]


def fill(template: str, row: Row) -> str:
    """Insert slot values, numbers as words, and write a capital at the start of sentences."""

    def value(match: re.Match[str]) -> str:
        name, _, form = match.group(1).partition(":")
        text = number_words(row[name]) if isinstance(row[name], int) else row[name]
        return with_article(text) if form == "a" else text

    text = re.sub(r"\{([\w:]+)\}", value, template)
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)


class Domain:
    """The questions and answers of one domain file.

    Args:
        path: the domain description (YAML).
        seed: every draw depends on it; the held-out rows do not.
    """

    def __init__(self, path: Path = DOMAIN_PATH, seed: int = 0) -> None:
        self.spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        self.seed = seed
        self.intents = {n: self._intent(n, s) for n, s in self.spec["intents"].items()}

    def _source(self, source: str | dict[str, str]) -> list[Row]:
        """Rows of a table, a range or a list."""
        if isinstance(source, str):
            table = self.spec["tables"][source]
            return [dict(zip(table["columns"], v, strict=True)) for v in table["values"]]
        ((slot, values),) = source.items()
        if match := re.fullmatch(r"(\d+)\.\.(\d+)", values):
            return [{slot: n} for n in range(int(match[1]), int(match[2]) + 1)]
        return [{slot: v} for v in self.spec["lists"][values]]

    def _product(self, sources: list[Any]) -> list[Row]:
        """All combinations of the sources' rows; one empty row without sources."""
        combinations = itertools.product(*map(self._source, sources))
        return [{k: v for part in parts for k, v in part.items()} for parts in combinations]

    def _intent(self, name: str, spec: dict[str, Any]) -> Intent:
        rows = self._product(spec.get("rows", []))
        if where := spec.get("where"):
            left, symbol, right = where
            rows = [r for r in rows if _OPERATORS[symbol](r[left], r[right])]
        rows.sort(key=lambda r: unit_hash(*r.values()))
        low, high = (round(x * len(rows)) for x in spec.get("hold_out", [0.0, 0.0]))
        cut = low + (high - low) // 3
        for row in rows:
            for slot, (left, symbol, right) in spec.get("derive", {}).items():
                row[slot] = _OPERATORS[symbol](row[left], row.get(right, right))
        parts = {"train": rows[:low] + rows[high:], "valid": rows[low:cut], "test": rows[cut:high]}
        return Intent(name, spec, parts, self._product(spec.get("result", [])))

    # -- dialogues ---------------------------------------------------------------------------

    def dialogue(self, split: str, index: int) -> Dialogue:
        """Draw one dialogue.

        Args:
            split: a key of ``SPLITS``.
            index: its number; equal arguments give equal dialogues.

        Raises:
            ValueError: unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        rng = Random(f"{self.seed}/{split}/{index}")
        if split == "scrambled":
            return Dialogue(split, index, split, False, [Message("user", self._scrambled(rng))])
        wording, part = SPLITS[split]
        choices = [i for i in self.intents.values() if i.rows[part] and self._fits(i, split)]
        intent = rng.choices(choices, [i.weight for i in choices])[0]
        row = rng.choice(intent.rows[part])
        dialogue = Dialogue(split, index, intent.name, intent.is_tool)
        question = fill(_pick(intent.spec[wording], rng), row)
        if intent.is_tool:
            self._add_call(dialogue, intent, row, question, rng)
            return dialogue
        if split == "train":
            dialogue.tools = rng.random() < TOOLS_OFFERED_SHARE
        answer = fill(intent.spec["answer"], row)
        dialogue.messages += [Message("user", question), Message("assistant", answer)]
        if split == "test_follow_up" or (split == "train" and rng.random() < TWO_TURN_SHARE):
            self._add_follow_up(dialogue, intent, row, answer, wording, rng)
        return dialogue

    def _scrambled(self, rng: Random) -> str:
        """Pieces of training questions, so that words are heard without knowing the wording."""
        pieces: list[str] = []
        for _ in range(rng.randint(2, SCRAMBLED_PIECES)):
            intent = rng.choice(list(self.intents.values()))
            question = fill(_pick(intent.spec["train"], rng), rng.choice(intent.rows["train"]))
            spoken = [word.strip(".,?!") for word in question.split()]
            # Only the first word of all is a sentence's first, with its capital letter.
            start = rng.randrange(1, len(spoken)) if pieces and len(spoken) > 1 else 0
            pieces += spoken[start : start + rng.randint(1, SCRAMBLED_WORDS)]
        return " ".join(pieces) + "."

    @staticmethod
    def _fits(intent: Intent, split: str) -> bool:
        if split == "test_tool":
            return intent.is_tool
        if split == "test_follow_up":
            return "mention" in intent.spec
        return split == "train" or not intent.is_tool

    def _add_call(
        self, dialogue: Dialogue, intent: Intent, row: Row, question: str, rng: Random
    ) -> None:
        """Question, call, result, spoken reply; the replies of the test split are held out too."""
        spec = intent.spec
        arguments = {k: row[slot] for k, slot in spec["call"]["arguments"].items()}
        call = json.dumps({"name": spec["call"]["tool"], "arguments": arguments})
        held_out = dialogue.split != "train"
        results = [r for r in intent.results if held_out == (unit_hash(row, r) < 0.15)]
        result = rng.choice(results) if intent.results != [{}] else {"status": "ok"}
        dialogue.messages += [
            Message("user", question),
            Message("assistant", f"<tool_call>\n{call}\n</tool_call>", spoken=False),
            Message("tool", json.dumps(result), spoken=False),
            Message("assistant", fill(spec["reply"], row | result)),
        ]

    def _add_follow_up(
        self, dialogue: Dialogue, intent: Intent, row: Row, answer: str, wording: str, rng: Random
    ) -> None:
        """A second turn: another row, a correction, the same answer again, or a memory."""
        spec = intent.spec
        kinds = ["repeat"]
        if "mention" in spec:
            kinds += ["follow_up", "follow_up", "correction"]
        if "recall" in spec:
            kinds += ["recall"] * 4
        kind = rng.choice(kinds)
        group = spec["recall"] if kind == "recall" else self.spec[kind]
        templates = list(group[wording])
        if kind in ("follow_up", "correction"):
            row = rng.choice([r for r in intent.rows["train"] if r != row])
            templates = [t.replace("{mention}", spec["mention"]) for t in templates]
            if kind == "follow_up" and wording == "train":
                templates += spec.get("follow_ups", [])
        if kind == "recall":
            answer = fill(group["answer"], row)
        elif kind != "repeat":
            answer = fill(spec["answer"], row)
        question = fill(_pick(templates, rng), row)
        dialogue.intent += f"+{kind}"
        dialogue.messages += [Message("user", question), Message("assistant", answer)]

    # -- sentences ---------------------------------------------------------------------------

    def answers(self, part: str) -> list[str]:
        """All spoken answers to rows of a part (``train``, ``valid``, ``test``), sorted.

        Replies to tool results are drawn per dialogue and are not in this list.
        """
        found = set()
        for intent in self.intents.values():
            for row in intent.rows[part]:
                if not intent.is_tool:
                    found.add(fill(intent.spec["answer"], row))
                if "recall" in intent.spec:
                    found.add(fill(intent.spec["recall"]["answer"], row))
        return sorted(found)

    def read_aloud(self, index: int) -> str:
        """One sentence outside the questions, for more speech of the answer voices."""
        rng = Random(f"{self.seed}/read_aloud/{index}")
        spec = rng.choice(self.spec["read_aloud"])
        row: Row = {}
        for source in spec["rows"]:
            row |= rng.choice(self._source(source))
        return fill(spec["text"], row)

    def questions(self, wording: str, part: str) -> Iterator[str]:
        """Every first question of a list of wordings over the rows of a part."""
        for intent in self.intents.values():
            for template in intent.spec[wording]:
                for text in variants(template):
                    yield from (fill(text, row) for row in intent.rows[part])


def _pick(templates: list[str], rng: Random) -> str:
    """A template, then one of its variants, so that many variants do not outweigh the others."""
    return rng.choice(variants(rng.choice(templates)))
