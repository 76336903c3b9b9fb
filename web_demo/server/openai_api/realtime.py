# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The connection of a Realtime client, and its WebSocket: ``/v1/realtime``."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from web_demo.server.connection import Connection
from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueTicket
from web_demo.server.openai_api.admission import check_model, enter_lobby
from web_demo.server.openai_api.errors import ApiError
from web_demo.server.openai_api.realtime_response import Player, RealtimeOutbox
from web_demo.server.openai_api.realtime_session import RealtimeSession
from web_demo.server.outbox import Socket
from web_demo.server.sessions import Sessions

logger = logging.getLogger(__name__)

SUBPROTOCOL = "realtime"
# Larger messages are read and refused with an error; a client that sends still larger ones is
# disconnected.
REFUSED_BYTES = 64 * 2**20


class RealtimeConnection(Connection):
    """The connection of a Realtime client; a subclass for each transport reads its events.

    Args:
        player: plays the replies to a client that does not get them in events.
    """

    session: RealtimeSession

    def __init__(
        self,
        context: ServerContext,
        socket: Socket,
        abort: Callable[[], None],
        ticket: QueueTicket,
        player: Player | None = None,
    ) -> None:
        name = secrets.token_hex(6)
        self._outbox = RealtimeOutbox(socket, name, context.metrics)
        session = RealtimeSession(name, context, self._outbox, self._spawn, player)
        super().__init__(context, socket, abort, ticket, session)

    async def _report_queue(self, **status: Any) -> None:
        pass

    async def _greet(self) -> None:
        await self._outbox.emit("session.created", session=self.session.shown())

    async def _report_going_away(self, seconds: float) -> None:
        pass

    async def _report_error(self, code: str, message: str, fatal: bool) -> None:
        await self._outbox.error(ApiError(message, code=code, status=500))

    async def _receive(self, data: str | bytes) -> None:
        event: Any = None
        try:
            event = _parse(data, self._context.options.max_message_bytes)
            await self.session.take(event)
        except Exception as error:
            event_id = event.get("event_id") if isinstance(event, dict) else None
            await self._report_failure(error, event_id if isinstance(event_id, str) else None)

    async def _report_failure(self, error: Exception, event_id: str | None = None) -> None:
        """Report why an event or audio was not taken; the session goes on."""
        if isinstance(error, ConnectionError):
            raise error
        if not isinstance(error, ApiError):
            logger.error("an event failed", exc_info=error, extra={"session": self.session.name})
            error, event_id = ApiError("an internal error occurred", status=500), None
        await self._outbox.error(error, event_id)


class RealtimeSocket(RealtimeConnection):
    """The connection of a Realtime client over a WebSocket.

    While its ticket waits in the queue the client hears nothing and its events wait: clients begin
    with ``session.created``.
    """

    def __init__(
        self,
        context: ServerContext,
        socket: web.WebSocketResponse,
        abort: Callable[[], None],
        ticket: QueueTicket,
    ) -> None:
        super().__init__(context, socket, abort, ticket)
        self._messages, self._admitted = socket, asyncio.Event()

    async def _greet(self) -> None:
        try:
            await super()._greet()
        finally:
            self._admitted.set()

    async def _read(self) -> None:
        async for frame in self._messages:
            await self._admitted.wait()
            if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                await self._receive(frame.data)


def _parse(data: str | bytes, most_bytes: int) -> dict[str, Any]:
    if isinstance(data, bytes):
        raise ApiError("events are JSON in text frames", code="invalid_json")
    if len(data) > most_bytes:
        raise ApiError(f"the event has {len(data)} bytes; the limit is {most_bytes}",
                       code="message_too_large")  # fmt: skip
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the event is not JSON ({error})", code="invalid_json") from error
    if not isinstance(event, dict):
        raise ApiError("an event must be a JSON object", code="invalid_json")
    return event


async def serve_realtime(
    request: web.Request, context: ServerContext, sessions: Sessions
) -> web.StreamResponse:
    """Serve a session over a WebSocket.

    Raises:
        ApiError: it is not a WebSocket handshake, the model is not served, or there is no room.
    """
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise ApiError("connect to /v1/realtime with a WebSocket")
    check_model(context, request.query.get("model", context.models.name))
    ticket = enter_lobby(context)
    try:
        socket = web.WebSocketResponse(
            heartbeat=30, max_msg_size=REFUSED_BYTES, compress=False, protocols=(SUBPROTOCOL,)
        )
        await socket.prepare(request)
        if isinstance(request.transport, asyncio.WriteTransport):
            abort = request.transport.abort
            await sessions.run(RealtimeSocket(context, socket, abort, ticket))
    finally:
        context.lobby.leave(ticket)
    return socket
