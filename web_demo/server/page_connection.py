# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Adapt the protocol of PROTOCOL.md to a session: decode its messages, encode what it reports."""

import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from funaudiochat.constants import OUTPUT_RATE_HZ
from web_demo.server.connection import Connection
from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueTicket, TicketState
from web_demo.server.opus import FRAME_MS, BadAudio, OpusDecoder
from web_demo.server.outbox import Outbox
from web_demo.server.page_session import PageSession, ResumableConversation
from web_demo.server.protocol import (
    HANDSHAKE,
    BadMessage,
    Control,
    Kind,
    Message,
    decode,
    encode,
)
from web_demo.server.settings import trained_prompt

PROTOCOL = 2
RESUME_S = 120


def describe_server(context: ServerContext) -> dict[str, Any]:
    """Return what a client may show and must respect; PROTOCOL.md, section 6."""
    options, models = context.options, context.models
    defaults = context.default_settings.model_copy(update={"voice": models.voice})
    capabilities = models.capabilities
    return {
        "protocol": PROTOCOL,
        "model": models.name,
        "sample_rate": OUTPUT_RATE_HZ,
        "frame_ms": FRAME_MS,
        "voices": list(models.voices),
        "answers": models.answers,
        "vad": context.vad_network is not None,
        "tools": models.tools,
        "description": capabilities.description,
        "languages": capabilities.languages,
        "personas": capabilities.personas,
        "examples": capabilities.examples,
        "default_system_prompt": trained_prompt(defaults.answer == "speech"),
        "defaults": defaults.model_dump(),
        "recording": context.recordings is not None,
        "limits": {
            "utterance_seconds": options.max_utterance_seconds,
            "message_bytes": options.max_message_bytes,
            "text_chars": options.max_text_chars,
            "system_prompt_chars": options.max_prompt_chars,
            "idle_seconds": options.idle_seconds,
            "resume_seconds": RESUME_S,
        },
    }


class PageConnection(Connection):
    """The connection of a client of PROTOCOL.md.

    While its ticket waits in the queue the connection takes only settings and pings; once the
    ticket is ready it sends the handshake and passes every message on to the session.

    Args:
        ticket: its position in the lobby.
        conversation: new, or ``resumed`` from an earlier connection.
        reference_client: the client speaks the reference's protocol only.
    """

    session: PageSession

    def __init__(
        self,
        context: ServerContext,
        socket: web.WebSocketResponse,
        abort: Callable[[], None],
        ticket: QueueTicket,
        conversation: ResumableConversation,
        resumed: bool,
        reference_client: bool,
    ) -> None:
        name = secrets.token_hex(6)
        self._outbox = Outbox(socket, name, context.metrics, reference_client)
        session = PageSession(name, context, self._outbox, conversation, self._spawn)
        super().__init__(context, socket, abort, ticket, session)
        self._messages, self._resumed = socket, resumed
        self._decoder = OpusDecoder()

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        return [self._outbox.keep_alive()]

    async def _report_queue(self, **status: Any) -> None:
        await self._outbox.event("queue", **status)

    async def _greet(self) -> None:
        await self._outbox.send(HANDSHAKE)
        await self._outbox.event(
            "ready",
            session=self.session.name,
            resume=self.session.conversation.resume_key,
            resumed=self._resumed,
            settings=self.session.settings(),
            **describe_server(self._context),
        )
        await self.session.open()

    async def _report_going_away(self, seconds: float) -> None:
        await self._outbox.event("going_away", seconds=seconds)

    async def _report_error(self, code: str, message: str, fatal: bool) -> None:
        await self._outbox.error(code, message, fatal=fatal)

    async def _read(self) -> None:
        async for frame in self._messages:
            if frame.type is WSMsgType.BINARY:
                await self._receive(frame.data)
            elif frame.type is WSMsgType.TEXT:
                self._context.metrics.ignored.labels("text_frame").inc()

    async def _receive(self, data: bytes) -> None:
        try:
            message = decode(data)
        except BadMessage as error:
            return await self._outbox.error("bad_message", str(error))
        if message is None:
            self._context.metrics.ignored.labels("unknown").inc()
        elif message.kind is Kind.PING:
            await self._outbox.send(encode(Kind.PING, message.value))
        elif message.kind is Kind.METADATA:
            await self._take_metadata(message.value)
        elif self._ticket.state is TicketState.READY:
            await self._dispatch(message)

    async def _dispatch(self, message: Message) -> None:
        match message.kind, message.value:
            case Kind.AUDIO, data:
                try:
                    await self.session.push_audio(lambda: self._decoder.decode(data))
                except BadAudio as error:
                    await self._outbox.error("bad_audio", str(error))
            case Kind.CONTROL, Control.START:
                await self.session.start_listening()
            case Kind.CONTROL, Control.PAUSE | Control.END_TURN:
                await self.session.end_question()
            case Kind.CONTROL, Control.RESTART:
                await self.session.reset()
            case Kind.TEXT, text:
                await self.session.ask_text(text.strip())
            case Kind.FILE, data:
                await self.session.ask_file(data)

    async def _take_metadata(self, given: dict[str, Any]) -> None:
        if given.get("event") != "played":
            return await self.session.update_settings(given)
        turn, ms = given.get("turn"), given.get("ms")
        if isinstance(ms, int):
            self.session.report_played(turn, max(0, ms) * OUTPUT_RATE_HZ // 1000)
