# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The `openai` package: HTTP sync and async, then a Realtime conversation."""

import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI, OpenAI

URL, MODEL = sys.argv[1], sys.argv[2]
QUESTION, FOLLOW_UP = (open(f"{name}.pcm", "rb").read() for name in ("question", "follow_up"))
SILENCE = bytes(96000)
PROMPT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


async def until(connection, kind):
    found = []
    async for event in connection:
        found.append(event)
        if event.type == kind:
            return found
        if event.type == "error":
            raise RuntimeError(event.error.message)
    raise RuntimeError(f"closed before {kind}")


def transcript(done):
    return done.response.output[0].content[0].transcript


async def main():
    result = {}
    sync = OpenAI(base_url=f"{URL}/v1", api_key="token")
    result["sync"] = sync.chat.completions.create(**PROMPT).choices[0].message.content
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="token")
    result["async"] = (await client.chat.completions.create(**PROMPT)).choices[0].message.content
    async with client.realtime.connect(model=MODEL) as connection:
        audio = b""
        for name, question in (("first", QUESTION), ("second", FOLLOW_UP)):
            data = base64.b64encode(question + SILENCE).decode()
            await connection.input_audio_buffer.append(audio=data)
            events = await until(connection, "response.done")
            audio += b"".join(
                base64.b64decode(event.delta)
                for event in events
                if event.type == "response.output_audio.delta"
            )
            result[name] = transcript(events[-1])
        open("reply.pcm", "wb").write(audio)
        data = base64.b64encode(QUESTION + SILENCE).decode()
        await connection.input_audio_buffer.append(audio=data)
        await until(connection, "response.output_audio.delta")
        await connection.input_audio_buffer.append(audio=base64.b64encode(QUESTION).decode())
        done = (await until(connection, "response.done"))[-1].response
        result["interrupted"] = done.status_details.reason
        item = done.output[0].id
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=40)
        await until(connection, "conversation.item.truncated")
        await connection.input_audio_buffer.append(audio=base64.b64encode(SILENCE).decode())
        await until(connection, "response.done")
    async with client.realtime.connect(model=MODEL) as connection:
        await connection.session.update(session={"type": "realtime", "tools": [TOOL]})
        content = [{"type": "input_text", "text": "What is the weather in Paris?"}]
        message = {"type": "message", "role": "user", "content": content}
        await connection.conversation.item.create(item=message)
        await connection.response.create()
        (call,) = (await until(connection, "response.done"))[-1].response.output
        result["tool"] = {"name": call.name, **json.loads(call.arguments)}
        output = '{"condition": "sunny", "degrees": 20}'
        answer = {"type": "function_call_output", "call_id": call.call_id, "output": output}
        await connection.conversation.item.create(item=answer)
        await connection.response.create()
        result["told"] = transcript((await until(connection, "response.done"))[-1])
        await connection.send({"type": "nothing"})
        result["error"] = (await until(connection, "error"))[-1].error.message
    print(json.dumps(result))


asyncio.run(main())
