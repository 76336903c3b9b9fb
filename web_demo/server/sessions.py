# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The open connections of a server, and the conversations that wait for their client to return."""

import asyncio
import contextlib
import secrets

from aiohttp import web

from web_demo.server.connection import Connection
from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueTicket
from web_demo.server.page_connection import RESUME_S, PageConnection
from web_demo.server.page_session import ResumableConversation

TAKE_OVER_TIMEOUT_S = 10.0
CLOSING_S = 2.0  # part of the drain time, reserved for the last messages and for closing


class Sessions:
    """Serves connections, hands conversations over between them, and drains them at shutdown.

    Attributes:
        connections: those that are open.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self.connections: set[Connection] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._parked: dict[str, tuple[ResumableConversation, asyncio.TimerHandle]] = {}

    async def serve(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.WriteTransport,
        ticket: QueueTicket,
        resume: str | None,
        reference_client: bool,
    ) -> None:
        """Serve the connection of a page until it ends, then keep its conversation for a while.

        Args:
            socket: the WebSocket, accepted.
            transport: below it; aborted if the socket does not close.
            ticket: the connection's position in the lobby.
            resume: key of the conversation to resume, if the client gave one.
            reference_client: the client speaks the reference's protocol only.
        """
        context = self._context
        conversation = self._unpark(resume)
        connection = PageConnection(
            context,
            socket,
            transport.abort,
            ticket,
            conversation
            or ResumableConversation(
                context.models.new_chat(), context.default_settings, secrets.token_urlsafe(16)
            ),
            resumed=conversation is not None,
            reference_client=reference_client,
        )
        try:
            await self.run(connection)
        finally:
            self._park(connection.session.conversation)

    async def run(self, connection: Connection) -> None:
        """Serve a connection of any protocol until it ends."""
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)

    def start(self, connection: Connection) -> None:
        """Serve a connection that outlives the request which opened it."""
        task = asyncio.create_task(self.run(connection))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def take_over(self, resume: str) -> None:
        """Close the connection that still holds this conversation, if there is one.

        If its models hang, it keeps the conversation and the caller starts a new one.
        """
        for connection in list(self.connections):
            if (
                isinstance(connection, PageConnection)
                and connection.session.conversation.resume_key == resume
            ):
                await connection.close(4002, "resumed on another connection")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TAKE_OVER_TIMEOUT_S):
                        await connection.finished.wait()

    async def drain(self) -> None:
        """Refuse new turns, let running replies finish or report that they cannot, then close."""
        self._context.draining = True
        total = self._context.options.drain_seconds
        seconds = max(total - CLOSING_S, total / 2)
        await asyncio.gather(*(connection.drain(seconds) for connection in self.connections))

    async def close(self) -> None:
        """Close the connections that were started, and drop all parked conversations."""
        await asyncio.gather(
            *(each.close(1001, "the server is shutting down") for each in self.connections)
        )
        if self._running:
            await asyncio.wait(set(self._running))
        for _, timer in self._parked.values():
            timer.cancel()

    def _unpark(self, resume: str | None) -> ResumableConversation | None:
        parked = self._parked.pop(resume or "", None)
        if parked is None:
            return None
        parked[1].cancel()
        return parked[0]

    def _park(self, conversation: ResumableConversation) -> None:
        """Keep a conversation for RESUME_S seconds; beyond a limit the oldest are dropped."""
        if conversation.turn_count == 0 or self._context.draining:
            return
        while len(self._parked) >= 4 * self._context.lobby.max_sessions:
            self._parked.pop(next(iter(self._parked)))[1].cancel()
        timer = asyncio.get_running_loop().call_later(
            RESUME_S, self._parked.pop, conversation.resume_key, None
        )
        self._parked[conversation.resume_key] = (conversation, timer)
