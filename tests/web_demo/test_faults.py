# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What goes wrong: odd and damaged messages, silence, pages that stall or vanish, own mistakes."""

import asyncio
import threading

import aiohttp
import numpy as np
import pytest

from tests.helpers.recordings import question
from tests.helpers.web_clients import (
    TIMEOUT_S,
    Page,
    running,
    scripted,
    until,
)
from web_demo.server import engine, outbox, page_session, sessions

UPGRADE = (
    b"GET /api/chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def answers(page):
    """Serve it as if nothing had happened."""
    await page.send(6, b"still here")
    await page.until(lambda: [m for m in page.received if m.kind == 6])


async def health(server):
    async with aiohttp.ClientSession() as http, http.get(server.url + "/healthz") as reply:
        return reply.status


def short(question):
    yield "Hello"
    yield [1] * 5


def test_odd_messages_are_ignored_and_empty_turns_are_told(server):
    async def converse():
        async with Page(server) as page:
            await page.event("ready")
            await page.socket.send_str("text frame")
            for data in (b"", b"\x63what", b"\x03\x09", b"\x00\x00\x00", b"\x07\x05x", b"\x05x"):
                await page.socket.send_bytes(data)
            await page.send(2, b"\xff\xfe")
            await page.event("error", code="bad_message")
            await page.send(4, "[1]")
            await page.event("error", 2, code="bad_message")
            await page.pause()
            await page.event("error", code="no_audio")
            await answers(page)
            assert not page.events("turn_start")

    asyncio.run(converse())


def test_a_page_that_stops_reading_is_let_go(models, monkeypatch):
    monkeypatch.setattr(outbox, "SEND_TIMEOUT_S", 0.5)

    def script(question):
        for _ in range(400):
            yield "x" * 100_000

    async def converse(server):
        async with Page(server) as page, Page(server) as other:
            await page.set(answer="text")
            await page.send(2, "hello")
            await page.event("turn_start")
            page._reader.cancel()
            await until(
                lambda: len(server.sessions.connections) == 1 and not server.context.engine.jobs
            )
            await answers(other)

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))


def test_a_conversation_without_questions_ends(models):
    async def converse(server):
        async with Page(server) as page:
            assert await page.until_closed() == 4000
            assert page.errors() == ["idle"]

    with running(scripted(models, short), idle_seconds=0.5) as server:
        asyncio.run(converse(server))


def test_half_a_character_is_refused_and_the_conversation_continues(server):
    async def converse():
        async with Page(server) as page:
            await page.send(4, '{"system_prompt": "half of \\ud83d"}')
            await page.event("error", code="bad_message")
            await page.set(sampling={"greedy": True, "max_new_tokens": 7})
            await page.send(2, "hello")
            assert (await page.event("turn_end"))["reason"] == "done"

    asyncio.run(converse())


@pytest.mark.parametrize(
    "frames",
    [b"\xff" * 64, b"\x82\x04page", b"\x82\xfe\x00", b"\x81\x85abcd\x9e\x9f\x9c\x9b\x00"],
    ids=["noise", "not masked", "cut short", "text that is not UTF-8"],
)
def test_damaged_frames_end_their_own_connection_only(models, frames):
    async def converse(server):
        async with Page(server) as other:
            await other.event("ready")
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: len(server.sessions.connections) == 2)
            writer.write(frames)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), TIMEOUT_S)  # to the end of the connection
            writer.close()
            await until(lambda: len(server.sessions.connections) == 1)
            await answers(other)
        await until(lambda: not server.sessions.connections and not server.context.lobby.active)

    with running(scripted(models, short)) as server:
        asyncio.run(converse(server))


def test_a_mistake_of_the_server_is_told_and_ends_one_connection(models, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("not thought of")

    monkeypatch.setattr(page_session, "load_audio", fail)

    async def converse(server):
        async with Page(server) as page, Page(server) as other:
            await other.event("ready")
            await page.send(8, b"RIFF")
            assert await page.until_closed() == 1011
            assert page.errors() == ["internal"] and page.events("error")[0]["fatal"]
            await answers(other)

    with running(scripted(models, short)) as server:
        asyncio.run(converse(server))
    assert "not thought of" in caplog.text


def test_a_model_that_hangs_is_reported_and_the_conversation_continues_when_it_recovers(
    models, monkeypatch
):
    go = threading.Event()

    def script(question):
        if question == "hang":
            yield lambda: go.wait(TIMEOUT_S)
        yield "Hello"

    async def converse(server):
        async with Page(server) as page:
            await page.set(answer="text")
            monkeypatch.setattr(engine, "STEP_TIMEOUT_S", 0.5)
            await page.send(2, "hang")
            await page.event("error", code="model_error")
            await page.event("turn_end", reason="error")
            assert await health(server) == 503
            # The place of a conversation that hangs is not waited for.
            monkeypatch.setattr(engine, "STEP_TIMEOUT_S", TIMEOUT_S)
            monkeypatch.setattr(sessions, "TAKE_OVER_TIMEOUT_S", 0.5)
            await page.send(2, "still hanging")
            await page.event("turn_start", turn=2)
            async with Page(server, resume=page.events("ready")[0]["resume"]) as again:
                assert not (await again.event("ready"))["resumed"]
                go.set()
                await again.set(answer="text")
                await again.send(2, "hello")
                assert (await again.event("turn_end"))["reason"] == "done"
            assert await health(server) == 200

    with running(scripted(models, script)) as server:
        try:
            asyncio.run(converse(server))
        finally:
            go.set()


@pytest.mark.slow
@pytest.mark.parametrize("hands_free", [False, True])
def test_after_ten_minutes_of_silence_a_question_is_answered(server, asked, hands_free):
    async def converse():
        async with Page(server) as page:
            await page.set(hands_free=hands_free, sampling={"greedy": True, "max_new_tokens": 7})
            for _ in range(600):
                await page.say(np.zeros(24000, np.float32))
            await answers(page)  # all of it was taken
            assert page.events("turn_start") == page.errors() == []
            await page.say(np.concatenate([question(24000), np.zeros(24000, np.float32)]))
            if not hands_free:
                await page.pause()
            assert (await page.event("turn_end"))["reason"] == "done"
            assert page.errors() == ([] if hands_free else ["utterance_too_long"])

    asyncio.run(converse())
    # The question and a little around it; with the button, the silence of its last minute is cut.
    assert asked[0]["tokens"] / 25 < len(question(24000)) / 24000 + 1.5
