# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The demo's tools answer whatever a model calls them with."""

import json
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from funaudiochat.tool_calls import ToolCall
from web_demo.server.tools import CONDITIONS, DEFINITIONS, FUNCTIONS, run


def test_every_definition_has_its_function_and_answers():
    assert {tool["name"] for tool in DEFINITIONS} == set(FUNCTIONS)
    for tool in DEFINITIONS:
        arguments = dict.fromkeys(tool["parameters"]["required"], "Rome")
        result = run(ToolCall(tool["name"], arguments))
        assert result and "error" not in result
        json.dumps(result)


def test_weather_is_the_same_however_a_city_is_written():
    weather = run(ToolCall("get_weather", {"city": "Paris"}))
    assert weather == run(ToolCall("get_weather", {"city": "paris"}))
    assert weather["condition"] in CONDITIONS and 2 <= weather["degrees"] <= 40


def test_the_time_is_that_of_the_city():
    before = datetime.now(ZoneInfo("America/New_York"))
    found = run(ToolCall("get_time", {"city": "new york"}))
    after = datetime.now(ZoneInfo("America/New_York"))
    assert (found["hour"], found["minute"]) in {
        (now.hour % 12 or 12, now.minute) for now in (before, after)
    }


def test_a_level_is_a_share():
    assert 0 < run(ToolCall("get_battery", {}))["percent"] <= 100


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("launch_rocket", {}),
        ToolCall("get_weather", {}),
        ToolCall("get_weather", {"town": "Paris"}),
        ToolCall("get_battery", {"city": "Paris"}),
    ],
)
def test_a_wrong_call_becomes_a_result_the_model_can_tell(call):
    assert call.name in run(call)["error"]


@pytest.mark.parametrize("city", ["", "../../etc/passwd", "Atlantis", None, 7, ["x"]])
def test_no_city_breaks_a_tool(city):
    for name in ("get_weather", "get_time"):
        assert "error" not in run(ToolCall(name, {"city": city}))
