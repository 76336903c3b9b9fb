# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Function-call scoring by the rules of the Berkeley Function-Calling Leaderboard.

The rules include the changes made for the paper. ``accepted`` is always the list of values that
count as correct; an empty string among them means that the parameter is optional.
"""

from typing import Any

from evaluate.scorers.tool_calls import (
    CRASHES,
    PYTHON_TYPES,
    Call,
    CallVerdict,
    MalformedCall,
    function_of,
    read_calls,
    standardised,
)

_SIMPLE = "simple_function_checker"
_PARALLEL = "parallel_function_checker_no_order"


def check(
    tools: list[dict[str, Any]], expected: list[dict[str, Any]], reply: str, parallel: bool
) -> CallVerdict:
    """Check the calls of a reply.

    Args:
        tools: function definitions that were offered to the model.
        expected: ``[{function: {parameter: accepted}}, ...]``.
        reply: reply of the model.
        parallel: whether to expect several calls in any order instead of one.
    """
    try:
        calls = read_calls(reply)
    except MalformedCall:
        return CallVerdict(False, "ast_decoder:decoder_failed")
    try:
        error = _parallel(tools, expected, calls) if parallel else _single(tools, expected, calls)
    except CRASHES as crash:
        return CallVerdict(False, f"malformed:{type(crash).__name__}")
    return CallVerdict(error is None, error or "correct")


def _single(tools: list[Any], expected: list[Any], calls: list[Call]) -> str | None:
    if len(calls) != len(expected):
        return "multiple_function_checker:wrong_count"
    return _call_error(tools, expected[0], calls[0])


def _parallel(tools: list[Any], expected: list[Any], calls: list[Call]) -> str | None:
    if len(calls) != len(expected):
        return f"{_PARALLEL}:wrong_count"
    unused = list(calls)
    for entry in expected:  # no backtracking: the first matching call is used
        for index, call in enumerate(unused):
            if _call_error(tools, entry, call) is None:
                del unused[index]
                break
        else:
            return f"{_PARALLEL}:cannot_find_match"
    return None


def _call_error(tools: list[Any], entry: dict[str, Any], call: Call) -> str | None:
    """Return the error of one call, None if it is correct."""
    name, accepted = next(iter(entry.items()))
    schema = next(f for tool in tools if (f := function_of(tool))["name"] == name)["parameters"]
    properties = schema.get("properties") or {}
    if call.name != name:
        return f"{_SIMPLE}:wrong_func_name"
    if any(parameter not in call.arguments for parameter in schema.get("required") or ()):
        return f"{_SIMPLE}:missing_required"
    for parameter, value in call.arguments.items():
        if parameter not in properties or parameter not in accepted:
            return f"{_SIMPLE}:unexpected_param"
        error = _value_error(properties[parameter], accepted[parameter], value)
        if error is not None:
            return error
    for parameter, values in accepted.items():
        if parameter not in call.arguments and "" not in values:
            return f"{_SIMPLE}:missing_optional"
    return None


def _value_error(schema: dict[str, Any], accepted: list[Any], value: Any) -> str | None:
    declared = schema["type"]
    if declared == "object":
        return None
    wanted: Any = PYTHON_TYPES[declared]
    item_type: Any = None
    if declared in ("array", "tuple"):
        item_type = PYTHON_TYPES[schema["items"]["type"]]
    if declared == "float" and type(value) is int:
        value = float(value)
    error, as_listed = _type_error(value, accepted, wanted, item_type)
    if error is not None:
        return error
    if not as_listed:
        if wanted is dict:
            return _dict_error(value, accepted)
        if item_type is dict:
            return _dicts_error(value, accepted)
        if wanted is str:
            return None if standardised(value) in _texts(accepted) else "value_error:string"
        if wanted is list:
            # An empty string among the accepted values is treated as an empty list here.
            lists = [[standardised(item) for item in values] for values in accepted]
            given = [standardised(item) for item in value]
            return None if given in lists else "value_error:list/tuple"
    return None if value in accepted else "value_error:others"


def _texts(accepted: list[Any]) -> list[Any]:
    return [standardised(value) for value in accepted if isinstance(value, str)]


def _type_error(
    value: Any, accepted: list[Any], wanted: Any, item_type: Any
) -> tuple[str | None, bool]:
    """Return the type error of a value, and whether to look it up in ``accepted`` unchanged.

    The latter applies if the accepted values have another type than the schema declares.
    """
    listed = next((type(v) for v in accepted if v != ""), None)
    error = "type_error:simple"
    if type(value) is wanted:
        as_listed = listed not in (None, wanted)
        if item_type is None or any(
            not isinstance(values, list)
            or all(_type_error(item, values, item_type, None)[0] is None for item in value)
            for values in accepted
        ):
            return None, as_listed
        error = "type_error:nested"
    if type(value) is listed:
        return (None if error == "type_error:simple" else error), True
    return "type_error:simple", False


def _dict_error(value: dict[str, Any], accepted: list[Any]) -> str | None:
    error: str | None = "dict_checker:unclear"
    for wanted in accepted:
        if wanted == "":
            continue
        error = None
        for key, given in value.items():
            if key not in wanted:
                error = "value_error:dict_key"
            elif standardised(given) not in [standardised(v) for v in wanted[key]]:
                error = "value_error:dict_value"
            if error is not None:
                break
        if any(key not in value and "" not in values for key, values in wanted.items()):
            error = "value_error:dict_key"
        if error is None:
            return None
    return error


def _dicts_error(values: list[Any], accepted: list[Any]) -> str | None:
    error: str | None = "list_dict_checker:unclear"
    for wanted in accepted:
        if len(values) != len(wanted):
            error = "value_error:list_dict_count"
            continue
        errors = (_dict_error(value, [entry]) for value, entry in zip(values, wanted, strict=True))
        error = next((e for e in errors if e is not None), None)
        if error is None:
            return None
    return error
