# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Function-call scoring by the rules of ACEBench, as the paper's scorer applies them.

The rules are lenient in ways that are kept: numbers and booleans at the top level are not compared,
strings need only contain the expected ones, and one call may satisfy two expectations. They are
also surprisingly strict: no value matches an expected ``[]`` or ``{}``, and a call without
arguments is correct only for a function without a schema.
"""

import re
from collections import Counter
from typing import Any

from evaluate.scorers.tool_calls import (
    CRASHES,
    PYTHON_TYPES,
    Call,
    CallVerdict,
    MalformedCall,
    function_of,
    read_calls,
    standardise,
    standardised,
)

_REPEAT = re.compile(r"_\d+$")
# ACEBench's own types in addition to those of JSON schema. No value has the type "enum", so only
# the type of the expected value matters there.
_TYPES: dict[str, type] = {
    **PYTHON_TYPES,
    "int": int,
    "list": list,
    "objectArray": list,
    "list(string)": list,
    "list(enum)": list,
    "enum": enumerate,
}
_CONTAINERS = ("array", "tuple", "list(string)", "list(enum)", "object", "objectArray")


def check(tools: list[dict[str, Any]], expected: Any, reply: str) -> CallVerdict:
    """Check the calls of a reply.

    Args:
        tools: function definitions that were offered to the model.
        expected: ``{function: {parameter: value}}``, with the suffixes ``_1``, ``_2``, ... for
            repeated functions; or a list of such alternatives.
        reply: reply of the model.
    """
    try:
        calls = read_calls(reply)
    except MalformedCall:
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
            error = _call_error(function, name, values, call)
            if error is None:
                break
        if error is not None:
            return error
    return None


def _call_error(
    function: dict[str, Any], name: str, expected: dict[str, Any], call: Call
) -> str | None:
    if call.name != name:
        return "simple_function_checker:unclear"
    schema = function.get("parameters") or {}
    if not schema or not call.arguments:
        return "wrong_param" if schema or call.arguments else None
    properties = schema["properties"]
    if expected == properties:
        return None
    if not expected:
        return "wrong_param"
    if call.name != function["name"]:
        return "wrong_function_name"
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
    wanted: Any = _TYPES[declared]
    item_type = _item_type(schema)
    value = _truth(float(value) if declared == "float" and type(value) is int else value)
    if type(value) is not wanted:
        # An expected value of another type than declared matches any value of that type.
        same = expected != "" and (type(value) is type(expected) or value == expected)
        return None if same else "type_error"
    if item_type is not None and not any(_fit(value, item_type, one) for one in expected):
        return "type_error"  # also for every value if nothing is expected
    if expected != "" and type(expected) is not wanted:
        return None
    if wanted is str:
        contained = standardise(expected) in standardise(value)
        return None if contained else "value_error:string"
    if wanted is dict:
        return _dict_error(value, expected)
    if wanted is list:
        return _list_error(item_type, expected, value)
    return None


def _item_type(schema: dict[str, Any]) -> Any:
    """Return the type required of a container's elements, None if there is none."""
    declared = schema["type"]
    if declared not in _CONTAINERS:
        return None
    items = schema.get("items")
    if isinstance(items, dict) and "type" in items:
        return _TYPES[items["type"]]
    return next((_TYPES[name] for name in ("string", "enum") if name in declared), dict)


def _fit(values: Any, item_type: Any, expected: Any) -> bool:
    """Check whether values have the declared type; only lists of lists are inspected."""
    return not isinstance(expected, list) or all(
        type(_truth(value)) in (item_type, list) or value == expected for value in values
    )


def _truth(value: Any) -> Any:
    """Convert ``"true"`` and ``"false"``, in lower case only, to booleans."""
    return value == "true" if value in ("true", "false") else value


def _list_error(item_type: Any, expected: list[Any], values: list[Any]) -> str | None:
    if item_type is dict:
        if len(values) != len(expected):
            return "value_error:list_dict_count"
        errors = (_dict_error(v, e) for v, e in zip(values, expected, strict=True))
        return next((error for error in errors if error is not None), None)
    same = [standardised(v) for v in values] == [standardised(e) for e in expected]
    return None if same else "value_error:list/tuple"


def _dict_error(value: Any, expected: dict[str, Any]) -> str | None:
    if not isinstance(value, dict) or len(value) != len(expected.keys()):
        return "value_error"
    for key, given in value.items():
        if key not in expected:
            return "value_error"
        wanted, given = expected[key], _truth(given)
        if isinstance(wanted, dict):
            error = _dict_error(given, wanted)
            if error is not None:
                return error
        elif str(standardised(wanted)) not in str(standardised(given)):
            return "value_error"
    return None
