# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Shared parts of the function-call scorers: parsing calls, types, and string comparison."""

import json
import re
from dataclasses import dataclass
from typing import Any

_OPEN = re.compile(r"<tool_call>\s*\{")
_CLOSE = re.compile(r"\}\s*</tool_call>")
_IGNORED_CHARACTERS = re.compile(r"[ ,./\-_*^]")

PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "number": int,  # not float: a quirk of the reference
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
    "any": str,
}


# The reference crashes on malformed schemas and expectations; the item then counts as wrong.
CRASHES = (
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    ValueError,
    StopIteration,
    RecursionError,
)


@dataclass(frozen=True)
class CallVerdict:
    """Whether the calls are as expected, and the kind of the first error if not."""

    valid: bool
    error_type: str = "correct"


class MalformedCall(ValueError):
    """A block that is JSON but not a function call."""


@dataclass(frozen=True)
class Call:
    """One function call of a reply."""

    name: str
    arguments: dict[str, Any]


def _blocks(text: str) -> list[str]:
    """Find the objects in ``<tool_call>`` tags, in linear time."""
    found, position = [], 0
    while (opened := _OPEN.search(text, position)) is not None:
        closed = _CLOSE.search(text, opened.end())
        if closed is None:
            break
        found.append(text[opened.end() - 1 : closed.start() + 1])
        position = closed.end()
    return found


def read_calls(text: str) -> list[Call]:
    """Parse the calls of a reply; blocks that are not valid JSON are skipped.

    Raises:
        MalformedCall: a block lacks a name or an object of arguments; the item then fails.
    """
    calls = []
    for block in _blocks(text):
        try:
            call = json.loads(block.replace("\\n", " "))
        except (ValueError, RecursionError):
            continue
        arguments = call.get("arguments")
        if isinstance(arguments, list) and len(arguments) == 1:
            arguments = arguments[0]
        if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
            raise MalformedCall("a call needs a name and an object of arguments")
        calls.append(Call(call["name"], arguments))
    return calls


def standardise(text: str) -> str:
    """Remove spaces and ``, . / - _ * ^``, convert to lower case and to double quotes."""
    return _IGNORED_CHARACTERS.sub("", text).lower().replace("'", '"')


def standardised(value: Any) -> Any:
    """Standardise a string; return any other value unchanged."""
    return standardise(value) if isinstance(value, str) else value


def function_of(tool: dict[str, Any]) -> dict[str, Any]:
    """Return the definition in ``{"type": "function", "function": ...}``, or the tool itself."""
    return tool.get("function", tool)
