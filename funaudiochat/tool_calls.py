# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tool calls in a model's text, and tool results as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from funaudiochat.errors import FunAudioChatError

CALL_OPENS, CALL_CLOSES = "<tool_call>", "</tool_call>"
_MOST_LEVELS = 100  # of nesting in arguments; deeper ones can neither be printed nor sent as JSON


@dataclass(frozen=True)
class ToolCall:
    """A tool call that the model asks for."""

    name: str
    arguments: dict[str, Any]


def find_tool_calls(text: str) -> Iterator[tuple[int, int, ToolCall | str]]:
    """Yield start, end, and the call or an error message, of every ``<tool_call>`` block.

    A block ends where its JSON ends, so tags inside the JSON's strings are text.
    """
    start = text.find(CALL_OPENS)
    while start >= 0:
        end, found = _read_block(text, start + len(CALL_OPENS))
        yield start, end, found
        start = text.find(CALL_OPENS, end)


def parse_tool_calls(text: str) -> tuple[list[ToolCall], list[str]]:
    """Return the tool calls in a text, and one message for each malformed call."""
    found = [each for _, _, each in find_tool_calls(text)]
    calls = [each for each in found if isinstance(each, ToolCall)]
    return calls, [each for each in found if isinstance(each, str)]


class WithoutCalls:
    """Remove tool calls, well-formed or not, from a text that arrives in pieces.

    Attributes:
        found: whether there was a call.
    """

    def __init__(self) -> None:
        self.found = False
        self._held = ""

    def push(self, piece: str, last: bool = False) -> str:
        """Add a piece; return the text that is now certain not to be part of a call."""
        self._held += piece
        given = ""
        while block := next(find_tool_calls(self._held), None):
            start, end, call = block
            given, self._held = given + self._held[:start], self._held[start:]
            if not last and not isinstance(call, ToolCall):
                return given  # the rest may still come
            self.found, self._held = True, self._held[end - start :]
        length = len(self._held)
        tail = range(max(0, length - len(CALL_OPENS) + 1), length)
        keep = next((at for at in tail if CALL_OPENS.startswith(self._held[at:])), length)
        if last:
            keep = length
        given, self._held = given + self._held[:keep], self._held[keep:]
        return given


def result_text(result: Any) -> str:
    """Return a tool's result as the text the model reads: a string as it is, the rest as JSON.

    Arrays and sets become lists, dates ISO 8601 strings, bytes UTF-8 text, dataclasses objects.

    Raises:
        FunAudioChatError: a value cannot be written as JSON, or the result contains itself.
    """
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, default=_json_value)
    except (TypeError, ValueError, RecursionError) as error:
        raise FunAudioChatError(
            f"the tool's result cannot be written as JSON ({error}); pass a string, or a value "
            "made of dicts with string keys, lists, numbers and strings"
        ) from error


def _read_block(text: str, start: int) -> tuple[int, ToolCall | str]:
    """Read the block after an opening tag; return its end, and the call or an error message."""
    body = start + len(text[start:]) - len(text[start:].lstrip())
    try:
        call, end = json.JSONDecoder().raw_decode(text, body)
        end += len(text[end:]) - len(text[end:].lstrip())
        if not text.startswith(CALL_CLOSES, end):
            raise ValueError(f"expected {CALL_CLOSES} after the JSON")
        if not isinstance(call["name"], str) or not isinstance(call["arguments"], dict):
            raise TypeError("name must be a string and arguments an object")
        if _levels(call["arguments"]) > _MOST_LEVELS:
            raise RecursionError
        return end + len(CALL_CLOSES), ToolCall(call["name"], call["arguments"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        close = text.find(CALL_CLOSES, start)
        if close < 0:
            return len(text), f"a {CALL_OPENS} block is not closed"
        reason = repr(error)
        if isinstance(error, RecursionError):
            reason = f"it is nested more than {_MOST_LEVELS} levels deep"
        block = text[start:close].strip()[:200]
        return close + len(CALL_CLOSES), f"malformed tool call {block!r}: {reason}"


def _levels(value: Any) -> int:
    """Return how deep lists and objects are nested, without recursion."""
    count, level = 0, [value]
    while level := [each for each in level if isinstance(each, (dict, list))]:
        count += 1
        level = [e for each in level for e in (each.values() if isinstance(each, dict) else each)]
    return count


def _json_value(value: Any) -> Any:
    match value:
        case set() | frozenset():
            return sorted(value, key=str)
        case bytes() | bytearray():
            return value.decode("utf-8", errors="replace")
        case date() | time():  # a datetime is a date
            return value.isoformat()
        case Enum():
            return value.value
        case Decimal() | UUID() | PurePath():
            return str(value)
    if callable(to_list := getattr(value, "tolist", None)):  # arrays, their scalars, tensors
        return to_list()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
