# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The 21 defects found in the reference's server, each a test of ours; numbers as in its list."""

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
import torch

from tests.helpers import ROOT
from tests.helpers.web_clients import (
    TIMEOUT_S,
    Page,
    ReferencePage,
    running,
    scripted,
    spying,
    tone,
    until,
)
from web_demo.server import engine, outbox, turn
from web_demo.server.server import choose_tts_device

GREEDY = {"greedy": True, "max_new_tokens": 7}
LONG = {"greedy": True, "max_new_tokens": 200}


async def answer(server, pitch_hz, sampling=GREEDY, **query):
    """Ask one question over a new connection and return the text and audio."""
    async with Page(server, **query) as page:
        await page.set(sampling=sampling)
        await page.ask(tone(1, pitch_hz))
        await page.event("turn_end")
        return page.text(), page.audio()


def test_01_four_users_each_hear_their_own_reply(server):
    async def converse():
        alone = [await answer(server, pitch) for pitch in (200, 400, 800, 1600)]
        together = await asyncio.gather(*(answer(server, p) for p in (200, 400, 800, 1600)))
        for (text, audio), (text_alone, audio_alone) in zip(together, alone, strict=True):
            assert text == text_alone and len(audio)
            assert np.array_equal(audio, audio_alone)

    asyncio.run(converse())


def test_02_answers_made_at_once_share_one_thread_of_steps(server, asked):
    async def converse():
        await asyncio.gather(*(answer(server, pitch) for pitch in (300, 500, 700, 900)))

    asyncio.run(converse())
    assert len(asked) == 4
    for entry in asked:
        assert {name.split("_")[0] for name in entry["threads"]} <= {"prompts", "steps"}
        assert len(entry["threads"]) <= 2


def test_03_start_silences_a_reply_within_250_ms(server):
    async def converse():
        late_s = []
        async with Page(server) as page:
            await page.set(sampling=LONG)
            for turn in (1, 2, 3):
                before = len(page.audio_messages())
                await page.ask(tone(1))
                await page.until(lambda: len(page.audio_messages()) > before + 5)  # noqa: B023
                pressed = time.monotonic()
                await page.start()
                assert (await page.event("turn_end", turn=turn))["reason"] == "interrupted"
                await page.say(tone(0.4), pace=1)  # long enough for late audio to show up
                late_s.append(page.audio_messages()[-1].at - pressed)
                await page.send(3, b"\x03")
        # A loaded machine may be late once; a server that does not stop always is.
        assert min(late_s) < 0.25

    asyncio.run(converse())


def test_04_what_is_said_during_a_reply_is_heard(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=LONG)
            await page.ask(tone(1))
            await page.event("first_audio")
            await page.start()
            await page.ask(tone(2))
            await page.event("first_audio", turn=2)

    asyncio.run(converse())
    assert [entry["tokens"] for entry in asked] == [25, 50]


def test_05_a_disconnect_stops_the_model(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=LONG)
            await page.ask(tone(1))
            await page.event("first_audio")
        await until(lambda: asked[0]["closed"] and not server.context.engine.jobs)

    asyncio.run(converse())
    assert asked[0]["groups"] < 150


def test_06_a_malformed_page_is_reported_and_the_connection_lives(server):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.send(1, b"this is not an Ogg page")
            await page.send(1, b"OggS\x00\x02" + bytes(300))
            await page.event("error", code="bad_audio")
            await page.ask(tone(1))
            assert (await page.event("turn_end"))["reason"] == "done"
            assert len(page.audio())

    asyncio.run(converse())


def test_07_a_burst_before_the_button_is_heard_in_full(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.ask(tone(2))
            await page.event("turn_end")

    asyncio.run(converse())
    assert asked[0]["tokens"] == 50


def test_08_a_silent_page_is_kept_alive(server, monkeypatch):
    assert outbox.KEEPALIVE_S < 30  # when the reference's page gives up
    monkeypatch.setattr(outbox, "KEEPALIVE_S", 0.2)

    async def converse():
        async with ReferencePage(server) as page:
            await page.event("keepalive", 2)

    asyncio.run(converse())


def worklet_plays(frames):
    """How many frames the reference's worklet plays: it starts, and starts again, with 12."""
    return frames if frames >= 12 else 0


def test_09_short_replies_play_on_the_reference_page(models):
    def script(question):
        yield [5] * 5
        yield [6] * 3

    async def converse(server):
        async with ReferencePage(server) as page:
            await page.ask(tone(1))
            await page.event("turn_end")
            frames = len(page.audio_messages())
            assert worklet_plays(frames) >= 8
            # A tail that comes after the buffer ran dry is pushed through, too.
            assert worklet_plays(frames - 8) == frames - 8
        async with Page(server) as page:
            await page.ask(tone(1))
            await page.event("turn_end")
            assert len(page.audio_messages()) == 8

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))


def test_10_every_token_becomes_audio(models, tmp_path):
    codes = [int(code) for code in torch.randint(0, 30, (43,), generator=torch.manual_seed(0))]

    def script(question):
        for start in range(0, len(codes), 5):
            yield codes[start : start + 5]

    async def converse(server):
        async with Page(server) as page:
            await page.ask(tone(1))
            end = await page.event("turn_end")
            assert end["audio_ms"] == 43 * 40
            assert len(page.audio_messages()) == 43 and len(page.audio()) == 43 * 960
        await until(lambda: list(tmp_path.glob("*.json")))

    with running(scripted(models, script), save_recordings=tmp_path) as server:
        asyncio.run(converse(server))
    sent, _ = soundfile.read(next(tmp_path.glob("*_answer.wav")))
    voice = models.detokenizer.stream(models.voices["anna"])
    pieces = [voice.push(codes[start : start + 5]) for start in range(0, len(codes), 5)]
    waveform = torch.cat([*pieces, voice.finish()]).numpy()
    assert np.allclose(sent, waveform.clip(-1, 1), atol=1 / 32767)


def test_11_a_recording_is_whole_and_the_next_turn_has_none_of_it(models, tmp_path):
    def script(question):
        yield from ([number] * 5 for number in range(9))

    async def converse(server):
        async with Page(server) as page:
            for turn in (1, 2):
                await page.start()
                await page.ask(tone(1))
                await page.event("turn_end", turn=turn)
        await until(lambda: len(list(tmp_path.glob("*.json"))) == 2)

    with running(scripted(models, script), save_recordings=tmp_path) as server:
        asyncio.run(converse(server))
    waveforms = [soundfile.read(path)[0] for path in sorted(tmp_path.glob("*_answer.wav"))]
    assert [len(waveform) for waveform in waveforms] == [45 * 960] * 2
    assert np.array_equal(waveforms[0], waveforms[1])


def test_12_no_state_of_one_reply_reaches_the_next(watched, tmp_path):
    async def converse(server):
        async with Page(server) as page:
            await page.set(sampling={"seed": 1, "max_new_tokens": 12})
            for turn, question in enumerate(("One?", "Two?", "One?"), 1):
                await page.send(3, b"\x03")
                await page.send(2, question)
                await page.event("turn_end", turn=turn)
        await until(lambda: len(list(tmp_path.glob("*.json"))) == 3)

    with running(watched[0], save_recordings=tmp_path) as server:
        asyncio.run(converse(server))
    answers = [soundfile.read(path)[0] for path in sorted(tmp_path.glob("*_answer.wav"))]
    assert len(answers[0]) and np.array_equal(answers[0], answers[2])


@pytest.mark.parametrize(
    ("gpus", "flags", "expected"),
    [
        (0, ("cpu", None, 1), "cpu"),
        (1, ("cuda", None, 1), "cuda"),
        (1, ("auto", None, None), "auto"),
        (2, ("auto", None, None), "cuda:1"),
        (2, ("cuda:1", None, None), "cuda:1"),
        (2, ("cuda", "cpu", 1), "cpu"),
    ],
)
def test_13_the_detokenizer_runs_on_what_there_is(monkeypatch, gpus, flags, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_tts_device(*flags) == expected


def test_14_a_busy_model_does_not_block_the_server(models):
    go = threading.Event()

    def script(question):
        yield lambda: go.wait(TIMEOUT_S)
        yield "done"

    async def converse(server):
        async with Page(server) as busy, Page(server) as other:
            await busy.ask(tone(1))
            await busy.event("turn_start")
            await other.send(6, b"abc")
            await other.until(lambda: [m for m in other.received if m.kind == 6])
            await other.set(answer="text")
            await busy.send(6, b"xyz")
            await busy.until(lambda: [m for m in busy.received if m.kind == 6])
            assert not busy.events("turn_end")
            go.set()
            await busy.event("turn_end")

    with running(scripted(models, script)) as server:
        try:
            asyncio.run(converse(server))
        finally:
            go.set()


def test_15_long_input_is_bounded_and_the_user_is_told(watched, asked):
    async def converse(server):
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.say(tone(5))
            await page.pause()
            await page.event("error", code="utterance_too_long")
            await page.event("turn_end")
            await page.send(2, "x" * 4001)
            await page.event("error", code="bad_question")
            await page.send(4, json.dumps({"system_prompt": "x" * 4001}))
            await page.event("error", code="bad_settings")
            await page.send(8, bytes(70_000))
            assert await page.until_closed() == 1009

    options = {"max_utterance_seconds": 2.0, "max_message_bytes": 65536}
    with running(watched[0], **options) as server:
        asyncio.run(converse(server))
    assert [entry["tokens"] for entry in asked] == [50]


def test_15_a_reply_is_made_only_a_little_ahead_of_what_is_sent(models, monkeypatch):
    monkeypatch.setattr(engine, "QUEUE_EVENTS", 8)
    monkeypatch.setattr(turn, "QUEUE_CHUNKS", 4)
    longest_chunk = 50 // 5  # steps in two seconds
    # Both queues, the chunk that is sent, the one that waits, and the steps of the next one.
    most = 8 + 1 + (4 + 3) * longest_chunk
    made, ahead = [], []

    def script(question):
        for number in range(2000):
            made.append(number)
            yield [1] * 5

    async def converse(server):
        async with Page(server) as page:
            await page.ask(tone(1))

            def five_seconds():
                ahead.append(len(made) - len(page.audio_messages()) // 5)
                return len(page.audio_messages()) > 125

            await page.until(five_seconds)

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert 10 < max(ahead) <= most


def test_16_nothing_is_kept_unless_told_and_names_never_meet(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def script(question):
        yield "Hello"
        yield [1] * 5

    async def converse(server):
        for _ in range(3):
            async with Page(server) as page:
                assert page.events("ready") or await page.event("ready")
                await page.ask(tone(1))
                await page.event("turn_end")

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert not list(tmp_path.rglob("*"))
    with running(scripted(models, script), save_recordings=tmp_path / "kept") as server:
        asyncio.run(converse(server))
    assert len(list((tmp_path / "kept").glob("*_001.json"))) == 3


def test_17_token_origin_and_places_are_checked(models):
    async def refused(server, headers=None, **query):
        page = Page(server, **query)
        page.headers = headers or {}
        try:
            async with page:
                return None
        except Exception as error:
            await page._http.close()
            return getattr(error, "status", error)

    async def converse(server):
        assert await refused(server) == 401
        assert await refused(server, token="wrong") == 401
        assert await refused(server, token="ключ") == 401
        assert await refused(server, token="s3cret") is None
        assert await refused(server, headers={"Authorization": "Bearer s3cret"}) is None
        evil = {"Origin": "https://evil.example"}
        assert await refused(server, token="s3cret", headers=evil) == 403
        for origin in ("https://good.example", server.url, "https://localhost:5173"):
            assert await refused(server, token="s3cret", headers={"Origin": origin}) is None
        async with Page(server, token="s3cret") as first, Page(server, token="s3cret") as second:
            await first.event("ready")
            await second.event("queue", position=1)
            async with Page(server, token="s3cret") as third:
                assert await third.until_closed() == 1013
                assert third.errors() == ["queue_full"]

    options = {
        "token": "s3cret",
        "allowed_origins": ("https://good.example",),
        "max_sessions": 1,
        "queue_size": 1,
    }
    with running(models, **options) as server:
        asyncio.run(converse(server))


def test_18_a_failing_model_is_told_and_logged_and_hurts_nobody_else(models, caplog):
    def script(question):
        yield "Good "
        yield [1] * 5
        if question == "fail":
            raise RuntimeError("CUDA out of memory")
        yield "day"

    async def converse(server):
        async with Page(server) as page, Page(server) as other:
            await page.send(2, "fail")
            await other.send(2, "fine")
            end = await page.event("turn_end")
            assert end["reason"] == "error"
            assert page.errors() == ["model_error"]
            told = next(m for m in page.received if m.kind == 5).payload.decode()
            assert "ask again" in told and "CUDA" not in told
            assert (await other.event("turn_end"))["reason"] == "done"
            await page.send(2, "fine")
            assert (await page.event("turn_end", turn=2))["text"] == "Good day"

    with caplog.at_level(logging.INFO), running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert "CUDA out of memory" in caplog.text


def test_19_no_task_outlives_its_connection(server):
    async def count():
        return len(asyncio.all_tasks())

    async def converse():
        for _ in range(3):
            page = Page(server)
            async with page:
                await page.set(sampling=LONG)
                await page.ask(tone(1))
                await page.event("first_audio")
                page.socket._response.connection.transport.abort()
        await until(lambda: not server.sessions.connections)

    before = server.call(count())
    asyncio.run(converse())
    asyncio.run(until(lambda: server.call(count()) <= before))
    assert server.context.lobby.active == 0


def test_20_a_text_answer_completes_without_audio(server):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY, answer="text")
            await page.ask(tone(1))
            end = await page.event("turn_end")
            assert end["text"] == page.text() != ""
            assert not page.audio_messages()
            assert end["stages"]["first_audio_ms"] is None

    asyncio.run(converse())


def test_21_it_starts_in_any_folder_and_without_a_gpu(folders, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "web_demo.server.server",
            "--model-path",
            folders[0],
            "--tts-path",
            folders[1],
            "--port",
            "0",
            "--tts-gpu",
            "1",
            "--log-json",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = (json.loads(line) for line in process.stderr if line.startswith("{"))
        url = next(line["message"] for line in lines if "open http" in line["message"])

        class Process:
            pass

        Process.url = url.removeprefix("open ")
        text, audio = asyncio.run(answer(Process, 440))
        assert text and len(audio)
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def test_spying_changes_nothing(models):
    """The log these tests rest on does not touch what is answered."""
    question = (tone(1, rate_hz=16000), 16000)
    spied, _ = spying(models)
    replies = [
        chat.ask(audio=question, speech=False) for chat in (models.new_chat(), spied.new_chat())
    ]
    assert replies[0].text == replies[1].text
