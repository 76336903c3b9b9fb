# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Generate the reply to a request on the engine that all sessions share."""

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.conversation import Conversation
from funaudiochat.events import AudioChunk, Event, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.sampling import Sampling
from funaudiochat.tool_calls import CALL_OPENS, WithoutCalls
from web_demo.server.engine import Engine
from web_demo.server.openai_api.messages import Prompt

STEP_S = 0.2  # of speech; text counts as much for the engine's schedule
Delta = TextDelta | AudioChunk | ReplyDone


@dataclass(frozen=True)
class Request:
    """What the engine is asked for.

    Attributes:
        chat: a conversation of its own, which holds the history.
        system: system prompt for spoken or written replies; None for the checkpoint's own.
        voice: of a spoken reply; None for the server's default.
    """

    chat: Conversation
    prompt: Prompt
    system: Callable[[bool], str | None]
    tools: list[dict]
    speech: bool
    voice: str | None
    sampling: Sampling


async def reply_to(engine: Engine, request: Request) -> AsyncGenerator[Delta]:
    """Generate a reply; close the iterator to cancel it.

    With tools, the model is first asked for text: a call ends the reply there. Only when the model
    writes anything else is it asked again without tools, for speech, as it was trained to.

    Yields:
        TextDelta, without tool calls, and AudioChunk where the request wants speech; ReplyDone,
        with the calls, at the end.

    Raises:
        FunAudioChatError: the prompt cannot be answered, for example because it is too long.
    """
    chat = request.chat
    if request.tools and request.speech:
        branch = chat.branch()
        text, done = "", None
        async for event in _events(engine, _begin(request, branch, tools=True), None, branch):
            if isinstance(event, ReplyDone):
                done = event
            elif isinstance(event, TextDelta):
                text += event.text
                opening = text.lstrip()[: len(CALL_OPENS)]
                if not CALL_OPENS.startswith(opening):
                    break
        if done is not None and done.reply.tool_calls:
            yield done
            return
    tools = bool(request.tools) and not request.speech
    voice = request.voice or engine.models.voice if request.speech else None
    begin = _begin(request, chat, tools)
    words = WithoutCalls()
    async with aclosing(_events(engine, begin, voice, chat)) as events:
        async for event in events:
            if tools and isinstance(event, TextDelta):
                event = TextDelta(words.push(event.text))
            elif tools and isinstance(event, ReplyDone) and (rest := words.push("", last=True)):
                yield TextDelta(rest)
            if not isinstance(event, TextDelta) or event.text:
                yield event


def _begin(request: Request, chat: Conversation, tools: bool) -> Callable[[], Iterator[Event]]:
    """Return what begins the reply in a thread of the engine."""
    question, speech = request.prompt.question, request.speech and not tools

    def begin() -> Iterator[Event]:
        chat.system = request.system(speech)
        chat.resume(request.prompt.history)
        offered = request.tools if tools else []
        return chat.stream_turn(question, offered, speech, request.sampling)

    return begin


async def _events(
    engine: Engine,
    begin: Callable[[], Iterator[Event]],
    voice: str | None,
    chat: Conversation,
) -> AsyncGenerator[Delta]:
    job = engine.submit(begin)
    try:
        stream = None
        if voice is not None:
            stream = await engine.detokenize(job, engine.models.detokenizer_stream, voice)
        async for event in job:
            if isinstance(event, TextDelta):
                if stream is None:
                    job.add_lead(STEP_S)
                yield event
            elif isinstance(event, SpeechTokens) and stream is not None:
                samples = await engine.detokenize(job, stream.push, event.spoken)
                if len(samples):
                    job.add_lead(len(samples) / OUTPUT_RATE_HZ)
                    yield AudioChunk(samples.numpy())
            elif isinstance(event, ReplyDone):
                done = event
        if stream is not None:
            samples = await engine.detokenize(job, stream.finish)
            if len(samples):
                yield AudioChunk(samples.numpy())
        yield done
    finally:
        job.cancel()
