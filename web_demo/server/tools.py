# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tools of the demo: definitions for the model, and functions that return sample data.

The definitions are those that Fun-Audio-Chat-Nano was trained with.
"""

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from funaudiochat.tool_calls import ToolCall

logger = logging.getLogger(__name__)

CONDITIONS = ("sunny", "cloudy", "rainy", "windy", "snowy")


def _definition(name: str, description: str, **parameters: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": {key: {"type": kind} for key, kind in parameters.items()},
            "required": list(parameters),
        },
    }


DEFINITIONS = [
    _definition("get_weather", "Weather of a city", city="string"),
    _definition("get_time", "Time in a city", city="string"),
    _definition("get_battery", "Battery level"),
]


def get_weather(city: str) -> dict[str, Any]:
    """Return made-up weather, the same for a city all day."""
    today = f"{city.lower()} {datetime.now(UTC):%Y-%m-%d}"
    seed = int.from_bytes(hashlib.sha256(today.encode()).digest()[:4])
    return {"condition": CONDITIONS[seed % len(CONDITIONS)], "degrees": 2 + seed // 8 % 39}


def get_time(city: str = "") -> dict[str, Any]:
    """Return the time in a city of the time zone database, or else the server's own."""
    wanted = city.strip().lower().replace(" ", "_")
    names = (name for name in available_timezones() if name.lower().split("/")[-1] == wanted)
    zone = next((ZoneInfo(name) for name in names), None)
    now = datetime.now(zone)
    return {"hour": now.hour % 12 or 12, "minute": now.minute}


def get_battery() -> dict[str, Any]:
    """Return a level that falls over the hour: the demo has no battery to read."""
    return {"percent": 100 - datetime.now(UTC).minute}


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "get_weather": get_weather,
    "get_time": get_time,
    "get_battery": get_battery,
}


def run(call: ToolCall) -> dict[str, Any]:
    """Run a call; an error becomes its result, so that the model can report it."""
    function = FUNCTIONS.get(call.name)
    if function is None:
        return {"error": f"there is no function named {call.name}"}
    try:
        return function(**{key: str(value) for key, value in call.arguments.items()})
    except TypeError:
        return {"error": f"{call.name} does not take the arguments {sorted(call.arguments)}"}
    except Exception as error:  # whatever a service raises
        logger.exception("the tool %s failed", call.name)
        return {"error": f"{call.name} failed ({type(error).__name__}: {error})"}
