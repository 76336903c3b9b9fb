# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Questions and answers of Nano's domain, drawn from ``domain.yaml``.

A dialogue is a function of (seed, split, index) alone, so a data set grows by raising the index
and is resumed by skipping what exists. Three things are held out, each by construction:

* wordings: the ``valid`` and ``test`` wordings of an intent, and those in held-out frames, never
  occur in training;
* slot values: a hash decides once for every row whether training may use it, so the answers of
  ``valid_slot`` and ``test_slot`` never occur in training, spoken or written;
* voices: the split ``test_voice`` is spoken by voices that are used for nothing else
  (``voices.py``).
"""

import itertools
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml

from training.nano.dialogue_writer import CONVERSATION_TURNS, DialogueWriter
from training.nano.drawn import draw, spelled
from training.nano.intents import SPLITS, Dialogue, Intent, Message, unit_hash
from training.nano.wordings import Delivery, Row, all_wordings, fill, spoken_form

DOMAIN_PATH = Path(__file__).with_name("domain.yaml")
TOOLS_OFFERED_SHARE = 0.2  # share of the training dialogues without a tool that offer some
NO_TOOL_SHARE = 0.3  # share of the training dialogues that need a tool but are not offered it
OTHER_TOOLS_SHARE = 0.5  # share of these that are offered other tools
MOST_TOOLS = 3  # most tools offered at once
SCRAMBLED_PIECES, SCRAMBLED_WORDS = 4, 3  # most pieces, and most words per piece
_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "max": max, "<": operator.lt,
    ">": operator.gt, ">=": operator.ge, "<=": operator.le,
}  # fmt: skip


class Domain:
    """The questions and answers of one domain file.

    Args:
        path: the domain description (YAML).
        seed: seed of every draw; the held-out rows do not depend on it.
    """

    def __init__(self, path: Path = DOMAIN_PATH, seed: int = 0) -> None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
        self.spec = yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506
        self.seed = seed
        self.delivery = Delivery(self.spec["delivery"])
        self.intents = {n: self._intent(n, s) for n, s in self.spec["intents"].items()}
        for turn in self.spec["turns"].values():
            turn["wordings"] = all_wordings(turn, {})

    def _source(self, source: str | dict[str, str]) -> list[Row]:
        """Return the rows of a table, column, range, list, text file or generator of ``drawn``."""
        if isinstance(source, str):
            table = self.spec["tables"][source]
            return [dict(zip(table["columns"], v, strict=True)) for v in table["values"]]
        ((slot, values),) = source.items()
        if match := re.fullmatch(r"(\d+)\.\.(\d+)", values):
            return [{slot: n} for n in range(int(match[1]), int(match[2]) + 1)]
        if match := re.fullmatch(r"(\w+)\.(\w+)", values):
            return [{slot: row[match[2]]} for row in self._source(match[1])]
        if values.startswith("lines "):
            path = DOMAIN_PATH.with_name(values.removeprefix("lines "))
            return [{slot: line} for line in path.read_text(encoding="utf-8").splitlines()]
        if match := re.fullmatch(r"drawn (\w+) (\d+)", values):
            return self._drawn(slot, match[1], int(match[2]))
        return [{slot: v} for v in self.spec["lists"][values]]

    def _drawn(self, slot: str, kind: str, count: int) -> list[Row]:
        """Draw ``count`` different values of a kind of ``drawn``, the same ones for every seed."""
        lists = self.spec["lists"]
        words = sorted({w.lower() for n in ("words", "names", "nouns") for w in lists[n]})
        found: dict[str, Row] = {}
        for number in itertools.count():
            if len(found) == count:
                return list(found.values())
            value = draw(kind, words, Random(f"{kind}/{number}"))
            row = value if isinstance(value, dict) else {slot: value}
            found.setdefault(row[slot], row)
        raise AssertionError

    def _product(self, sources: list[Any]) -> list[Row]:
        """Combine the sources' rows in all ways; without sources, return one empty row."""
        combinations = itertools.product(*map(self._source, sources))
        return [{k: v for part in parts for k, v in part.items()} for parts in combinations]

    def _intent(self, name: str, spec: dict[str, Any]) -> Intent:
        rows = sorted(self._product(spec.get("rows", [])), key=lambda r: unit_hash(*r.values()))
        for row in rows:
            for slot, (left, symbol, *right) in spec.get("derive", {}).items():
                if symbol == "spelled":
                    row[slot] = spelled(row[left])
                else:
                    row[slot] = _OPERATORS[symbol](row[left], row.get(right[0], right[0]))
        for left, symbol, right in spec.get("where", []):
            rows = [r for r in rows if _OPERATORS[symbol](r[left], r.get(right, right))]
        low, high = (round(x * len(rows)) for x in spec.get("hold_out", [0.0, 0.0]))
        cut = low + (high - low) // 3
        parts = {"train": rows[:low] + rows[high:], "valid": rows[low:cut], "test": rows[cut:high]}
        wordings = all_wordings(spec, self.spec["frames"])
        held_out = frozenset(spoken_form(t) for part in ("valid", "test") for t in wordings[part])
        results = self._product(spec.get("result", []))
        return Intent(name, spec, parts, results, wordings, held_out)

    # -- dialogues ---------------------------------------------------------------------------

    def dialogue(self, split: str, index: int) -> Dialogue:
        """Draw one dialogue.

        Args:
            split: a key of ``SPLITS``.
            index: number of the dialogue; equal arguments give equal dialogues.

        Raises:
            ValueError: unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        rng = Random(f"{self.seed}/{split}/{index}")
        dialogue = Dialogue(split, index, "")
        if split == "scrambled":
            dialogue.messages.append(Message("user", self._scrambled(rng), intent=split))
        elif split.endswith("conversation"):
            if rng.random() < TOOLS_OFFERED_SHARE:
                dialogue.tools = self.offer(rng)
            DialogueWriter(self.intents, self.spec, self.delivery, dialogue, rng).converse(
                rng.randint(*CONVERSATION_TURNS)
            )
        else:
            self._exchange(dialogue, rng)
        dialogue.intent = "+".join(m.intent for m in dialogue.messages if m.role == "user")
        return dialogue

    def _exchange(self, dialogue: Dialogue, rng: Random) -> None:
        """Draw a question and its answer, and sometimes a second turn."""
        split = dialogue.split
        part = SPLITS[split][1]
        choices = [i for i in self.intents.values() if i.rows[part] and self._fits(i, split)]
        intent = rng.choices(choices, [i.weight for i in choices])[0]
        if intent.tool:
            withheld = split == "test_no_tool" or (
                split == "train" and rng.random() < NO_TOOL_SHARE
            )
            if not withheld:
                dialogue.tools = self.offer(rng, intent.tool)
            elif rng.random() < OTHER_TOOLS_SHARE:
                dialogue.tools = [n for n in self.offer(rng) if n != intent.tool]
        elif split == "train" and rng.random() < TOOLS_OFFERED_SHARE:
            dialogue.tools = self.offer(rng)
        writer = DialogueWriter(self.intents, self.spec, self.delivery, dialogue, rng)
        writer.ask(intent, rng.choice(intent.rows[part]))
        two_turns = split == "train" and rng.random() < writer.related_share
        if not intent.tool and (split == "test_follow_up" or two_turns):
            writer.add_related_turn()

    def offer(self, rng: Random, *needed: str) -> list[str]:
        """Draw the names of the tools to offer, the needed ones among them, in any order."""
        others = [name for name in self.spec["tools"] if name not in needed]
        names = [*needed, *rng.sample(others, rng.randint(1, MOST_TOOLS) - len(needed))]
        rng.shuffle(names)
        return names

    def _scrambled(self, rng: Random) -> str:
        """Join pieces of training questions, to teach words outside of familiar wordings."""
        pieces: list[str] = []
        for _ in range(rng.randint(2, SCRAMBLED_PIECES)):
            intent = rng.choice(list(self.intents.values()))
            template = intent.wordings["train"].pick(rng)
            question = fill(template, rng.choice(intent.rows["train"]))
            spoken = [word.strip(".,?!") for word in question.split()]
            # Only the first word of all is a sentence's first, with its capital letter.
            start = rng.randrange(1, len(spoken)) if pieces and len(spoken) > 1 else 0
            pieces += spoken[start : start + rng.randint(1, SCRAMBLED_WORDS)]
        return " ".join(pieces) + "."

    @staticmethod
    def _fits(intent: Intent, split: str) -> bool:
        if split in ("test_tool", "test_no_tool"):
            return bool(intent.tool)
        if split == "test_follow_up":
            return "mention" in intent.spec and not intent.tool
        return split == "train" or not intent.tool

    # -- sentences ---------------------------------------------------------------------------

    def answers(self, part: str) -> list[str]:
        """List all spoken answers about rows of a part (``train``, ``valid``, ``test``), sorted.

        Replies to tool results are drawn per dialogue and are not included.
        """
        found = set()
        for intent in self.intents.values():
            if intent.tool:
                found |= {intent.spec["without"]} if part == "train" else set()
                continue
            for row in intent.rows[part]:
                found.add(fill(intent.spec["answer"], row))
                if "recall" in intent.spec:
                    found.add(fill(intent.spec["recall"], row))
        return sorted(found)

    def read_aloud(self, index: int) -> str:
        """Draw a sentence unrelated to the questions, for more speech of the answer voices."""
        rng = Random(f"{self.seed}/read_aloud/{index}")
        spec = rng.choice(self.spec["read_aloud"])
        row: Row = {}
        for source in spec["rows"]:
            row |= rng.choice(self._source(source))
        return fill(spec["text"], row)

    def questions(self, wording: str, part: str, most: int | None = None) -> Iterator[str]:
        """Yield every first question of a list of wordings over ``most`` rows of a part, or all."""
        for intent in self.intents.values():
            for template in intent.wordings[wording]:
                yield from (fill(template, row) for row in intent.rows[part][:most])
