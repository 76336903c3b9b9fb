# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""``serve --llm-server``: another server computes the answers, as text.

``tests/serving`` does the same with vLLM.
"""

import asyncio
import signal
import threading
from dataclasses import replace

import aiohttp
import pytest

from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.chat_servers import DONE, chunk, model_answers, serving
from tests.helpers.golden import TINY_A
from tests.helpers.server_process import started
from tests.helpers.web_clients import TIMEOUT_S, Page, running, tone
from web_demo.server.engine import Models

SHORT = {"max_new_tokens": 12}


def echo(request):
    yield chunk(f"heard {request['messages'][-1]['content']}")
    yield DONE


def test_typed_and_spoken_questions_get_the_answers_of_the_model_there():
    local = VoiceChat.from_pretrained(TINY_A, device="cpu")

    async def converse(server):
        async with Page(server) as page:
            ready = await page.event("ready")
            assert (ready["answers"], ready["voices"]) == (["text"], [])
            assert ready["settings"]["answer"] == ready["defaults"]["answer"] == "text"
            assert ready["default_system_prompt"] == "You are asked to generate text tokens."
            await page.set(answer="speech", sampling=SHORT)
            assert page.events("settings")[-1]["settings"]["answer"] == "text"
            await page.send(2, "hello")
            typed = await page.event("turn_end", turn=1, reason="done")
            await page.start()
            await page.ask(tone(1.0))
            spoken = await page.event("turn_end", turn=2, reason="done")
            assert page.text() == typed["text"] + spoken["text"] and spoken["text"]
            assert not page.audio_messages() and not page.errors()
            return typed["text"]

    with serving(model_answers(local)) as url:
        with running(Models.of_server(url, None, "none")) as server:
            typed = asyncio.run(converse(server))
    assert typed == local.ask("hello", speech=False, sampling=Sampling(**SHORT)).text


def test_an_answer_that_is_waited_for_holds_up_nobody():
    other_is_done = threading.Event()

    def answer(request):
        if request["messages"][-1]["content"] == "slow":
            yield chunk("wait, ")
            assert other_is_done.wait(timeout=30)
        yield chunk("done")
        yield DONE

    async def converse(server):
        async with Page(server) as first, Page(server) as second:
            await first.send(2, "slow")
            await first.event("first_text")
            await second.send(2, "quick")
            assert (await second.event("turn_end"))["text"] == "done"
            other_is_done.set()
            assert (await first.event("turn_end"))["text"] == "wait, done"

    with serving(answer) as url, running(Models.of_server(url, None, "none")) as server:
        asyncio.run(converse(server))


def test_what_the_server_refuses_is_reported_and_the_conversation_continues():
    def answer(request):
        if request["messages"][-1]["content"] == "too long":
            raise ValueError("beyond the context")
        return echo(request)

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "too long")
            error = await page.event("error")
            assert error["code"] == "bad_question" and "beyond the context" in error["message"]
            await page.send(2, "hello")
            assert (await page.event("turn_end", reason="done"))["text"] == "heard hello"

    with serving(answer) as url, running(Models.of_server(url, None, "none")) as server:
        asyncio.run(converse(server))


def test_an_answer_that_does_not_come_holds_up_no_exit():
    asked, let_go = threading.Event(), threading.Event()

    def answer(request):
        asked.set()
        let_go.wait(TIMEOUT_S)
        yield DONE

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await asyncio.to_thread(asked.wait, TIMEOUT_S)
            server.process.send_signal(signal.SIGTERM)
            await page.event("error", code="draining")

    with serving(answer) as url:
        with started(None, "--llm-server", url, "--drain-seconds", "0.1") as server:
            try:
                asyncio.run(converse(server))
                assert server.process.wait(40) == 1  # the request would be given up after 60 s
            finally:
                let_go.set()


def test_the_command_serves_without_a_folder():
    async def converse(server):
        async with aiohttp.ClientSession() as http, http.get(server.url + "/api/info") as reply:
            assert (await reply.json())["model"] == "other"
        async with Page(server) as page:
            await page.send(2, "hello")
            assert (await page.event("turn_end"))["text"] == "heard hello"

    with serving(echo) as url:
        with started(None, "--llm-server", url, "--llm-server-model", "other") as server:
            asyncio.run(converse(server))


def test_folders_and_a_server_exclude_each_other(capsys):
    from web_demo.server.server import main

    with pytest.raises(SystemExit):
        main(["--llm-server", "http://127.0.0.1:1", "--model-path", str(TINY_A)])
    assert "in place of --model-path" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="is the server running there"):
        main(["--llm-server", "http://127.0.0.1:1"])


def test_models_that_speak_offer_both_kinds_of_answers(models):
    assert models.answers == ["speech", "text"]
    assert replace(models, detokenizer=None).answers == ["text"]
