# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Generate one reply with the engine: tool calls first, then text and audio."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from funaudiochat.conversation import Conversation
from funaudiochat.events import AudioChunk, Event, Reply, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.tool_calls import CALL_OPENS, ToolCall, find_tool_calls
from web_demo.server import tools
from web_demo.server.client import Client
from web_demo.server.engine import Engine, Job
from web_demo.server.opus import FRAME_SAMPLES
from web_demo.server.reply_sender import Chunk, Text
from web_demo.server.settings import Settings

Question = tuple[np.ndarray, int] | str  # samples and their rate, or a text


class ReplyGenerator:
    """Generates the reply to one question on a branch of the conversation.

    Args:
        client: is told of tool calls and their results.
        chat: the conversation to branch from.
        turn: number of the turn, for these events.
        on_stage: awaited with ``first_text`` and ``first_codes`` as they are reached.

    Attributes:
        parent: the conversation that was branched from.
        branch: the conversation that holds the reply.
    """

    def __init__(
        self,
        engine: Engine,
        client: Client,
        chat: Conversation,
        turn: int,
        question: Question,
        settings: Settings,
        on_stage: Callable[[str], Awaitable[None]],
    ) -> None:
        self.parent, self.branch = chat, chat.branch()
        self._engine, self._client = engine, client
        self._turn, self._question, self._settings = turn, question, settings
        self._on_stage = on_stage
        self._job: Job | None = None
        self._earlier_compute_s = 0.0

    @property
    def compute_s(self) -> float:
        """Seconds that the models have worked for this reply."""
        return self._earlier_compute_s + (0.0 if self._job is None else self._job.compute_s)

    async def run(self, chunks: asyncio.Queue[Chunk]) -> None:
        """Put all text and audio of the reply into the queue.

        Raises:
            FunAudioChatError: the question cannot be answered.
            ConnectionError: the client has disconnected.
        """
        offered = self._settings.tools and self._engine.models.tools
        if not (offered and await self._answer_with_tools(chunks)):
            await self._generate(self._ask, chunks)

    def cancel(self) -> None:
        """Stop the models after the step they are in."""
        if self._job is not None:
            self._job.cancel()

    async def release(self) -> None:
        """Stop the models, and wait until they have released the reply."""
        if self._job is not None:
            self._job.cancel()
            await self._job.closed.wait()
            self._earlier_compute_s += self._job.compute_s
            self._job = None

    async def _submit(self, begin: Callable[[], Iterator[Event]]) -> Job:
        """Submit the next job, after the one before was released."""
        await self.release()
        self._job = self._engine.submit(begin)
        return self._job

    def _asked_with(self) -> dict[str, Any]:
        """Return the question as arguments of a conversation."""
        return {"text" if isinstance(self._question, str) else "audio": self._question}

    def _ask(self) -> Iterator[Event]:
        speech = self._settings.speech
        self.branch.system = self._settings.system(speech)
        sampling = self._settings.sampling.to_sampling()
        return self.branch.stream(**self._asked_with(), speech=speech, sampling=sampling)

    async def _answer_with_tools(self, chunks: asyncio.Queue[Chunk]) -> bool:
        """Offer the tools; if the model calls any, run them and generate the reply from the result.

        The model writes calls only in text replies, and begins with them: as soon as its text is
        something else, it is asked again without tools, for a spoken reply.

        Returns:
            Whether a tool was called and the reply is complete.
        """
        branch = self.parent.branch()
        sampling = self._settings.sampling.to_sampling()
        greedy = replace(sampling, text_greedy=True)  # a call is JSON: sampling only breaks it
        job = await self._submit(
            lambda: branch.stream(
                **self._asked_with(),
                tools=self._engine.models.tools,
                speech=False,
                sampling=greedy,
            )
        )
        reply = await read_calls(job)
        calls = [] if reply is None else [call for _, _, call in find_tool_calls(reply.text)]
        results = [await self._run_tool(call) for call in calls]
        if not results:
            return False
        self.branch = branch
        result = results[0] if len(results) == 1 else results
        speech = self._settings.speech
        system = self._settings.system(speech)

        def begin() -> Iterator[Event]:
            branch.system = system
            return branch.stream_tool_result(result, speech=speech, sampling=sampling)

        await self._generate(begin, chunks)
        return True

    async def _run_tool(self, call: ToolCall | str) -> dict[str, Any]:
        """Run a call and report it; the result of a malformed one says what is wrong with it."""
        if isinstance(call, str):
            return {"error": call}
        await self._client.event(
            "tool_call", turn=self._turn, name=call.name, arguments=call.arguments
        )
        result = await asyncio.to_thread(tools.run, call)
        await self._client.event("tool_result", turn=self._turn, name=call.name, result=result)
        return result

    async def _generate(
        self, begin: Callable[[], Iterator[Event]], chunks: asyncio.Queue[Chunk]
    ) -> None:
        """Run a job, and turn its speech tokens into audio."""
        job = await self._submit(begin)
        token_count = 0
        async for event in self._engine.events(job, self._settings.speech, self._settings.voice):
            if isinstance(event, TextDelta):
                await self._on_stage("first_text")
                await chunks.put(Text(event.text, token_count * FRAME_SAMPLES))
            elif isinstance(event, SpeechTokens) and self._settings.speech:
                await self._on_stage("first_codes")
                token_count += len(event.spoken)
            elif isinstance(event, AudioChunk):
                await chunks.put(event.samples)


async def read_calls(job: Job) -> Reply | None:
    """Wait for a reply that begins with a tool call; return None once its text is anything else."""
    text, reply = "", None
    async for event in job:
        if isinstance(event, ReplyDone):
            reply = event.reply
        elif isinstance(event, TextDelta):
            text += event.text
            opening = text.lstrip()[: len(CALL_OPENS)]
            if not CALL_OPENS.startswith(opening):
                return None
    return reply
