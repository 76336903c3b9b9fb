# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""pipecat: two spoken turns, an interruption, a tool call, an error, close."""

import asyncio
import json
import sys

from pipecat.adapters.schemas.function_schema import FunctionSchema
from pipecat.adapters.schemas.tools_schema import ToolsSchema
from pipecat.frames.frames import (
    EndFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService

URL, MODEL = sys.argv[1].replace("http", "ws"), sys.argv[2]
QUESTION, FOLLOW_UP = (open(f"{name}.pcm", "rb").read() for name in ("question", "follow_up"))
SILENCE = bytes(96000)
result = {}


class Collect(FrameProcessor):
    def __init__(self):
        super().__init__()
        self.text, self.audio, self.interrupted = "", b"", 0
        self.changed = asyncio.Event()
        self.replies = self.errors = 0

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.text += frame.text
        elif isinstance(frame, TTSAudioRawFrame):
            self.audio += frame.audio
        elif isinstance(frame, InterruptionFrame):
            self.interrupted += 1
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.replies += 1
        self.changed.set()
        await self.push_frame(frame, direction)

    async def until(self, found):
        while not found():
            self.changed.clear()
            await self.changed.wait()


async def say(task, data):
    for start in range(0, len(data), 1920):
        await task.queue_frame(InputAudioRawFrame(data[start : start + 1920], 24000, 1))
        await asyncio.sleep(0.03)


async def get_weather(params):
    result["tool"] = {"name": "get_weather", **params.arguments}
    await params.result_callback({"condition": "sunny", "degrees": 20})


async def converse(context, act):
    settings = OpenAIRealtimeLLMService.Settings(model=MODEL)
    service = OpenAIRealtimeLLMService(
        api_key="token", base_url=f"{URL}/v1/realtime", settings=settings
    )
    service.register_function("get_weather", get_weather)
    collect, pair = Collect(), LLMContextAggregatorPair(context)
    errors = asyncio.Queue()

    @service.event_handler("on_error")
    async def on_error(service, error):
        await errors.put(error)

    pipeline = Pipeline([pair.user(), service, collect, pair.assistant()])
    task = PipelineTask(pipeline, params=PipelineParams())
    running = asyncio.create_task(PipelineRunner().run(task))
    await task.queue_frame(LLMContextFrame(context))
    await act(task, service, collect, errors)
    await task.queue_frame(EndFrame())
    await running


async def speak(task, service, collect, errors):
    await collect.until(lambda: collect.replies)  # the greeting
    for name, question in (("first", QUESTION), ("second", FOLLOW_UP)):
        before, collect.text = collect.replies, ""
        await say(task, question + SILENCE)
        await collect.until(lambda: collect.replies > before)  # noqa: B023
        result[name] = collect.text
        await asyncio.sleep(2)
    before, heard = collect.interrupted, len(collect.audio)
    await say(task, QUESTION + SILENCE)
    await collect.until(lambda: len(collect.audio) > heard)
    asking = collect.interrupted
    await say(task, QUESTION)
    await collect.until(lambda: collect.interrupted > asking)
    result["interrupted"] = collect.interrupted - before
    await say(task, SILENCE)


async def call(task, service, collect, errors):
    await collect.until(lambda: "degrees" in collect.text or collect.replies > 1)
    await asyncio.sleep(1)
    result["told"] = collect.text
    await service._ws_send({"type": "nothing"})
    result["error"] = str((await errors.get()).error)


async def main():
    await converse(LLMContext(), speak)
    tool = FunctionSchema(
        "get_weather", "Weather of a city", {"city": {"type": "string"}}, ["city"]
    )
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    await converse(LLMContext(messages, tools=ToolsSchema(standard_tools=[tool])), call)
    print(json.dumps(result))


asyncio.run(main())
