# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Generate one reply with the engine: tool calls first, then text and audio."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from funaudiochat import turns
from funaudiochat.conversation import Conversation
from funaudiochat.events import AudioChunk, Event, Reply, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.tool_calls import CALL_OPENS, ToolCall, WithoutCalls, find_tool_calls
from web_demo.server import tools
from web_demo.server.client import Client
from web_demo.server.engine import Engine, Job
from web_demo.server.opus import FRAME_SAMPLES
from web_demo.server.reply_sender import Chunk, Text
from web_demo.server.settings import Settings

# Samples at 16 kHz and their rate, a text, or a user's turn with any of text, audio and results.
Question = tuple[np.ndarray, int] | str | turns.Turn


def samples_of(question: Question) -> np.ndarray | str:
    """Return the audio of a question [S] at 16 kHz, or else its text."""
    if isinstance(question, turns.Turn):
        words = "\n".join([*question.results, question.content])
        return words if question.audio is None else question.audio
    return question if isinstance(question, str) else question[0]


class ReplyGenerator:
    """Generates the reply to one question on a branch of the conversation.

    Args:
        client: is told of tool calls and their results.
        chat: the conversation to branch from.
        turn: number of the turn, for these events.
        on_stage: awaited with ``first_text`` and ``first_codes`` as they are reached.
        functions: definitions of functions that the client runs. A reply may end with calls of
            them, which are in ``reply``; the server's own tools are then not offered.

    Attributes:
        parent: the conversation that was branched from.
        branch: the conversation that holds the reply.
        reply: the whole reply, None until the models have finished.
        steps: steps of the reply so far.
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
        functions: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.parent, self.branch = chat, chat.branch()
        self._engine, self._client = engine, client
        self._turn, self._question, self._settings = turn, question, settings
        self._on_stage, self._functions = on_stage, list(functions)
        self.reply: Reply | None = None
        self.steps = 0
        self._asked: Conversation | None = None
        self._job: Job | None = None
        self._earlier_compute_s = 0.0

    @property
    def compute_s(self) -> float:
        """Seconds that the models have worked for this reply."""
        return self._earlier_compute_s + (0.0 if self._job is None else self._job.compute_s)

    @property
    def prompt_steps(self) -> int:
        """Steps of the newest prompt, 0 until the models have it."""
        return 0 if self._asked is None else self._asked.prompt_steps

    async def run(self, chunks: asyncio.Queue[Chunk]) -> None:
        """Put all text and audio of the reply into the queue.

        Raises:
            FunAudioChatError: the question cannot be answered.
            ConnectionError: the client has disconnected.
        """
        if self._functions:
            if not (self._settings.speech and await self._call_functions()):
                await self._generate(self._ask, chunks)
            return
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

    def _stream(self, chat: Conversation, **how: Any) -> Iterator[Event]:
        """Ask the question in a conversation."""
        self._asked, question = chat, self._question
        if isinstance(question, turns.Turn):
            return chat.stream_turn(question, **how)
        if isinstance(question, str):
            return chat.stream(text=question, **how)
        return chat.stream(audio=question, **how)

    def _ask(self) -> Iterator[Event]:
        speech = self._settings.speech
        self.branch.system = self._settings.system(speech)
        sampling = self._settings.sampling.to_sampling()
        functions = [] if speech else self._functions
        return self._stream(self.branch, tools=functions, speech=speech, sampling=sampling)

    async def _call_functions(self) -> bool:
        """Offer the client's functions before a spoken reply.

        The model writes calls only in text replies, and begins with them: as soon as its text is
        something else, it is asked again without functions.

        Returns:
            Whether the reply consists of calls and is complete.
        """
        branch = self.parent.branch()
        job = await self._submit(
            lambda: self._stream(
                branch,
                tools=self._functions,
                speech=False,
                sampling=replace(self._settings.sampling.to_sampling(), text_greedy=True),
            )
        )
        reply = await read_calls(job)
        if reply is None or not reply.tool_calls:
            return False
        self.branch, self.reply, self.steps = branch, reply, reply.usage.steps
        return True

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
            lambda: self._stream(
                branch,
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
        speech, token_count = self._settings.speech, 0
        words = WithoutCalls() if self._functions and not speech else None
        async for event in self._engine.events(job, speech, self._settings.voice):
            if isinstance(event, TextDelta):
                await self._on_stage("first_text")
                self.steps += not speech
                text = event.text if words is None else words.push(event.text)
                if text:
                    await chunks.put(Text(text, token_count * FRAME_SAMPLES))
            elif isinstance(event, SpeechTokens) and speech:
                await self._on_stage("first_codes")
                self.steps += 1
                token_count += len(event.spoken)
            elif isinstance(event, ReplyDone):
                self.reply, self.steps = event.reply, event.reply.usage.steps or self.steps
                if words is not None and (rest := words.push("", last=True)):
                    await chunks.put(Text(rest, 0))
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
