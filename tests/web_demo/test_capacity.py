# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The server accepts as many users as the machine can answer in real time."""

import asyncio
from dataclasses import replace

import pytest

from tests.helpers.server_process import started
from tests.helpers.web_clients import Page, running, scripted
from web_demo.server import capacity
from web_demo.server.capacity import MAX_SESSIONS, measure_capacity, measure_real_time_factor
from web_demo.server.engine import Engine


def measured(monkeypatch, factor):
    """Let so many sessions at once have this real-time factor."""

    async def measure(engine, sessions=1):
        return factor(sessions)

    monkeypatch.setattr(capacity, "measure_real_time_factor", measure)


@pytest.mark.parametrize(
    ("factor", "sessions"),
    [(3.0, 1), (1.0, 1), (0.66, 1), (0.45, 2), (0.44, 2), (0.3, 3), (0.1, 9), (0.001, 64),
     (None, 4)],
)  # fmt: skip
def test_all_that_are_admitted_can_be_answered_in_real_time(factor, sessions, monkeypatch):
    measured(monkeypatch, lambda count: None if factor is None else count * factor)
    assert asyncio.run(measure_capacity(None)) == (sessions, factor)
    if factor is not None and sessions > 1:
        assert sessions * factor <= 1


@pytest.mark.parametrize(("by_sessions", "sessions"), [
    ({1: 0.4, 2: 0.5, 4: 0.7, 8: 1.1}, 6),
    ({1: 0.46, 2: 0.59, 4: 0.8, 8: 1.6}, 4),
    ({1: 0.2, 2: 0.95}, 1),
])  # fmt: skip
def test_sessions_that_share_their_steps_are_measured_together(by_sessions, sessions, monkeypatch):
    measured(monkeypatch, by_sessions.__getitem__)
    assert asyncio.run(measure_capacity(None)) == (sessions, by_sessions[1])


def test_the_real_models_are_measured(models):
    async def run():
        engine = Engine(models)
        factor = await measure_real_time_factor(engine, 2)
        jobs = engine.jobs
        await engine.close()
        return factor, jobs

    factor, jobs = asyncio.run(run())
    assert factor > 0 and jobs == 0


def test_models_that_only_write_or_say_nothing_are_not_measured(models):
    async def run(chosen):
        engine = Engine(chosen)
        factor = await measure_real_time_factor(engine)
        await engine.close()
        return factor

    assert asyncio.run(run(replace(models, detokenizer=None))) is None
    assert asyncio.run(run(scripted(models, lambda question: iter(["Hello."])))) is None


def test_who_is_more_than_the_machine_carries_waits(models, monkeypatch):
    measured(monkeypatch, lambda count: 0.4 * count)

    async def converse(server):
        async with Page(server) as one, Page(server) as two:
            await one.event("ready")
            await two.event("ready")
            async with Page(server) as three:
                await three.event("queue", position=1)
                assert not three.events("ready")
                await one.socket.close()
                await three.event("ready")

    with running(models) as server:
        server.call(server.context.measure())
        asyncio.run(converse(server))


def test_max_sessions_overrides_the_measurement(models, monkeypatch):
    measured(monkeypatch, lambda count: 2.0 * count)
    with running(models, max_sessions=7) as server:
        server.call(server.context.measure())
        assert server.context.lobby.max_sessions == 7


def test_a_model_that_fails_on_the_first_question_does_not_keep_the_server_from_starting(models):
    def script(question):
        raise RuntimeError
        yield

    with running(scripted(models, script)) as server:
        server.call(server.context.measure())
        assert server.context.lobby.max_sessions == 4 and server.context.engine.jobs == 0


def test_the_server_measures_before_it_opens(folders):
    async def converse(server):
        async with Page(server) as page:
            await page.event("ready")

    with started(folders) as server:
        asyncio.run(converse(server))
        [told] = [line for line in server.log if line.startswith("real-time factor measured ")]
        assert 1 <= int(told.split(": ")[1].split()[0]) <= MAX_SESSIONS
