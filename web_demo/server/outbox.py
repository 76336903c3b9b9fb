# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What goes to one page: messages in order, none later than the page can take them."""

import asyncio
import logging
import time
from typing import Any

from aiohttp import web

from web_demo.server.metrics import Metrics
from web_demo.server.protocol import Kind, encode, encode_metadata

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 20.0
KEEPALIVE_S = 10.0  # the reference's page gives up after 30 s without a message


class SlowReader(ConnectionError):
    """The page stopped reading."""


class Outbox:
    """Sends over one WebSocket.

    Args:
        session: name of the talk in the log.
    """

    def __init__(self, socket: web.WebSocketResponse, session: str, metrics: Metrics) -> None:
        self._socket, self._session, self._metrics = socket, session, metrics
        self._began = self._last = time.monotonic()

    async def send(self, message: bytes) -> None:
        """One frame.

        Raises:
            SlowReader: it could not be written in time.
            ConnectionError: the page is gone.
        """
        if self._socket.closed:
            raise ConnectionResetError("the page is gone")
        # All that wait for a connection to drain share one future of aiohttp's, and to cancel one
        # of them would cancel it for all: a task of its own goes on when its sender is interrupted.
        sending = asyncio.ensure_future(self._socket.send_bytes(message))
        sending.add_done_callback(lambda task: task.cancelled() or task.exception())
        if not (await asyncio.wait({sending}, timeout=SEND_TIMEOUT_S))[0]:
            raise SlowReader("the page stopped reading")
        if sending.cancelled():
            raise ConnectionResetError("the connection was closed meanwhile")
        sending.result()
        self._last = time.monotonic()

    async def text(self, text: str) -> None:
        """A piece of a reply."""
        await self.send(encode(Kind.TEXT, text))

    async def event(self, event: str, /, **fields: Any) -> None:
        """A metadata event with its monotonic time."""
        t_ms = round((time.monotonic() - self._began) * 1000)
        logger.debug("%s %s", event, fields, extra={"session": self._session})
        await self.send(encode_metadata({"event": event, "t_ms": t_ms, **fields}))

    async def error(
        self, code: str, message: str, turn: int | None = None, fatal: bool = False
    ) -> None:
        """Tell the user, in an event and as a message any page knows."""
        self._metrics.errors.labels(code).inc()
        logger.info("%s: %s", code, message, extra={"session": self._session, "turn": turn})
        await self.event("error", code=code, message=message, turn=turn, fatal=fatal)
        await self.send(encode(Kind.ERROR, message))

    async def keep_alive(self) -> None:
        """Send something every ten seconds, until cancelled or the page is gone."""
        while True:
            idle_s = time.monotonic() - self._last
            if idle_s >= KEEPALIVE_S:
                await self.event("keepalive")
            else:
                await asyncio.sleep(KEEPALIVE_S - idle_s)
