# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Send messages to one client in order, no faster than it reads them."""

import asyncio
import logging
import time
from typing import Any, Protocol

import numpy as np

from web_demo.server.metrics import Metrics
from web_demo.server.opus import FRAME_SAMPLES, OpusEncoder
from web_demo.server.protocol import Kind, encode, encode_metadata

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 20.0
KEEPALIVE_S = 10.0  # the reference's client gives up after 30 s without a message
# The reference's client starts, and restarts after an underrun, only with 480 ms in its buffer;
# silence pushes the end of a reply through it.
FLUSH_FRAMES = 13


class SlowReader(ConnectionError):
    """The client stopped reading."""


class Socket(Protocol):
    """What sends messages to a client: a WebSocket, or the data channel of a WebRTC call."""

    @property
    def closed(self) -> bool:
        """Whether the client has disconnected."""

    async def send_str(self, data: str) -> None:
        """Send text; return when more can be sent."""

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes; return when more can be sent."""

    async def close(self, *, code: int, message: bytes) -> Any:
        """Close it."""


class SocketWriter:
    """Writes messages to one socket, no faster than the client reads them."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._opened_at = self._last_sent_at = time.monotonic()

    async def send(self, message: bytes | str) -> None:
        """Send one message, bytes in a binary frame and text in a text frame.

        Raises:
            SlowReader: it could not be written in time.
            ConnectionError: the client has disconnected.
        """
        if self._socket.closed:
            raise ConnectionResetError("the client has disconnected")
        write: Any = self._socket.send_str if isinstance(message, str) else self._socket.send_bytes
        # All writers that wait for a connection to drain share one future of aiohttp, and
        # cancelling one of them would cancel it for all: a separate task survives the
        # interruption of its sender.
        sending = asyncio.ensure_future(write(message))
        sending.add_done_callback(lambda task: task.cancelled() or task.exception())
        if not (await asyncio.wait({sending}, timeout=SEND_TIMEOUT_S))[0]:
            raise SlowReader("the client stopped reading")
        if sending.cancelled():
            raise ConnectionResetError("the connection was closed while sending")
        sending.result()
        self._last_sent_at = time.monotonic()


class Outbox(SocketWriter):
    """Encodes a session's output as messages of PROTOCOL.md and sends them over one WebSocket.

    It implements :class:`~web_demo.server.client.Client`.

    Args:
        session: name of the session in the log.
        reference_client: the client knows no events; it gets ``[Processing...]`` before a reply
            and silence after its audio.
    """

    def __init__(
        self,
        socket: Socket,
        session: str,
        metrics: Metrics,
        reference_client: bool = False,
    ) -> None:
        super().__init__(socket)
        self._session, self._metrics = session, metrics
        self._reference_client = reference_client
        self._encoder = OpusEncoder()

    async def event(self, event: str, /, **fields: Any) -> None:
        """Send a metadata event with its monotonic time."""
        t_ms = round((time.monotonic() - self._opened_at) * 1000)
        logger.debug("%s %s", event, fields, extra={"session": self._session})
        await self.send(encode_metadata({"event": event, "t_ms": t_ms, **fields}))

    async def error(
        self, code: str, message: str, turn: int | None = None, fatal: bool = False
    ) -> None:
        """Send an error twice: as an event, and as a message that every client knows."""
        self._metrics.errors.labels(code).inc()
        logger.info("%s: %s", code, message, extra={"session": self._session, "turn": turn})
        await self.event("error", code=code, message=message, turn=turn, fatal=fatal)
        await self.send(encode(Kind.ERROR, message))

    async def reply_pending(self) -> None:
        """Tell a client without events that its question is being answered."""
        if self._reference_client:
            await self.text("[Processing...]")

    async def text(self, text: str) -> None:
        """Send a part of a reply's text."""
        await self.send(encode(Kind.TEXT, text))

    async def audio(self, frame: np.ndarray) -> None:
        """Send a frame of a reply's audio as an Ogg page."""
        await self.send(encode(Kind.AUDIO, self._encoder.encode(frame)))

    async def audio_done(self) -> None:
        """Send silence to a client that would not play the end of a reply without it."""
        if self._reference_client:
            silence = np.zeros(FRAME_SAMPLES, np.float32)
            for _ in range(FLUSH_FRAMES):
                await self.audio(silence)

    async def keep_alive(self) -> None:
        """Send a message at least every ten seconds, until cancelled or disconnected."""
        while True:
            idle_s = time.monotonic() - self._last_sent_at
            if idle_s >= KEEPALIVE_S:
                await self.event("keepalive")
            else:
                await asyncio.sleep(KEEPALIVE_S - idle_s)
