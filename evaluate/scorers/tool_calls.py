# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What both function-call scorers share: reading calls, types, and comparing texts."""

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


# Where the reference crashes: a schema or an expectation that is none. The item is wrong.
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
    """Whether the calls are the expected ones, and else the kind of the first error."""

    valid: bool
    error_type: str = "correct"


class NotCalls(ValueError):
    """A block that is JSON but no function call."""


@dataclass(frozen=True)
class Call:
    """One function call of a reply."""

    name: str
    arguments: dict[str, Any]


def _blocks(text: str) -> list[str]:
    """The objects within ``<tool_call>`` tags, in time linear in the text."""
    found, position = [], 0
    while (opened := _OPEN.search(text, position)) is not None:
        closed = _CLOSE.search(text, opened.end())
        if closed is None:
            break
        found.append(text[opened.end() - 1 : closed.start() + 1])
        position = closed.end()
    return found


def read_calls(text: str) -> list[Call]:
    """The calls of a reply; blocks that are no JSON are passed over.

    Raises:
        NotCalls: a block lacks a name or an object of arguments; the whole item fails.
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
            raise NotCalls("a call needs a name and an object of arguments")
        calls.append(Call(call["name"], arguments))
    return calls


def standardise(text: str) -> str:
    """A text without blanks and ``, . / - _ * ^``, in small letters, with double quotes."""
    return _IGNORED_CHARACTERS.sub("", text).lower().replace("'", '"')


def standardised(value: Any) -> Any:
    """The same of a text, any other value as it is."""
    return standardise(value) if isinstance(value, str) else value


def function_of(tool: dict[str, Any]) -> dict[str, Any]:
    """The definition within ``{"type": "function", "function": ...}``, or the tool itself."""
    return tool.get("function", tool)
