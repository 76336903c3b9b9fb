# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The Realtime interface over WebRTC, with aiortc as the client, and in a browser."""

import asyncio
import contextlib
import json
import os
import re
import sys
import threading

import aiohttp
import openai
import pytest

pytest.importorskip("aiortc")

from tests.helpers import ROOT, recordings  # noqa: E402
from tests.helpers import browser as browsers  # noqa: E402
from tests.helpers.call_clients import CallClient, new_connection, offer  # noqa: E402
from tests.helpers.realtime_clients import MANUAL  # noqa: E402
from tests.helpers.web_clients import (
    TIMEOUT_S,
    forever,
    running,
    scripted,
    sessions_in_memory,
    until,
)  # noqa: E402

SDP = {"Content-Type": "application/sdp"}


def run(test) -> None:
    asyncio.run(asyncio.wait_for(test(), TIMEOUT_S))


def script(question):
    """Reply to speech and to `long` without end, to other texts with a second of audio."""
    if not isinstance(question, str) or question == "long":
        yield from forever(question)
    for number in range(5):
        yield f"{question}{number} "
        yield [number + 1] * 5


def short(question):
    yield "Paris."
    yield [1] * 20


@pytest.fixture(scope="module")
def answering(models):
    with running(scripted(models, script), max_sessions=8) as server:
        yield server


async def closed(server) -> None:
    """Wait until a server has forgotten every call."""
    await until(lambda: not server.sessions.connections)
    await until(lambda: server.context.lobby.active == server.context.engine.jobs == 0)


def test_a_spoken_question_is_answered_aloud(models, network):
    async def conversation():
        with running(scripted(models, short), max_sessions=1) as server:
            session = {"type": "realtime", "instructions": "Be kind."}
            async with CallClient(server, session) as client:
                created = await client.event("session.created")
                assert created["session"]["instructions"] == "Be kind."
                assert client.location.startswith("/v1/realtime/calls/rtc_")
                await client.speak(recordings.question(24000))
                done = (await client.event("response.done"))["response"]
                assert done["output"][0]["content"][0]["transcript"] == "Paris."
                await client.event("output_audio_buffer.stopped")
                kinds = client.kinds()
                order = ["session.created", "input_audio_buffer.speech_started",
                         "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
                         "response.created", "response.output_audio_transcript.delta",
                         "response.output_audio.done", "output_audio_buffer.stopped"]  # fmt: skip
                assert [kind for kind in kinds if kind in order] == order
                assert "response.output_audio.delta" not in kinds
                started = client.named("output_audio_buffer.started")[0]
                assert started["response_id"] == done["id"]
                loud = [number for number in range(len(client.heard)) if client.loud(number)]
                assert 0.4 < len(loud) * 0.02 < 1.0  # the reply has 0.8 s
                assert loud[-1] - loud[0] < 60
            await closed(server)

    run(conversation)


def test_a_question_that_cannot_be_answered_is_an_error_and_the_call_goes_on(models, network):
    async def conversation():
        with running(scripted(models, short), max_sessions=1) as server:
            async with CallClient(server) as client:
                await client.event("session.created")
                server.context.draining = True
                await client.speak(recordings.question(24000))
                error = (await client.event("error"))["error"]
                assert (error["type"], error["code"]) == ("server_error", "draining")
                server.context.draining = False
                assert (await client.respond())["status"] == "completed"

    run(conversation)


def test_speech_interrupts_and_what_was_not_played_is_dropped(answering, network):
    async def conversation():
        async with CallClient(answering) as client:
            await client.event("session.created")
            detection = {"type": "server_vad", "create_response": False}
            await client.configure(audio={"input": {"turn_detection": detection}})
            await client.type("long")
            await client.send("response.create")
            await client.event("output_audio_buffer.started")
            await client.until(lambda: client.heard and client.loud(-1))
            await client.speak(recordings.question(24000))
            cleared = await client.event("output_audio_buffer.cleared")
            done = (await client.event("response.done"))["response"]
            assert (done["status"], cleared["response_id"]) == ("cancelled", done["id"])
            assert done["status_details"]["reason"] == "turn_detected"
            truncated = await client.event("conversation.item.truncated")
            assert truncated["item_id"] == done["output"][0]["id"]
            sent = done["output"][0]["content"][0]["transcript"].split()
            got = await client.ask("conversation.item.retrieve", "conversation.item.retrieved",
                                   item_id=truncated["item_id"])  # fmt: skip
            kept = got["item"]["content"][0]["transcript"].split()
            assert kept == sent[: -(-truncated["audio_end_ms"] // 200)] and len(kept) < len(sent)
            at = len(client.heard)
            await client.until(lambda: len(client.heard) > at + 30)
            assert not any(client.loud(number) for number in range(at + 20, at + 30))
            await client.event("input_audio_buffer.committed")
            assert "output_audio_buffer.stopped" not in client.kinds()

    run(conversation)


def test_cancelling_plays_what_was_sent_and_clearing_drops_it(answering):
    async def conversation():
        async with CallClient(answering, MANUAL) as client:
            await client.event("session.created")
            await client.type("long")
            await client.send("response.create")
            await client.event("output_audio_buffer.started")
            await client.send("response.cancel")
            first = (await client.event("response.done"))["response"]
            stopped = await client.event("output_audio_buffer.stopped")
            assert stopped["response_id"] == first["id"]
            assert "conversation.item.truncated" not in client.kinds()
            await client.type("long")
            await client.send("response.create")
            await client.event("output_audio_buffer.started", 2)
            await client.send("output_audio_buffer.clear")
            second = (await client.event("response.done", 2))["response"]
            cleared = await client.event("output_audio_buffer.cleared")
            assert cleared["response_id"] == second["id"]
            assert second["status_details"]["reason"] == "client_cancelled"
            await client.event("conversation.item.truncated")
            await client.type("word")
            done = (await client.ask("response.create", "response.done", response={}))["response"]
            assert done["status"] == "completed"
            # Done, but its end is still being played: clearing cuts that too.
            await client.send("output_audio_buffer.clear")
            await client.event("output_audio_buffer.cleared", 2)
            last = await client.event("conversation.item.truncated", 2)
            assert last["item_id"] == done["output"][0]["id"] and last["audio_end_ms"] < 1000
            await client.send("output_audio_buffer.clear")  # of nothing
            await client.send("nothing", event_id="mine")
            error = (await client.event("error"))["error"]
            assert error["event_id"] == "mine" and len(client.named("error")) == 1

    run(conversation)


def test_the_openai_package_makes_a_call_and_hangs_up(answering):
    async def conversation():
        connection = new_connection()
        connection.addTransceiver("audio")
        session = {"type": "realtime", "model": answering.context.models.name}
        async with openai.AsyncOpenAI(base_url=f"{answering.url}/v1", api_key="none") as client:
            answer = await client.realtime.calls.create(
                sdp=await offer(connection), session=session
            )
            assert answer.text.startswith("v=0") and answer.response.status_code == 201
            call_id = answer.response.headers["Location"].rpartition("/")[2]
            await client.realtime.calls.hangup(call_id)
            await closed(answering)
            with pytest.raises(openai.NotFoundError):
                await client.realtime.calls.hangup(call_id)
        await connection.close()

    run(conversation)


def test_calls_one_after_another_leave_nothing_behind(answering):
    async def call(number):
        async with CallClient(answering) as client:
            await client.event("session.created")
            await client.type("long")
            await client.send("response.create")
            if number % 2:
                await client.event("output_audio_buffer.started")

    async def tasks():
        return len(asyncio.all_tasks())

    async def conversation():
        await call(1)
        await closed(answering)
        before = await asyncio.to_thread(answering.call, tasks())
        files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        for number in range(6):
            await call(number)
        await closed(answering)
        assert await asyncio.to_thread(answering.call, tasks()) <= before + 1
        await until(lambda: len(os.listdir("/proc/self/fd")) <= files + 3)
        await until(lambda: threading.active_count() <= threads + 8)  # of the thread pools
        assert await asyncio.to_thread(answering.call, sessions_in_memory()) <= 1

    run(conversation)


def test_a_call_waits_in_the_queue_and_can_be_hung_up(models):
    async def conversation():
        with running(scripted(models, script), max_sessions=1, queue_size=1, token="t") as server:
            first, second, third = (CallClient(server, MANUAL) for _ in range(3))
            for client in (first, second, third):
                client.headers = {"Authorization": "Bearer t"}
            async with first, second:
                await first.event("session.created")
                with pytest.raises(AssertionError, match="429"):
                    await third.__aenter__()
                assert not second.events
                async with aiohttp.ClientSession(headers=first.headers) as http:
                    url = f"{server.url}{first.location}/hangup"
                    async with http.post(url) as response:
                        assert response.status == 200
                    await second.event("session.created")
                    await until(lambda: len(server.sessions.connections) == 1)
                    async with http.post(url) as response:
                        assert response.status == 404
                async with aiohttp.ClientSession() as http:
                    async with http.post(f"{server.url}/v1/realtime/calls") as response:
                        assert response.status == 401

    run(conversation)


def test_a_call_is_drained_and_ends_with_its_server(models):
    async def conversation():
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(running(scripted(models, short), max_sessions=2))
            async with CallClient(server, MANUAL) as client, CallClient(server, MANUAL) as idle:
                await client.event("session.created")
                await idle.event("session.created")
                await client.type("word")
                await client.send("response.create")
                await client.event("response.created")
                drained = asyncio.create_task(
                    asyncio.to_thread(server.call, server.sessions.drain())
                )
                await until(lambda: server.context.draining)
                with pytest.raises(AssertionError, match="503"):
                    await CallClient(server, MANUAL).__aenter__()
                await client.event("response.done")
                await drained
                await until(lambda: client.channel.readyState == "closed")
        assert not server.sessions.connections

    run(conversation)


def test_an_open_call_ends_with_its_server(models):
    async def conversation():
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(running(scripted(models, short), max_sessions=2))
            async with CallClient(server, MANUAL) as client:
                await client.event("session.created")
                await asyncio.to_thread(stack.close)
                await until(lambda: client.channel.readyState == "closed")
        assert not server.sessions.connections

    run(conversation)


WRONG = [
    ("", SDP, 400, "missing_required_parameter"),
    ("hello", SDP, 400, "invalid_offer"),
    ("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", SDP, 400, "invalid_offer"),
    ("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", SDP, 400, "invalid_offer"),
    ("v=0\r\n" + "a" * 70_000, SDP, 400, "string_above_max_length"),
    ("{}", {"Content-Type": "application/json"}, 400, "unsupported_content_type"),
    ("--x", {"Content-Type": "multipart/form-data"}, 400, None),
    ({"session": "{}"}, {}, 400, "missing_required_parameter"),
    ({"sdp": "v=0", "session": "nothing"}, {}, 400, "invalid_json"),
    ({"sdp": "v=0", "session": "[1]"}, {}, 400, "invalid_value"),
    ({"sdp": "v=0", "session": '{"type": "transcription"}'}, {}, 400, "invalid_value"),
    ({"sdp": "v=0", "session": '{"audio": {"output": {"speed": 1.4}}}'}, {}, 400,
     "unsupported_value"),
    ({"sdp": "v=0", "session": '{"model": "other"}'}, {}, 404, "model_not_found"),
    ({"sdp": "v=0", "session": "{}"}, {}, 400, "invalid_offer"),
]  # fmt: skip


@pytest.mark.parametrize("body, headers, status, code", WRONG)
def test_bad_offers_are_refused_as_the_original_does(answering, body, headers, status, code):
    async def ask():
        data = body
        if isinstance(body, dict):
            data = aiohttp.FormData(default_to_multipart=True)
            for name, value in body.items():
                data.add_field(name, value)
        async with aiohttp.ClientSession() as http:
            url = f"{answering.url}/v1/realtime/calls"
            async with http.post(url, data=data, headers=headers) as response:
                error = (await response.json())["error"]
                assert response.status == status and error["type"] == "invalid_request_error"
                assert code is None or error["code"] == code, error
        await closed(answering)

    run(ask)


def test_an_offer_without_audio_is_refused_and_video_is_declined(answering):
    async def ask(*kinds):
        connection = new_connection()
        connection.createDataChannel("oai-events")
        for kind in kinds:
            connection.addTransceiver(kind)
        async with aiohttp.ClientSession() as http:
            url, sdp = f"{answering.url}/v1/realtime/calls", await offer(connection)
            async with http.post(url, data=sdp, headers=SDP) as response:
                answer = await response.text()
        await connection.close()
        return response.status, answer

    async def both():
        status, answer = await ask()
        assert status == 400 and json.loads(answer)["error"]["code"] == "invalid_offer"
        status, answer = await ask("audio", "video")
        assert status == 201
        audio, video = answer.split("m=audio")[1].split("m=video")
        assert "a=sendrecv" in audio and "a=inactive" in video

    run(both)


def test_without_aiortc_the_error_names_the_extra(answering, monkeypatch):
    monkeypatch.setitem(sys.modules, "aiortc", None)
    monkeypatch.delitem(sys.modules, "web_demo.server.openai_api.realtime_call", raising=False)

    async def ask():
        async with aiohttp.ClientSession() as http:
            url = f"{answering.url}/v1/realtime/calls"
            async with http.post(url, data="v=0", headers=SDP) as response:
                assert response.status == 501
                error = (await response.json())["error"]
                assert "funaudiochat[rtc]" in error["message"]

    run(ask)


GUIDE = (ROOT / "docs" / "openai-api.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```javascript\n(// In a page.*?)```", GUIDE, re.DOTALL)
CALL = """(async () => {
  %s
  window.heard = { events: [], energy: 0 };
  window.connection = await call("", "any", (event) => heard.events.push(event));
  setInterval(async () => {
    for (const each of (await connection.getStats()).values())
      if (each.type === "inbound-rtp") heard.energy = each.totalAudioEnergy;
  }, 100);
})()"""


@pytest.mark.slow
@pytest.mark.skipif(browsers.missing() is not None, reason=str(browsers.missing()))
def test_a_browser_has_a_call(models, network, browser, speaking):
    with running(scripted(models, short), max_sessions=1) as server:
        page = browser.open(f"{server.url}/healthz", wav=speaking)
        page.evaluate(CALL % EXAMPLE)
        happened = "heard.events.some((event) => event.type === '{}')".format
        for kind in ("session.created", "input_audio_buffer.speech_started",
                     "output_audio_buffer.started", "response.done",
                     "output_audio_buffer.stopped"):  # fmt: skip
            page.wait_until(happened(kind), TIMEOUT_S)
        page.wait_until("heard.energy > 0")
        said = page.evaluate(
            "heard.events.find((event) => event.type === 'response.done')"
            ".response.output[0].content[0].transcript"
        )
        assert said == "Paris."
        assert not page.evaluate("heard.events.filter((event) => event.type === 'error').length")
        page.evaluate("connection.close()")
        asyncio.run(asyncio.wait_for(closed(server), TIMEOUT_S))
