# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The server as a process: its command, TLS, signals, and that it runs for long."""

import asyncio
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest

from tests.helpers import ROOT
from tests.helpers.server_process import started
from tests.helpers.web_clients import TIMEOUT_S, Page, running, scripted, tone


def test_sigterm_lets_a_reply_end_then_says_goodbye(folders):
    async def converse(server):
        async with Page(server) as page, Page(server) as idle:
            await idle.event("ready")
            assert await asyncio.to_thread(image_says_healthy, server)
            await page.set(sampling={"greedy": True, "max_new_tokens": 12})
            await page.send(2, "hello")
            await page.event("turn_start")
            server.process.send_signal(signal.SIGTERM)
            await page.event("going_away")
            assert await idle.until_closed() == 1001
            assert await page.until_closed() == 1001
            assert page.events("turn_end")[0]["reason"] == "done"

    with started(folders, "--drain-seconds", "60", "--max-sessions", "2") as server:
        asyncio.run(converse(server))
        assert server.process.wait(TIMEOUT_S) == 0


def test_sigterm_with_replies_running_ends_the_process_before_a_container_is_killed(folders):
    async def converse(server):
        async with Page(server) as one, Page(server) as two, Page(server) as three:
            for page in (one, two, three):
                await page.set(sampling={"greedy": True, "max_new_tokens": 2048})
                await page.send(2, "hello")
                await page.event("turn_start")
            server.process.send_signal(signal.SIGTERM)
            for page in (one, two, three):
                await page.event("going_away")
            await asyncio.to_thread(server.process.wait, 10)  # docker's grace

    with started(folders, "--max-sessions", "3") as server:
        asyncio.run(converse(server))


def test_a_reply_that_takes_too_long_at_the_end_is_cut_and_told(models):
    def script(question):
        for _ in range(1000):
            yield [1] * 5

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.event("first_audio")
            drained = asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(server.sessions.drain(), server.loop)
            )
            await page.event("going_away")
            await page.send(2, "one more")
            await page.event("error", code="draining")
            assert await page.until_closed() == 1001
            assert len(page.errors()) == 2 and set(page.errors()) == {"draining"}
            await drained
            async with aiohttp.ClientSession() as http, http.get(server.url + "/healthz") as found:
                assert found.status == 503

    with running(scripted(models, script), drain_seconds=3.0) as server:
        asyncio.run(converse(server))


def test_flags_that_cannot_work_are_refused_in_one_line(tmp_path):
    (tmp_path / "bad.pem").write_text("no certificate")
    cases = (
        (["--sample-rate", "44100"], "24000 Hz"),
        (["--ssl-cert", "x.pem"], "must be given together"),
        (["--ssl-cert", tmp_path / "bad.pem", "--ssl-key", tmp_path / "bad.pem"], "PEM"),
        (["--model-path", tmp_path / "nowhere"], "funaudiochat download"),
    )
    starts = [
        subprocess.Popen(
            [sys.executable, "-m", "web_demo.server.server", *map(str, flags)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for flags, _ in cases
    ]
    for process, (_, told) in zip(starts, cases, strict=True):
        said = process.communicate()[1]
        assert process.returncode and "Traceback" not in said
        assert told in said


def test_flags_reach_what_they_are_for(folders, tmp_path):
    (tmp_path / "index.html").write_text("<p>mine</p>")
    flags = {
        "--token": "t",
        "--allowed-origin": "https://elsewhere/",
        "--max-sessions": "1",
        "--queue-size": "0",
        "--max-utterance-seconds": "1.5",
        "--max-message-bytes": "100000",
        "--idle-seconds": "4",
        "--save-recordings": tmp_path / "kept",
        "--page": tmp_path,
    }

    async def converse(server):
        async with aiohttp.ClientSession() as http:

            async def get(path, origin="https://elsewhere", **query):
                headers = {"Origin": origin}
                async with http.get(server.url + path, params=query, headers=headers) as reply:
                    return reply.status, await reply.text()

            assert (await get("/api/info"))[0] == 401
            assert (await get("/api/info", origin="https://nowhere", token="t"))[0] == 403
            info = json.loads((await get("/api/info", token="t"))[1])
            assert (await get("/"))[1] == "<p>mine</p>"
        limits = info["limits"]
        assert (limits["utterance_seconds"], limits["message_bytes"]) == (1.5, 100000)
        assert limits["idle_seconds"] == 4 and info["recording"] and info["max_sessions"] == 1
        async with Page(server, token="t") as page:
            async with Page(server, token="t") as refused:
                assert await refused.until_closed() == 1013
            await page.set(sampling={"greedy": True, "max_new_tokens": 7})
            await page.ask(tone(3))
            await page.event("error", code="utterance_too_long")
            await page.event("turn_end")
            assert await page.until_closed() == 4000
        async with Page(server, token="t") as page:
            await page.event("ready")
            await page.send(8, bytes(200000))
            assert await page.until_closed() == 1009

    with started(folders, *(str(part) for flag in flags.items() for part in flag)) as server:
        asyncio.run(converse(server))
    assert len(list((tmp_path / "kept").glob("*_question.wav"))) == 1


def test_https_is_served_with_a_certificate(folders, tmp_path):
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-keyout",
            tmp_path / "key.pem",
            "-out",
            tmp_path / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )

    async def converse(server):
        assert server.url.startswith("https://")
        async with aiohttp.ClientSession() as http:
            async with http.get(server.url + "/healthz", ssl=False) as reply:
                assert reply.status == 200
            async with http.ws_connect(server.url + "/api/chat", ssl=False) as socket:
                assert await socket.receive_bytes() == b"\x00\x00\x00"

    with started(
        folders, "--ssl-cert", tmp_path / "cert.pem", "--ssl-key", tmp_path / "key.pem"
    ) as server:
        asyncio.run(converse(server))
        assert image_says_healthy(server)
    assert not image_says_healthy(server)


def image_says_healthy(server):
    """What the Dockerfile's health check finds."""
    dockerfile = (ROOT / "web_demo" / "Dockerfile").read_text()
    command = re.search(r"HEALTHCHECK .*CMD ((?:.*\\\n)*.*)", dockerfile)[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = command.replace("11236", server.url.rpartition(":")[2])
    return subprocess.run(command, shell=True, env={"PATH": path}).returncode == 0


async def figures(server):
    async with aiohttp.ClientSession() as http, http.get(server.url + "/metrics") as reply:
        text = await reply.text()
    return {
        name: float(value) for name, value in re.findall(r"^(\w+) ([\d.e+]+)$", text, re.MULTILINE)
    }


async def one_conversation(server, rng):
    """Ask by voice or text; listen to the end, interrupt, or disconnect without notice."""
    async with Page(server) as page:
        await page.event("ready")  # whoever vanished may hold a place for a moment longer
        await page.set(sampling={"greedy": True, "max_new_tokens": rng.choice((4, 60))})
        if rng.random() < 0.5:
            await page.ask(tone(0.5))
        else:
            await page.send(2, "hello")
        await page.event("turn_start")
        fate = rng.choice(("hear", "interrupt", "leave", "vanish"))
        if fate == "hear":
            await page.set(sampling={"greedy": True, "max_new_tokens": 4})
            await page.start()
            await page.send(2, "hello")
            await page.event("turn_end", turn=2, reason="done")
        elif fate == "interrupt":
            await asyncio.sleep(rng.random())
            await page.start()
        elif fate == "vanish":
            page.socket._response.connection.transport.abort()


async def quiet(server):
    """Wait until the server is idle and return its metrics."""
    deadline = time.monotonic() + TIMEOUT_S
    while (now := await figures(server))["funaudiochat_jobs"] or now["funaudiochat_sessions"]:
        assert time.monotonic() < deadline, now
        await asyncio.sleep(0.1)
    return now


@pytest.mark.slow
def test_the_benchmark_measures_users_one_after_another_and_at_once(folders):
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/serving.py",
            "--users",
            "1",
            "2",
            "--turns",
            "2",
            "--steps",
            "8",
            "--style",
            "markdown",
            "--model-path",
            folders[0],
            "--tts-path",
            folders[1],
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()]
    assert rows == ["users", "---:", "1", "2"] and "nan" not in done.stdout


@pytest.mark.slow
def test_fifty_conversations_in_a_row_and_four_at_once_leave_nothing_behind(folders):
    async def soak(server):
        rng = random.Random(0)
        for _ in range(5):  # lazy imports, pools and caches come to their size
            await one_conversation(server, rng)
        await asyncio.gather(*(one_conversation(server, rng) for _ in range(4)))
        before = await quiet(server)
        for _ in range(50):
            await one_conversation(server, rng)
        for _ in range(5):
            await asyncio.gather(*(one_conversation(server, rng) for _ in range(4)))
        after = await quiet(server)
        for name in ("tasks", "sessions", "jobs", "queue_length"):
            assert after[f"funaudiochat_{name}"] <= before[f"funaudiochat_{name}"]
        # Asyncio's pool starts a thread when none of it is idle, up to this many.
        pool = min(32, (os.cpu_count() or 1) + 4)
        assert after["funaudiochat_threads"] <= before["funaudiochat_threads"] + pool
        grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
        assert grown < 50 * 2**20
        assert after["process_open_fds"] <= before["process_open_fds"]

    with started(folders, "--max-sessions", "4") as server:
        asyncio.run(soak(server))


def test_help_is_shown_at_once():
    """Imports decide how long it takes; a busy machine adds what no program can help."""
    code = """
import sys
from funaudiochat.cli import main
sys.argv = ["funaudiochat", "serve", "--help"]
try:
    main()
except SystemExit:
    slow = {"torch", "transformers", "numpy", "aiohttp", "onnxruntime"} & set(sys.modules)
    sys.exit(f"imported: {slow}" if slow else 0)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "--max-sessions" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
