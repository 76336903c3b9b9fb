# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The life of a connection and its session, from the queue to the last message."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueTicket, TicketState
from web_demo.server.outbox import SlowReader, Socket
from web_demo.server.session import Session

logger = logging.getLogger(__name__)

IDLE_WHILE_OTHERS_WAIT_S = 120.0


class Connection(ABC):
    """One socket and its session; a subclass for each protocol reads and writes messages.

    Args:
        abort: called if the socket does not close.
        ticket: its position in the lobby.

    Attributes:
        finished: set when everything the connection held is released.
    """

    def __init__(
        self,
        context: ServerContext,
        socket: Socket,
        abort: Callable[[], None],
        ticket: QueueTicket,
        session: Session,
    ) -> None:
        self._context, self._socket, self._abort = context, socket, abort
        self._ticket, self.session = ticket, session
        self._tasks: set[asyncio.Task[None]] = set()
        self.finished = asyncio.Event()

    @abstractmethod
    async def _read(self) -> None:
        """Take the client's messages until it disconnects."""

    @abstractmethod
    async def _greet(self) -> None:
        """Tell the client that its session begins, and open the session."""

    @abstractmethod
    async def _report_queue(self, **status: Any) -> None:
        """Report the position in the queue."""

    @abstractmethod
    async def _report_going_away(self, seconds: float) -> None:
        """Report that the server shuts down and lets a reply finish for so long."""

    @abstractmethod
    async def _report_error(self, code: str, message: str, fatal: bool) -> None:
        """Report an error of the connection; after a fatal one it closes."""

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        """Return work that lasts as long as the connection."""
        return []

    async def run(self) -> None:
        """Serve the connection until the client disconnects, then release everything it holds."""
        for work in self._background():
            self._spawn(work)
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
            self._abort()

    async def drain(self, seconds: float) -> None:
        """Let a running reply finish and play for at most this long, then close."""
        with contextlib.suppress(ConnectionError):
            await self._report_going_away(seconds)
            try:
                async with asyncio.timeout(seconds):
                    await self.session.reply_played()
            except TimeoutError:
                await self._report_error(
                    "draining", "the server shut down during the reply", fatal=False
                )
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
                await self._report_error("internal", "an internal error occurred", fatal=True)
            await self.close(1011, "internal error")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._supervise(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # if it was cancelled before it began
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
                await self._report_queue(**status)
            await self._ticket.changed.wait()
        await self._greet()
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
        await self._report_error("idle", message, fatal=True)
        await self.close(4000, "idle")
