# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Who may talk and who waits: places in order of arrival."""

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
LAST_TALKS, FEWEST_TALKS = 20, 3  # whose lengths tell how long one waits


def same_secret(given: str, known: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), known.encode())


class QueueFull(Exception):
    """No place to wait either."""


class State(Enum):
    """Of a place."""

    WAITING = "wait"
    READY = "ready"
    GONE = "gone"


class Place:
    """One connection's place, in the queue or in a conversation.

    Attributes:
        number: of the session, for the log and the queue's endpoints.
        changed: set when state or position changed.
        began_at: when the conversation began, by the lobby's clock.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = State.WAITING
        self.changed = asyncio.Event()
        self.began_at = 0.0


class Ticket:
    """A number in the queue for a page that asks by HTTP and has no connection yet.

    It holds no place: places belong to connections, so that nobody can take them by requests alone.

    Attributes:
        number: its ``session_id``.
        secret: its ``session_auth_id``.
        key: its ``worker_auth_id``, which the WebSocket shows.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.secret, self.key = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.timer: asyncio.TimerHandle | None = None


class Lobby:
    """Hands out ``max_sessions`` places; up to ``queue_size`` connections wait, and tickets too."""

    def __init__(
        self,
        max_sessions: int,
        queue_size: int,
        ticket_timeout_s: float = TICKET_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_sessions, self.queue_size = max_sessions, queue_size
        self._ticket_timeout_s, self._clock = ticket_timeout_s, clock
        self._lengths_s: deque[float] = deque(maxlen=LAST_TALKS)
        self._numbers = count(1)
        self._talking: set[Place] = set()
        self._waiting: list[Place] = []
        self._tickets: dict[int, Ticket] = {}  # in the order of their numbers

    @property
    def talking(self) -> int:
        """How many have a place."""
        return len(self._talking)

    @property
    def waiting(self) -> int:
        """How many connections wait."""
        return len(self._waiting)

    def enter(self, number: int | None = None) -> Place:
        """Take a place, or wait for one.

        Args:
            number: of the ticket that is shown, which keeps its turn.

        Raises:
            QueueFull: the queue has no place left.
        """
        if len(self._talking) >= self.max_sessions and self.waiting >= self.queue_size:
            raise QueueFull
        place = Place(next(self._numbers) if number is None else number)
        self._waiting.append(place)
        self._waiting.sort(key=lambda waiting: waiting.number)
        self._admit()
        return place

    def position(self, place: Place) -> int:
        """1 for the next; 0 for who does not wait."""
        return self._waiting.index(place) + 1 if place in self._waiting else 0

    def wait_s(self, place: Place) -> float | None:
        """Estimate how long a place still waits; None before enough talks have ended.

        Talks last as long as the last ones did, on average, so that of n places one becomes free in
        every n-th part of that.
        """
        if len(self._lengths_s) < FEWEST_TALKS:
            return None
        return self.position(place) * fmean(self._lengths_s) / self.max_sessions

    def leave(self, place: Place) -> None:
        """Give the place up."""
        place.state = State.GONE
        if place in self._talking:
            self._lengths_s.append(self._clock() - place.began_at)
        self._talking.discard(place)
        if place in self._waiting:
            self._waiting.remove(place)
        self._admit()

    def take_ticket(self) -> Ticket:
        """Draw a number; it is dropped unless its owner asks from time to time.

        Raises:
            QueueFull: as many tickets are out as may wait.
        """
        if len(self._tickets) >= self.max_sessions + self.queue_size:
            raise QueueFull
        ticket = Ticket(next(self._numbers))
        self._tickets[ticket.number] = ticket
        self._keep(ticket)
        return ticket

    def check_ticket(self, number: int, secret: str) -> Ticket | None:
        """Return the ticket of these credentials, kept for another while."""
        ticket = self._tickets.get(number)
        if ticket is None or not same_secret(secret, ticket.secret):
            return None
        self._keep(ticket)
        return ticket

    def turn_of(self, ticket: Ticket) -> int:
        """Return how many places must become free before it is this ticket's turn; 0 for now."""
        ahead = sum(place.number < ticket.number for place in self._waiting)
        ahead += sum(number < ticket.number for number in self._tickets)
        return max(0, len(self._talking) + ahead + 1 - self.max_sessions)

    def claim(self, key: str) -> Ticket | None:
        """Return the ticket of this key whose turn it is, and forget it."""
        ticket = self._find(key)
        if ticket is not None:
            self._drop(ticket)
        return ticket

    def is_ready_ticket(self, key: str) -> bool:
        """Return whether :meth:`claim` would find one."""
        return self._find(key) is not None

    def _find(self, key: str) -> Ticket | None:
        for ticket in self._tickets.values():
            if same_secret(key, ticket.key) and self.turn_of(ticket) == 0:
                return ticket
        return None

    def _keep(self, ticket: Ticket) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
        loop = asyncio.get_running_loop()
        ticket.timer = loop.call_later(self._ticket_timeout_s, self._drop, ticket)

    def _drop(self, ticket: Ticket) -> None:
        if ticket.timer is not None:
            ticket.timer.cancel()
        self._tickets.pop(ticket.number, None)

    def _admit(self) -> None:
        while self._waiting and len(self._talking) < self.max_sessions:
            place = self._waiting.pop(0)
            self._talking.add(place)
            place.state, place.began_at = State.READY, self._clock()
            place.changed.set()
        for place in self._waiting:
            place.changed.set()
