# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""LiveKit's RealtimeModel: two spoken turns, an interruption, a tool call, an error, close."""

import asyncio
import json
import sys

from livekit import rtc
from livekit.agents import llm
from livekit.plugins.openai.realtime import RealtimeModel

URL, MODEL = sys.argv[1], sys.argv[2]
QUESTION, FOLLOW_UP = (open(f"{name}.pcm", "rb").read() for name in ("question", "follow_up"))
SILENCE = bytes(96000)


@llm.function_tool
async def get_weather(city: str) -> str:
    """Weather of a city"""
    return "sunny"


def say(session, data):
    for start in range(0, len(data) - 1919, 1920):
        session.push_audio(rtc.AudioFrame(data[start : start + 1920], 24000, 1, 960))


async def heard(generation):
    text = ""
    async for message in generation.message_stream:
        async for piece in message.text_stream:
            text += piece
    return text


async def main():
    result = {}
    model = RealtimeModel(model=MODEL, base_url=f"{URL}/v1", api_key="token")
    session = model.session()
    generations, errors, started = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
    session.on("generation_created", generations.put_nowait)
    session.on("error", errors.put_nowait)
    session.on("input_speech_started", started.put_nowait)
    for name, question in (("first", QUESTION), ("second", FOLLOW_UP)):
        say(session, question + SILENCE)
        result[name] = await heard(await generations.get())
        await asyncio.sleep(2)
    say(session, QUESTION + SILENCE)
    generation = await generations.get()
    async for message in generation.message_stream:
        async for _ in message.audio_stream:
            break
        session.interrupt()
        async for _ in message.text_stream:
            pass
        session.truncate(
            message_id=message.message_id, modalities=["audio"], audio_end_ms=40,
            audio_transcript="The",
        )  # fmt: skip
    result["interrupted"] = True
    await session.aclose()
    session = model.session()
    session.on("error", errors.put_nowait)
    await session.update_tools([get_weather])
    chat = session.chat_ctx.copy()
    chat.add_message(role="user", content="What is the weather in Paris?")
    await session.update_chat_ctx(chat)
    generation = await session.generate_reply()
    async for call in generation.function_stream:
        result["tool"] = {"name": call.name, **json.loads(call.arguments)}
    chat = session.chat_ctx.copy()
    chat.items.append(call)
    chat.items.append(
        llm.FunctionCallOutput(
            call_id=call.call_id,
            name=call.name,
            output='{"condition": "sunny", "degrees": 20}',
            is_error=False,
        )
    )
    await session.update_chat_ctx(chat)
    result["told"] = await heard(await session.generate_reply())
    session.send_event({"type": "nothing"})
    error = (await errors.get()).error
    result["error"] = str(getattr(error, "body", error))
    await session.aclose()
    print(json.dumps(result))


asyncio.run(main())
