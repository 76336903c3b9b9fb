# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Generate the reply to a request on the engine that all sessions share."""

from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from funaudiochat.conversation import Conversation
from funaudiochat.events import AudioChunk, Event, ReplyDone, TextDelta
from funaudiochat.sampling import Sampling
from funaudiochat.tool_calls import WithoutCalls
from web_demo.server.engine import Engine
from web_demo.server.openai_api.messages import Prompt
from web_demo.server.reply_generator import read_calls

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
    tools: list[dict[str, Any]]
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
        job = engine.submit(_begin(request, chat.branch(), tools=True))
        try:
            calling = await read_calls(job)
        finally:
            job.cancel()
        if calling is not None and calling.tool_calls:
            yield ReplyDone(calling)
            return
    tools = bool(request.tools) and not request.speech
    words = WithoutCalls()
    job = engine.submit(_begin(request, chat, tools))
    try:
        async for event in engine.events(job, request.speech, request.voice):
            if tools and isinstance(event, TextDelta):
                event = TextDelta(words.push(event.text))
            elif tools and isinstance(event, ReplyDone) and (rest := words.push("", last=True)):
                yield TextDelta(rest)
            if isinstance(event, AudioChunk | ReplyDone | TextDelta) and event != TextDelta(""):
                yield event
    finally:
        job.cancel()


def _begin(request: Request, chat: Conversation, tools: bool) -> Callable[[], Iterator[Event]]:
    """Return what begins the reply in a thread of the engine."""
    question, speech = request.prompt.question, request.speech and not tools

    def begin() -> Iterator[Event]:
        chat.system = request.system(speech)
        chat.resume(request.prompt.history)
        offered = request.tools if tools else []
        return chat.stream_turn(question, offered, speech, request.sampling)

    return begin
