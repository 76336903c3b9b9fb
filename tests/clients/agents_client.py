# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""OpenAI's Agents SDK: two spoken turns, an interruption, a tool call, an error, close."""

import asyncio
import json
import sys

from agents import function_tool
from agents.realtime import RealtimeAgent, RealtimeRunner
from agents.realtime.model_inputs import RealtimeModelSendRawMessage

URL, MODEL = sys.argv[1].replace("http", "ws"), sys.argv[2]
QUESTION, FOLLOW_UP = (open(f"{name}.pcm", "rb").read() for name in ("question", "follow_up"))
SILENCE = bytes(96000)
result = {}


@function_tool
def get_weather(city: str) -> str:
    """Weather of a city"""
    result["tool"] = {"name": "get_weather", "city": city}
    return '{"condition": "sunny", "degrees": 20}'


async def until(session, *kinds):
    async for event in session:
        if event.type in kinds:
            return event


def said(session):
    messages = [item for item in session._history if getattr(item, "role", "") == "assistant"]
    return messages[-1].content[0].transcript


async def main():
    agent = RealtimeAgent(name="Assistant", tools=[get_weather])
    settings = {"model_name": MODEL, "turn_detection": {"type": "server_vad"}}
    runner = RealtimeRunner(agent, config={"model_settings": settings})
    config = {"url": f"{URL}/v1/realtime?model={MODEL}", "api_key": "token"}
    async with await runner.run(model_config=config) as session:
        for name, question in (("first", QUESTION), ("second", FOLLOW_UP)):
            await session.send_audio(question + SILENCE)
            await until(session, "agent_end")
            result[name] = said(session)
            await asyncio.sleep(3)
        await session.send_audio(QUESTION + SILENCE)
        await until(session, "audio")
        await session.send_audio(QUESTION)
        result["interrupted"] = (await until(session, "audio_interrupted")).type
    async with await runner.run(model_config=config) as session:
        await session.send_message("What is the weather in Paris?")
        await until(session, "tool_end")
        await until(session, "audio_end")
        await asyncio.sleep(1)
        result["told"] = said(session)
        message = {"type": "conversation.item.delete", "other_data": {"item_id": "nothing"}}
        await session.model.send_event(RealtimeModelSendRawMessage(message=message))
        error = (await until(session, "error")).error
        result["error"] = getattr(error, "message", str(error))
    print(json.dumps(result))


asyncio.run(main())
