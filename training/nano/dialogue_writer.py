# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The turns of a dialogue: questions, answers, calls, and turns that refer to earlier ones."""

import json
from random import Random
from typing import Any

from training.nano.intents import (
    SPLITS,
    TRAINING,
    Dialogue,
    Intent,
    Message,
    call_arguments,
    unit_hash,
)
from training.nano.wordings import Delivery, Row, fill, insert, spoken_form, variants

CONVERSATION_TURNS = (2, 8)  # questions of a conversation
# Share of later turns that refer to the last one, if its question has follow-ups, and if not.
RELATED_SHARE, REPEATED_SHARE = 0.45, 0.1
RECALL_SHARE = 0.15  # share of the turns after the user told a name
CUT_SHARE = 0.12  # share of a conversation's answers but the last that are interrupted
HELD_OUT_RESULTS = 0.15  # share of the possible results of each call
FAILURE_SHARE = 0.08  # share of the calls in training that fail
CALL_SHARE = 0.4  # share of the turns with tools offered that need one of them


def tool_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call as Nano writes it."""
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


class DialogueWriter:
    """Adds turns to a dialogue.

    Args:
        intents: the questions that can be asked.
        spec: the domain file.
        delivery: varies wordings as people say them.
        dialogue: the dialogue, with its split and the tools offered.
        rng: source of every draw.
    """

    def __init__(
        self,
        intents: dict[str, Intent],
        spec: dict[str, Any],
        delivery: Delivery,
        dialogue: Dialogue,
        rng: Random,
    ) -> None:
        self.intents, self.spec, self.delivery = intents, spec, delivery
        self.dialogue, self.rng = dialogue, rng
        self.wording = SPLITS[dialogue.split][0]
        self.last: tuple[Intent, Row, Message] | None = None  # the last topic
        self.told: tuple[Intent, Row] | None = None  # where the user told a name

    @property
    def related_share(self) -> float:
        """Probability that the next turn refers to the last."""
        assert self.last
        return RELATED_SHARE if "mention" in self.last[0].spec else REPEATED_SHARE

    def converse(self, turns: int) -> None:
        """Add ``turns`` questions with their answers; some answers are interrupted."""
        for turn in range(turns):
            if self.told and self.rng.random() < RECALL_SHARE:
                self._recall(*self.told)
            elif turn and self.rng.random() < self.related_share:
                self.add_related_turn()
            else:
                intent = self._any_intent()
                self.ask(intent, self.rng.choice(intent.rows["train"]))
            answer = self.dialogue.messages[-1]
            words = answer.text.split()
            if turn + 1 < turns and len(words) > 1 and self.rng.random() < CUT_SHARE:
                kept = words[: self.rng.randint(1, len(words) - 1)]
                self.dialogue.messages[-1] = Message("assistant", " ".join(kept), cut=True)

    def _any_intent(self) -> Intent:
        intents = list(self.intents.values())
        if self.dialogue.tools and self.rng.random() < CALL_SHARE:
            intents = [i for i in intents if i.tool in self.dialogue.tools]
        return self.rng.choices(intents, [i.weight for i in intents])[0]

    def ask(self, intent: Intent, row: Row) -> None:
        """Add a self-contained question and its answer."""
        template = intent.wordings[self.wording].pick(self.rng)
        if self.dialogue.split in TRAINING:
            said = self._delivered(template, intent, row)
            template = template if spoken_form(said) in intent.held_out else said
        self._add(intent, row, fill(template, row), intent.name)

    def _delivered(self, template: str, intent: Intent, row: Row) -> str:
        """Vary the wording as people say it, possibly with a slip of the tongue."""
        slip, spec = "", intent.spec
        if "mention" in spec and (other := self.rng.choice(intent.rows["train"])) != row:
            mention = self.rng.choice(variants(spec["mention"]))
            slip = f"{insert(template, other)}\n{mention}"
        framed = any(kind in spec for kind in self.spec["frames"])
        return self.delivery.say(template, slip, framed, self.rng)

    def _add(self, intent: Intent, row: Row, question: str, name: str) -> None:
        """Add a question about a row and its answer: text, or call, result and reply."""
        messages = self.dialogue.messages
        messages.append(Message("user", question, intent=name))
        if intent.tool in self.dialogue.tools:
            call = tool_call(intent.tool, call_arguments(intent, row))
            result, reply = self._result(intent, row)
            messages += [
                Message("assistant", call, spoken=False),
                Message("tool", json.dumps(result), spoken=False),
            ]
            answer = Message("assistant", fill(reply, row | result))
        elif intent.tool:
            answer = Message("assistant", intent.spec["without"], keys=["cannot"])
        else:
            answer = intent.answer(row)
        messages.append(answer)
        self.last = intent, row, answer
        if "recall" in intent.spec:
            self.told = intent, row

    def _result(self, intent: Intent, row: Row) -> tuple[Row, str]:
        """Draw what the tool returns, and the reply to it.

        The results of the test splits are held out; failures occur in training only.
        """
        reply = intent.spec["reply"]
        training = self.dialogue.split in TRAINING
        # A generator of its own keeps the other draws of a dialogue as they are without failures.
        number = f"{self.dialogue.split}/{self.dialogue.index}/{len(self.dialogue.messages)}"
        chance = Random(f"failure/{number}")
        if training and chance.random() < FAILURE_SHARE:
            failure = self.spec["tool_failure"]
            return chance.choice(failure["results"]), failure["reply"]
        if intent.results == [{}]:
            return {"status": "ok"}, reply
        named = call_arguments(intent, row)
        while True:
            result = self.rng.choice(intent.results)
            if training != (unit_hash(named, result) < HELD_OUT_RESULTS):
                return result, reply

    def add_related_turn(self) -> None:
        """Add a turn that refers to the last: a follow-up, correction, repetition or recall."""
        assert self.last
        intent, row, answer = self.last
        spec = intent.spec
        kinds = ["repeat"]
        if "mention" in spec:
            kinds += ["follow_up", "follow_up", "correction"]
        if "recall" in spec:
            kinds += ["recall"] * 4
        kind = self.rng.choice(kinds)
        if kind == "recall":
            self._recall(intent, row)
            return
        template = self.spec["turns"][kind]["wordings"][self.wording].pick(self.rng)
        if kind == "repeat":
            self.dialogue.messages += [Message("user", fill(template, row), intent=kind), answer]
            return
        before = row
        while row == before:
            row = self.rng.choice(intent.rows["train"])
        further = spec.get("follow_ups", [])
        if kind == "follow_up" and further and self.wording == "train" and self.rng.random() < 0.3:
            template = self.rng.choice(further)
        mention = self.rng.choice(variants(spec["mention"]))
        question = fill(template.replace("{mention}", mention), row)
        self._add(intent, row, question, f"{intent.name}+{kind}")

    def _recall(self, intent: Intent, row: Row) -> None:
        """Add a question about the name that was told."""
        template = self.spec["turns"]["recall"]["wordings"][self.wording].pick(self.rng)
        answer = Message("assistant", fill(intent.spec["recall"], row), keys=[row["name"]])
        self.dialogue.messages += [Message("user", fill(template, row), intent="recall"), answer]
