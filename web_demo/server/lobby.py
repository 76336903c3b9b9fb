# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Who may talk and who waits: places in order of arrival."""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from enum import Enum
from itertools import count

TICKET_TIMEOUT_S = 30.0


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
    """One talker's place, in the queue or in a talk.

    Attributes:
        number: of the queue endpoints' session.
        secret: its ``session_auth_id``.
        key: its ``worker_auth_id``, which a WebSocket shows.
        changed: set when state or position changed.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.secret, self.key = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.state = State.WAITING
        self.changed = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None


class Lobby:
    """Hands out ``max_sessions`` places; up to ``queue_size`` talkers wait."""

    def __init__(
        self, max_sessions: int, queue_size: int, ticket_timeout_s: float = TICKET_TIMEOUT_S
    ) -> None:
        self.max_sessions, self.queue_size = max_sessions, queue_size
        self._ticket_timeout_s = ticket_timeout_s
        self._numbers = count(1)
        self._talking: set[Place] = set()
        self._waiting: list[Place] = []
        self._tickets: dict[int, Place] = {}

    @property
    def talking(self) -> int:
        """How many have a place."""
        return len(self._talking)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self) -> Place:
        """Take a place, or wait for one.

        Raises:
            QueueFull: the queue has no place left.
        """
        if len(self._talking) >= self.max_sessions and self.waiting >= self.queue_size:
            raise QueueFull
        place = Place(next(self._numbers))
        self._waiting.append(place)
        self._admit()
        return place

    def position(self, place: Place) -> int:
        """1 for the next; 0 for who does not wait."""
        return self._waiting.index(place) + 1 if place in self._waiting else 0

    def leave(self, place: Place) -> None:
        """Give the place up."""
        if place.timer is not None:
            place.timer.cancel()
        place.state = State.GONE
        self._tickets.pop(place.number, None)
        self._talking.discard(place)
        if place in self._waiting:
            self._waiting.remove(place)
        self._admit()

    def take_ticket(self) -> Place:
        """A place for a talker who asks for it from time to time, else it is dropped.

        Raises:
            QueueFull: the queue has no place left.
        """
        place = self.enter()
        self._tickets[place.number] = place
        self._keep(place)
        return place

    def check_ticket(self, number: int, secret: str) -> Place | None:
        """The ticket of these credentials, kept for another while if it waits."""
        place = self._tickets.get(number)
        if place is None or not same_secret(secret, place.secret):
            return None
        if place.state is State.WAITING:
            self._keep(place)
        return place

    def claim(self, key: str) -> Place | None:
        """The ready ticket of this key, now its talker's."""
        for place in list(self._tickets.values()):
            if place.state is State.READY and same_secret(key, place.key):
                if place.timer is not None:
                    place.timer.cancel()
                del self._tickets[place.number]
                return place
        return None

    def is_ready_ticket(self, key: str) -> bool:
        """Whether :meth:`claim` would find one."""
        return any(
            place.state is State.READY and same_secret(key, place.key)
            for place in self._tickets.values()
        )

    def _keep(self, place: Place) -> None:
        if place.timer is not None:
            place.timer.cancel()
        leave: Callable[[Place], None] = self.leave
        place.timer = asyncio.get_running_loop().call_later(self._ticket_timeout_s, leave, place)

    def _admit(self) -> None:
        while self._waiting and len(self._talking) < self.max_sessions:
            place = self._waiting.pop(0)
            self._talking.add(place)
            place.state = State.READY
            place.changed.set()
            if place.number in self._tickets:
                self._keep(place)
        for place in self._waiting:
            place.changed.set()
