# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Places that nobody comes for are free again."""

import asyncio
import contextlib

from tests.helpers.web_clients import until
from web_demo.server.lobby import Lobby, QueueFull, TicketState

TICKET_S = 0.05


def test_a_ticket_that_nobody_asks_for_is_dropped():
    async def run():
        lobby = Lobby(1, 4, TICKET_S)
        ticket = lobby.draw()
        assert lobby.is_ready(ticket.key)
        await until(lambda: not lobby.is_ready(ticket.key))
        assert lobby.check(ticket.number, ticket.secret) is None

    asyncio.run(run())


def test_tickets_alone_take_no_place_and_keep_their_turn():
    async def run():
        lobby = Lobby(1, 4)
        first, second = lobby.draw(), lobby.draw()
        assert (lobby.sessions_ahead(first), lobby.sessions_ahead(second)) == (0, 1)
        connection = lobby.enter()  # came later, but is there
        assert connection.state is TicketState.READY and lobby.sessions_ahead(first) == 1
        assert lobby.claim(first.key) is None
        later = lobby.enter()
        lobby.leave(connection)
        assert later.state is TicketState.READY
        lobby.leave(later)
        assert lobby.claim(second.key) is None and lobby.claim(first.key) is first
        assert lobby.enter(first.number).state is TicketState.READY

    asyncio.run(run())


def test_a_thousand_tickets_leave_every_place_to_connections():
    async def run():
        lobby = Lobby(2, 3)
        drawn = 0
        with contextlib.suppress(QueueFull):
            for _ in range(1000):
                lobby.draw()
                drawn += 1
        assert drawn == 5
        assert [lobby.enter().state for _ in range(3)] == [TicketState.READY] * 2 + [
            TicketState.WAITING
        ]

    asyncio.run(run())


def test_who_waits_is_told_how_long_by_the_lengths_of_the_last_conversations():
    async def run():
        now = 0.0
        lobby = Lobby(2, 8, clock=lambda: now)

        def converse(seconds):
            nonlocal now
            place = lobby.enter()
            now += seconds
            lobby.leave(place)

        converse(60)
        converse(120)
        talking, _ = lobby.enter(), lobby.enter()
        first, second = lobby.enter(), lobby.enter()
        assert lobby.wait_s(first) is None  # two conversations tell too little
        lobby.leave(second)  # who only waited has no length
        assert lobby.wait_s(first) is None
        now += 180
        lobby.leave(talking)
        assert first.state is TicketState.READY and lobby.wait_s(first) == 0
        third, fourth = lobby.enter(), lobby.enter()
        # Of two conversations of two minutes, one ends every minute.
        assert (lobby.wait_s(third), lobby.wait_s(fourth)) == (60, 120)

    asyncio.run(run())
