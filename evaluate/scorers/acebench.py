# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Function calls by the rules of ACEBench, as the paper's scorer applies them.

They are lenient in ways that are kept: numbers and booleans at the top level are not compared,
texts need only contain the expected ones, and one call may serve two expectations.
"""

import re
from collections import Counter
from typing import Any

from evaluate.scorers.tool_calls import (
    CRASHES,
    PYTHON_TYPES,
    Call,
    CallVerdict,
    NotCalls,
    function_of,
    read_calls,
    standardise,
    standardised,
)

_REPEAT = re.compile(r"_\d+$")


def check(tools: list[dict[str, Any]], expected: Any, reply: str) -> CallVerdict:
    """Judge the calls of a reply.

    Args:
        tools: function definitions the model was given.
        expected: ``{function: {parameter: value}}``, a repeated function with the suffix ``_1``,
            ``_2``, ...; or a list of such alternatives.
    """
    try:
        calls = read_calls(reply)
    except NotCalls:
        return CallVerdict(False, "ast_decoder:decoder_failed")
    alternatives = expected if isinstance(expected, list) else [expected]
    errors = []
    try:
        for alternative in alternatives:
            error = _calls_error(tools, alternative, calls)
            if error is None:
                return CallVerdict(True)
            errors.append(error)
    except CRASHES as crash:
        return CallVerdict(False, f"malformed:{type(crash).__name__}")
    return CallVerdict(False, errors[0] if errors else "malformed:no alternative")


def _calls_error(tools: list[Any], expected: dict[str, Any], calls: list[Call]) -> str | None:
    if len(calls) != len(expected):
        return "wrong functions number"
    names = list(expected)
    if len(names) > 1:
        names = [_REPEAT.sub("", name) for name in names]
    if Counter(names) != Counter(call.name for call in calls):
        return "function_mismatch"
    for name, (key, values) in zip(names, expected.items(), strict=True):
        function = next(f for tool in tools if (f := function_of(tool))["name"] in key)
        error: str | None = None
        for call in calls:
            error = _call_error(function.get("parameters") or {}, name, values, call)
            if error is None:
                break
        if error is not None:
            return error
    return None


def _call_error(
    schema: dict[str, Any], name: str, expected: dict[str, Any], call: Call
) -> str | None:
    if call.name != name:
        return "simple_function_checker:unclear"
    properties = schema.get("properties") or {}
    if not properties or not call.arguments:
        return "wrong_param" if properties or call.arguments else None
    if any(parameter not in call.arguments for parameter in schema.get("required") or ()):
        return "lack_args"
    for parameter, value in call.arguments.items():
        if parameter not in properties or parameter not in expected:
            return "addition_args"
        error = _value_error(properties[parameter], expected[parameter], value)
        if error is not None:
            return error
    return None


def _value_error(schema: dict[str, Any], expected: Any, value: Any) -> str | None:
    declared = schema["type"]
    wanted: Any = PYTHON_TYPES[declared]
    if declared == "boolean" and value in ("true", "false"):
        value = value == "true"
    if declared == "float" and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        return None if type(value) is type(expected) else "type_error:simple"
    if wanted is list and not expected:
        # The published check of the elements' type looks for one expected element that fits.
        return "type_error:nested"
    if type(expected) is not wanted:
        return None
    if wanted is str:
        contained = standardise(expected) in standardise(value)
        return None if contained else "value_error:string"
    if wanted is dict:
        return _dict_error(value, expected)
    if wanted is list:
        return _list_error(schema, expected, value)
    return None


def _list_error(schema: dict[str, Any], expected: list[Any], values: list[Any]) -> str | None:
    if PYTHON_TYPES[schema["items"]["type"]] is dict:
        if any(not isinstance(value, dict) for value in values):
            return "type_error:nested"
        if len(values) != len(expected):
            return "value_error:list_dict_count"
        errors = (_dict_error(v, e) for v, e in zip(values, expected, strict=True))
        return next((error for error in errors if error is not None), None)
    same = [standardised(v) for v in values] == [standardised(e) for e in expected]
    return None if same else "value_error:list/tuple"


def _dict_error(value: dict[str, Any], expected: dict[str, Any]) -> str | None:
    if len(value) != len(expected):
        return "value_error"
    for key, given in value.items():
        if key not in expected:
            return "value_error:dict_key"
        wanted = expected[key]
        if isinstance(given, dict) and isinstance(wanted, dict):
            error = _dict_error(given, wanted)
            if error is not None:
                return error
        elif standardise(str(wanted)) not in standardise(str(given)):
            return "value_error:dict_value"
    return None
