# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Places that nobody comes for are free again."""

import asyncio

from web_clients import until

from web_demo.server.lobby import Lobby, State

TICKET_S = 0.05


def test_a_ticket_that_nobody_asks_for_is_dropped():
    async def run():
        lobby = Lobby(1, 4, TICKET_S)
        talker, ticket = lobby.enter(), lobby.take_ticket()
        assert ticket.state is State.WAITING
        await until(lambda: not lobby.waiting)
        assert lobby.check_ticket(ticket.number, ticket.secret) is None
        lobby.leave(talker)

    asyncio.run(run())


def test_a_ready_ticket_that_nobody_uses_is_dropped_and_one_that_is_used_stays():
    async def run():
        lobby = Lobby(1, 4, TICKET_S)
        ticket, following = lobby.take_ticket(), lobby.enter()
        assert ticket.state is State.READY and following.state is State.WAITING
        await until(lambda: following.state is State.READY)
        assert lobby.claim(ticket.key) is None
        lobby.leave(following)
        used = lobby.take_ticket()
        assert lobby.claim(used.key) is used
        lobby.take_ticket()  # it waits for as long as the used one would have been kept, and longer
        await until(lambda: not lobby.waiting)
        assert lobby.talking == 1 and used.state is State.READY

    asyncio.run(run())
