# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turns of a conversation: their content, the prompt built from them, and the history kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from funaudiochat.constants import AUDIO_TEMPLATE, MAX_HISTORY_TURNS
from funaudiochat.plain_text import protect, protect_answer, protect_system
from funaudiochat.tool_calls import ToolCall, find_tool_calls

if TYPE_CHECKING:
    from funaudiochat.processing_funaudiochat import FunAudioChatProcessor

_RESULT_MARKUP = ("<tool_response>\n", "\n</tool_response>")


@dataclass(frozen=True)
class Turn:
    """One message of the system, the user or the assistant.

    Attributes:
        role: "system", "user" or "assistant".
        content: the text.
        audio: float32 [samples] at 16 kHz, placed before the text.
        results: results of the tool calls in the turn before, as text; a message of their own.
        offered: names of the tools this reply could call; without them a call is ordinary text.
    """

    role: str
    content: str = ""
    audio: np.ndarray | None = None
    results: tuple[str, ...] = ()
    offered: frozenset[str] = frozenset()

    def messages(self, tokenizer: Any) -> Iterator[tuple[str, np.ndarray | None]]:
        """Yield text and audio of each message of the prompt, control tokens in the text escaped.

        Args:
            tokenizer: the one that will encode the prompt, None for a server's; see
                :func:`funaudiochat.plain_text.protect`.
        """
        if self.role == "system":
            yield protect_system(tokenizer, self.content), None
        elif self.offered:
            yield protect_answer(tokenizer, self.content), None
        else:
            if self.results:
                results = [protect(tokenizer, r).join(_RESULT_MARKUP) for r in self.results]
                yield "\n".join(results), None
            if not self.results or self.content or self.audio is not None:
                yield protect(tokenizer, self.content), self.audio


def render_prompt(processor: FunAudioChatProcessor, turns: Sequence[Turn]) -> str:
    """Return the prompt of a conversation, one ``AUDIO_TEMPLATE`` for the audio of each turn."""
    messages = []
    for turn in turns:
        for content, audio in turn.messages(processor.tokenizer):
            if audio is not None:
                content = f"{AUDIO_TEMPLATE}\n{content}" if content else AUDIO_TEMPLATE
            messages.append({"role": turn.role, "content": content})
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def tool_names(tools: Sequence[dict[str, Any]]) -> frozenset[str]:
    """Return the names in function definitions, bare or in OpenAI's envelope."""
    return frozenset(str(tool.get("function", tool).get("name")) for tool in tools)


def call_problems(turn: Turn) -> list[str]:
    """Return messages about malformed calls of a reply and calls of tools that were not offered."""
    found = [each for _, _, each in find_tool_calls(turn.content)]
    return [
        f"there is no tool named {each.name}; tools offered: {', '.join(sorted(turn.offered))}"
        if isinstance(each, ToolCall)
        else each
        for each in found
        if not isinstance(each, ToolCall) or turn.offered and each.name not in turn.offered
    ]


def missing_results(history: Sequence[Turn]) -> tuple[str, ...]:
    """Return a failure for every tool call of the last reply, none of which got a result.

    A model that reads its own call with nothing after it assumes that the call succeeded.
    """
    if not history or not history[-1].offered:
        return ()
    found = [each for _, _, each in find_tool_calls(history[-1].content)]
    failures = call_problems(history[-1])
    failures += [
        f"{each.name} was not run"
        for each in found
        if isinstance(each, ToolCall) and each.name in history[-1].offered
    ]
    return tuple(json.dumps({"error": text}, ensure_ascii=False) for text in failures)


def recent(history: Sequence[Turn]) -> list[Turn]:
    """Return the most recent rounds, as many as the model was trained with."""
    return _begin(history[-2 * MAX_HISTORY_TURNS :])


def drop_oldest(history: Sequence[Turn]) -> list[Turn]:
    """Return a history without its first round and the results of tool calls in that round."""
    return _begin(history[2:])


def dropped_rounds(kept: Sequence[Turn], before: Sequence[Turn]) -> list[str]:
    """Return a message about the rounds that were dropped from a history, if any."""
    rounds = (len(before) - len(kept)) // 2
    return [f"the context was full: the {rounds} oldest rounds were dropped"] if rounds else []


def _begin(history: Sequence[Turn]) -> list[Turn]:
    turns = list(history)
    while turns and turns[0].results and turns[0].audio is None and not turns[0].content:
        del turns[:2]
    if turns and turns[0].results:
        turns[0] = replace(turns[0], results=())
    return turns
