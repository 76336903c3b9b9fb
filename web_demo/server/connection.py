# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Adapt the protocol of PROTOCOL.md to a session: decode its messages, encode what it reports."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from funaudiochat.constants import OUTPUT_RATE_HZ
from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueTicket, TicketState
from web_demo.server.opus import FRAME_MS, BadAudio, OpusDecoder
from web_demo.server.outbox import Outbox, SlowReader
from web_demo.server.protocol import (
    HANDSHAKE,
    BadMessage,
    Control,
    Kind,
    Message,
    decode,
    encode,
)
from web_demo.server.session import ResumableConversation, Session
from web_demo.server.settings import trained_prompt

logger = logging.getLogger(__name__)

PROTOCOL = 2
RESUME_S = 120
IDLE_WHILE_OTHERS_WAIT_S = 120.0


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


class Connection:
    """One WebSocket and its session.

    While its ticket waits in the queue the connection takes only settings and pings; once the
    ticket is ready it sends the handshake and passes every message on to the session.

    Args:
        ticket: its position in the lobby.
        conversation: new, or ``resumed`` from an earlier connection.
        reference_client: the client speaks the reference's protocol only.

    Attributes:
        finished: set when everything the connection held is released.
    """

    def __init__(
        self,
        context: ServerContext,
        socket: web.WebSocketResponse,
        transport: asyncio.WriteTransport,
        ticket: QueueTicket,
        conversation: ResumableConversation,
        resumed: bool,
        reference_client: bool,
    ) -> None:
        name = secrets.token_hex(6)
        self._context, self._socket, self._transport = context, socket, transport
        self._ticket, self._resumed = ticket, resumed
        self._outbox = Outbox(socket, name, context.metrics, reference_client)
        self._decoder = OpusDecoder()
        self._tasks: set[asyncio.Task[None]] = set()
        self.session = Session(name, context, self._outbox, conversation, self._spawn)
        self.finished = asyncio.Event()

    async def run(self) -> None:
        """Serve the connection until the client disconnects, then release everything it holds."""
        self._spawn(self._outbox.keep_alive())
        self._spawn(self._admit())
        try:
            await self._supervise(self._read())
        finally:
            await self.session.close()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            self.finished.set()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; :meth:`run` then ends."""
        try:
            async with asyncio.timeout(1):
                await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            self._transport.abort()

    async def drain(self, seconds: float) -> None:
        """Let a running reply finish and play for at most this long, then close."""
        with contextlib.suppress(ConnectionError):
            await self._outbox.event("going_away", seconds=seconds)
            try:
                async with asyncio.timeout(seconds):
                    await self.session.reply_played()
            except TimeoutError:
                await self._outbox.error("draining", "the server shut down during the reply")
        await self.close(1001, "the server is shutting down")

    async def _supervise(self, work: Coroutine[Any, Any, None]) -> None:
        """Await some work; if it fails, close this connection and nothing else."""
        try:
            await work
        except SlowReader:
            logger.info("the client stopped reading", extra={"session": self.session.name})
            self._context.metrics.errors.labels("slow_reader").inc()
            await self.close(4001, "the client stopped reading")
        except ConnectionError:
            pass
        except Exception:
            logger.exception("the session failed", extra={"session": self.session.name})
            with contextlib.suppress(ConnectionError):
                await self._outbox.error("internal", "an internal error occurred", fatal=True)
            await self.close(1011, "internal error")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._supervise(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _admit(self) -> None:
        """Wait in the queue, greet the client, then watch for idleness."""
        reported = None
        lobby = self._context.lobby
        while self._ticket.state is TicketState.WAITING:
            self._ticket.changed.clear()
            wait_s = lobby.wait_s(self._ticket)
            status = {
                "position": lobby.position(self._ticket),
                "size": lobby.waiting,
                "wait_s": None if wait_s is None else round(wait_s),
            }
            if status != reported:
                reported = status
                await self._outbox.event("queue", **status)
            await self._ticket.changed.wait()
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
        await self._watch_idle()

    async def _watch_idle(self) -> None:
        while True:
            limit_s = self._context.options.idle_seconds
            if self._context.lobby.waiting:
                limit_s = min(limit_s, IDLE_WHILE_OTHERS_WAIT_S)
            if self.session.idle_s >= limit_s:
                break
            await asyncio.sleep(1.0)
        message = f"no question was asked for {limit_s:g} s; reconnect to continue"
        await self._outbox.error("idle", message, fatal=True)
        await self.close(4000, "idle")

    async def _read(self) -> None:
        async for frame in self._socket:
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
