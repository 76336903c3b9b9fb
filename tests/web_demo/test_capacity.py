# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The server accepts as many users as the machine can answer in real time."""

import asyncio
from dataclasses import replace

import pytest

from tests.helpers.server_process import started
from tests.helpers.web_clients import Page, running, scripted
from web_demo.server import context
from web_demo.server.capacity import MAX_SESSIONS, measure_real_time_factor, sessions_for
from web_demo.server.engine import Engine


@pytest.mark.parametrize(
    ("factor", "sessions"),
    [(3.0, 1), (1.0, 1), (0.66, 1), (0.45, 2), (0.44, 2), (0.3, 3), (0.1, 9), (0.001, 64),
     (None, 4)],
)  # fmt: skip
def test_all_that_are_admitted_can_be_answered_in_real_time(factor, sessions):
    assert sessions_for(factor) == sessions
    if factor is not None and sessions > 1:
        assert sessions * factor <= 1


def test_the_real_models_are_measured(models):
    async def run():
        engine = Engine(models)
        factor = await measure_real_time_factor(engine)
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


def measured(monkeypatch, factor):
    async def measure(engine):
        return factor

    monkeypatch.setattr(context, "measure_real_time_factor", measure)


def test_who_is_more_than_the_machine_carries_waits(models, monkeypatch):
    measured(monkeypatch, 0.4)

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
    measured(monkeypatch, 2.0)
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
