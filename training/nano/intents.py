# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The parts of a dialogue: intents, messages, splits."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from training.nano.wordings import Row, Wordings, fill, insert

# Split -> (list of wordings, part of the rows). Follow-ups and tools have their own test splits.
SPLITS = {
    "train": ("train", "train"),
    "conversation": ("train", "train"),
    "scrambled": ("train", "train"),
    "valid_paraphrase": ("valid", "train"),
    "valid_slot": ("train", "valid"),
    "test_paraphrase": ("test", "train"),
    "test_voice": ("train", "train"),
    "test_slot": ("train", "test"),
    "test_follow_up": ("test", "train"),
    "test_tool": ("test", "train"),
    "test_no_tool": ("test", "train"),
    "test_conversation": ("test", "train"),
}
TRAINING = ("train", "conversation", "scrambled")
LEAST_WEIGHT, MOST_WEIGHT = 4.0, 24.0  # limits for intents without an explicit weight


@dataclass
class Message:
    """One message of a dialogue.

    Attributes:
        role: ``user``, ``assistant`` or ``tool`` (the result of a call, as JSON).
        text: the written form; spoken messages say the same.
        spoken: whether the message has audio.
        intent: a question's intent, followed by ``+`` and the kind of turn if it is a follow-up.
        keys: phrases that a correct answer contains; if empty, it must be this text.
        cut: whether the answer was interrupted; interrupted answers are not trained on.
    """

    role: str
    text: str
    spoken: bool = True
    intent: str = ""
    keys: list[str] = field(default_factory=list)
    cut: bool = False


@dataclass
class Dialogue:
    """Messages with their split, intents, and the names of the tools that are offered."""

    split: str
    index: int
    intent: str
    tools: list[str] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def as_record(self) -> dict[str, Any]:
        """Convert the dialogue to a JSON object with an ``id``."""
        return {"id": f"{self.split}-{self.index:06d}", **asdict(self)}


@dataclass
class Intent:
    """One kind of question, with its rows divided into the parts that may use them."""

    name: str
    spec: dict[str, Any]
    rows: dict[str, list[Row]]
    results: list[Row]
    wordings: dict[str, Wordings]
    held_out: frozenset[str]

    @cached_property
    def tool(self) -> str | None:
        """The tool that the answer needs, if any."""
        return self.spec["call"]["tool"] if "call" in self.spec else None

    @cached_property
    def weight(self) -> float:
        """Relative frequency in dialogues: grows with the square root of the number of rows."""
        root = math.sqrt(len(self.rows["train"]))
        return self.spec.get("weight", min(MOST_WEIGHT, max(LEAST_WEIGHT, root)))

    def answer(self, row: Row) -> Message:
        """Write the answer about a row."""
        keys = [insert(key, row) for key in self.spec.get("keys", [])]
        return Message("assistant", fill(self.spec["answer"], row), keys=keys)


def unit_hash(*parts: Any) -> float:
    """Hash the parts to a number in [0, 1), the same on every machine and Python version."""
    text = json.dumps(parts, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def call_arguments(intent: Intent, row: Row) -> Row:
    """Return the arguments of the tool call about a row."""
    arguments = intent.spec["call"]["arguments"]
    if isinstance(arguments, str):
        return row[arguments]
    return {key: row[slot] for key, slot in arguments.items()}
