# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Admit connections in order of arrival, up to a number of sessions; queue the others."""

import asyncio
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from itertools import count
from statistics import fmean

TICKET_TIMEOUT_S = 30.0
MAX_DURATIONS, MIN_DURATIONS = 20, 3  # past sessions from which the waiting time is estimated


def same_secret(given: str, known: str) -> bool:
    """Compare a given secret with the known one in constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), known.encode())


class QueueFull(Exception):
    """All sessions are taken, and the queue is full as well."""


class TicketState(Enum):
    """State of a :class:`QueueTicket`: it waits, is admitted, and is gone when it leaves."""

    WAITING = "wait"
    READY = "ready"
    GONE = "gone"


class QueueTicket:
    """The position of one connection: in the queue, or admitted to a session.

    Attributes:
        number: number of the session, for the log and the queue's endpoints.
        changed: set when the state or the position changed.
        admitted_at: when the session began, by the lobby's clock.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = TicketState.WAITING
        self.changed = asyncio.Event()
        self.admitted_at = 0.0


class HttpTicket:
    """A number drawn over HTTP by a client that has not connected yet.

    It reserves nothing: sessions belong to connections, so that nobody can occupy them with
    requests alone.

    Attributes:
        number: its ``session_id``.
        secret: its ``session_auth_id``.
        key: its ``worker_auth_id``, which the client presents when it connects.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.secret, self.key = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.timer: asyncio.TimerHandle | None = None


class Lobby:
    """Admits ``max_sessions`` connections; ``queue_size`` more may wait, and as many HTTP tickets.

    Args:
        ticket_timeout_s: an HTTP ticket that is not asked for this long is dropped.
        clock: returns seconds.
    """

    def __init__(
        self,
        max_sessions: int,
        queue_size: int,
        ticket_timeout_s: float = TICKET_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_sessions, self.queue_size = max_sessions, queue_size
        self._ticket_timeout_s, self._clock = ticket_timeout_s, clock
        self._durations_s: deque[float] = deque(maxlen=MAX_DURATIONS)
        self._numbers = count(1)
        self._active: set[QueueTicket] = set()
        self._waiting: list[QueueTicket] = []
        self._http_tickets: dict[int, HttpTicket] = {}  # in the order of their numbers

    @property
    def active(self) -> int:
        """How many connections are admitted."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many connections wait."""
        return len(self._waiting)

    def enter(self, number: int | None = None) -> QueueTicket:
        """Admit a connection, or queue it.

        Args:
            number: of the HTTP ticket that was presented, which keeps its position.

        Raises:
            QueueFull: the queue is full.
        """
        if len(self._active) >= self.max_sessions and self.waiting >= self.queue_size:
            raise QueueFull
        ticket = QueueTicket(next(self._numbers) if number is None else number)
        self._waiting.append(ticket)
        self._waiting.sort(key=lambda waiting: waiting.number)
        self._admit()
        return ticket

    def position(self, ticket: QueueTicket) -> int:
        """Return a ticket's position in the queue: 1 is next, 0 does not wait."""
        return self._waiting.index(ticket) + 1 if ticket in self._waiting else 0

    def wait_s(self, ticket: QueueTicket) -> float | None:
        """Estimate how long a ticket still waits; None before enough sessions have ended.

        Sessions are assumed to last as long as the last ones did on average, so that of n sessions
        one ends in every n-th part of that time.
        """
        if len(self._durations_s) < MIN_DURATIONS:
            return None
        return self.position(ticket) * fmean(self._durations_s) / self.max_sessions

    def leave(self, ticket: QueueTicket) -> None:
        """End a ticket's session or its wait, and admit the next one."""
        ticket.state = TicketState.GONE
        if ticket in self._active:
            self._durations_s.append(self._clock() - ticket.admitted_at)
        self._active.discard(ticket)
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        self._admit()

    def draw(self) -> HttpTicket:
        """Draw an HTTP ticket; it is dropped unless its owner checks it from time to time.

        Raises:
            QueueFull: as many tickets are out as may wait.
        """
        if len(self._http_tickets) >= self.max_sessions + self.queue_size:
            raise QueueFull
        ticket = HttpTicket(next(self._numbers))
        self._http_tickets[ticket.number] = ticket
        self._keep(ticket)
        return ticket

    def check(self, number: int, secret: str) -> HttpTicket | None:
        """Return the HTTP ticket with these credentials, and keep it for another while."""
        ticket = self._http_tickets.get(number)
        if ticket is None or not same_secret(secret, ticket.secret):
            return None
        self._keep(ticket)
        return ticket

    def sessions_ahead(self, ticket: HttpTicket) -> int:
        """Return how many sessions must end before an HTTP ticket is ready; 0 if it is ready."""
        ahead = sum(waiting.number < ticket.number for waiting in self._waiting)
        ahead += sum(number < ticket.number for number in self._http_tickets)
        return max(0, len(self._active) + ahead + 1 - self.max_sessions)

    def claim(self, key: str) -> HttpTicket | None:
        """Return the ready HTTP ticket with this key, and forget it."""
        ticket = self._find_ready(key)
        if ticket is not None:
            self._drop(ticket)
        return ticket

    def is_ready(self, key: str) -> bool:
        """Return whether :meth:`claim` would find a ticket."""
        return self._find_ready(key) is not None

    def _find_ready(self, key: str) -> HttpTicket | None:
        for ticket in self._http_tickets.values():
            if same_secret(key, ticket.key) and self.sessions_ahead(ticket) == 0:
                return ticket
        return None

    def _keep(self, ticket: HttpTicket) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
        loop = asyncio.get_running_loop()
        ticket.timer = loop.call_later(self._ticket_timeout_s, self._drop, ticket)

    def _drop(self, ticket: HttpTicket) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
        self._http_tickets.pop(ticket.number, None)

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self.max_sessions:
            ticket = self._waiting.pop(0)
            self._active.add(ticket)
            ticket.state, ticket.admitted_at = TicketState.READY, self._clock()
            ticket.changed.set()
        for ticket in self._waiting:
            ticket.changed.set()
