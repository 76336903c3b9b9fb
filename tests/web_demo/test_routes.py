# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The queue and its endpoints, health, figures, and the files of the page."""

import asyncio
import json
from dataclasses import replace

import aiohttp

from funaudiochat.capabilities import Capabilities
from tests.helpers.web_clients import TIMEOUT_S, Page, ReferencePage, running, scripted


def brief(question):
    yield "Hello"
    for _ in range(1000 if question == "go on" else 5):
        yield [1] * 5


async def get(server, path, **query):
    async with aiohttp.ClientSession() as http, http.get(server.url + path, params=query) as reply:
        return reply.status, await reply.text()


def test_users_wait_in_order_and_are_told_their_place(models):
    async def converse(server):
        async with Page(server) as first:
            await first.event("ready")
            async with Page(server) as second, Page(server) as third:
                await second.event("queue", position=1)
                await third.event("queue", position=2, size=2)
                assert not third.events("ready")
                await first.socket.close()
                await second.event("ready")
                await third.event("queue", position=1)
                await second.socket.close()
                await third.event("ready")

    with running(scripted(models, brief), max_sessions=1) as server:
        asyncio.run(converse(server))


def test_the_queue_endpoints_of_the_reference(models):
    async def converse(server):
        async with Page(server, token="t") as first:
            await first.event("ready")
            assert (await get(server, "/api/add_user", queue_id="q"))[0] == 401
            status, body = await get(server, "/api/add_user", queue_id="q", token="t")
            ticket = json.loads(body)
            assert status == 200 and isinstance(ticket["session_id"], int)

            async def check(**wrong):
                query = {**{k: str(v) for k, v in ticket.items()}, "token": "t", **wrong}
                status, body = await get(server, "/api/check_user", **query)
                return status, json.loads(body)

            status, waiting = await check()
            assert waiting == {
                "session_id": ticket["session_id"],
                "status": "wait",
                "worker_auth_id": None,
                "worker_addr": None,
                "current_position": "1",
            }
            assert (await check(session_auth_id="x"))[0] == 404
            assert (await check(session_id="x"))[0] == 404
            await first.socket.close()
            async with asyncio.timeout(TIMEOUT_S):
                while (found := (await check())[1])["status"] != "ready":
                    await asyncio.sleep(0.01)
            assert found["worker_addr"] == "simplex"
            async with ReferencePage(
                server, path="/api/simplex", worker_auth_id=found["worker_auth_id"]
            ) as page:  # the key stands for the token
                await page.event("ready")
            status, _ = await get(server, "/api/user_feedback", feedback="1", token="t")
            assert status == 200
            assert (await get(server, "/api/user_feedback", feedback="9", token="t"))[0] == 400

    with running(scripted(models, brief), max_sessions=1, token="t") as server:
        asyncio.run(converse(server))


def test_health_figures_info_and_a_page_that_says_how_to_build_it(models, tmp_path):
    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.event("turn_end")
            await page.send(2, "go on")
            await page.event("first_audio", turn=2)
            await page.start()
            await page.event("turn_end", turn=2)
            await page.pause()
            await page.event("error")
            status, body = await get(server, "/healthz")
            assert (status, json.loads(body)["sessions"]) == (200, 1)
            _, figures = await get(server, "/metrics")
            for line in (
                'funaudiochat_turns_total{reason="done"} 1.0',
                'funaudiochat_turns_total{reason="interrupted"} 1.0',
                'funaudiochat_cancels_total{cause="button"} 1.0',
                'funaudiochat_errors_total{code="no_audio"} 1.0',
                "funaudiochat_first_audio_seconds_count 2.0",
                "funaudiochat_real_time_factor_count 1.0",
                "funaudiochat_sessions 1.0",
                "funaudiochat_queue_length 0.0",
            ):
                assert line in figures
            _, body = await get(server, "/api/info")
            info = json.loads(body)
            ready = page.events("ready")[0]
            assert info["voices"] == ready["voices"] == ["anna", "ben"]
            assert info["limits"] == ready["limits"] and info["max_sessions"] == 4
        status, body = await get(server, "/")
        assert status == 200 and "npm run build" in body
        (tmp_path / "dist").mkdir()
        (tmp_path / "dist" / "index.html").write_text("<p>built</p>")
        (tmp_path / "dist" / "app.js").write_text("1")
        (tmp_path / "secret").write_text("no")
        assert (await get(server, "/"))[1] == "<p>built</p>"
        assert (await get(server, "/app.js"))[1] == "1"
        strange = ("/nothing.js", "/%00", "/" + "x" * 999)
        for path in ("/../secret", "/%2e%2e/secret", "/%2e%2e%2fsecret", *strange):
            assert (await get(server, path))[0] == 404, path

    with running(scripted(models, brief), page=tmp_path / "dist") as server:
        asyncio.run(converse(server))


def test_the_page_is_told_what_the_model_can_do_and_only_its_tools_are_offered(models):
    able = Capabilities("Small.", ("en",), (), ("get_time", "fly"), ("What time is it?",))
    asked = []

    def script(question):
        asked.append(question)
        yield "Noon."
        yield [1] * 5

    async def converse(server, told):
        status, body = await get(server, "/api/info")
        assert status == 200
        async with Page(server) as page:
            ready = await page.event("ready")
            for info in (json.loads(body), ready):
                names = [tool["name"] for tool in info.pop("tools")]
                assert {key: info[key] for key in told} == told
            await page.set(tools=True)
            await page.send(2, "What time is it?")
            await page.event("turn_end", reason="done")
        return names

    told = {"description": "Small.", "languages": ["en"], "personas": [],
            "examples": ["What time is it?"]}  # fmt: skip
    small = replace(scripted(models, script), capabilities=able)
    with running(small) as server:
        assert asyncio.run(converse(server, told)) == ["get_time"]
    assert asked[0] == ("tools", "What time is it?")
    asked.clear()
    with running(replace(small, capabilities=Capabilities(tools=()))) as server:
        unknown = {"description": None, "languages": None, "personas": None, "examples": []}
        assert asyncio.run(converse(server, unknown)) == []
    assert asked == ["What time is it?"]
