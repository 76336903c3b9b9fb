# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The evaluation and the demo on ``vllm serve``: their own commands, with its answers."""

import asyncio
import json

from typer.testing import CliRunner

from funaudiochat.cli import app
from funaudiochat.sampling import Sampling
from tests.helpers.server_process import started
from tests.helpers.web_clients import Page, tone

TOKENS = 24
SUBSETS = ("librispeech/test-clean", "voicebench/commoneval")


def texts(run) -> dict[str, str]:
    """Answer of every item of a run; vLLM drops a last character that never became whole."""
    return {
        f"{file.parent.name}/{row['id']}": row["text"].rstrip("\ufffd")
        for file in run.rglob("predictions*.jsonl")
        for row in map(json.loads, file.read_text().splitlines())
    }


def test_the_evaluation_gets_the_answers_it_gets_in_process(url, model_folder, tmp_path):
    from evaluate.mini_data import build

    build(tmp_path / "data")
    found = {}
    for name, source in (("there", ["--server", url]), ("here", ["--model-path", model_folder])):
        for subset in SUBSETS:
            command = [
                "eval",
                "infer",
                "--benchmark",
                subset,
                "--data",
                tmp_path / "data",
                "--out",
                tmp_path / name,
                "--max-new-tokens",
                TOKENS,
                *source,
            ]
            done = CliRunner().invoke(app, list(map(str, command)))
            assert done.exit_code == 0, done.output
        found[name] = texts(tmp_path / name)
    assert found["there"] == found["here"]
    assert len(found["here"]) >= 4 and all(found["here"].values())


def test_an_answer_may_be_asked_for_that_is_longer_than_the_context(url, tmp_path):
    """The commands' default, 2048 tokens, is more than this server's whole context."""
    from evaluate.sources import Prompt, ServerModel

    prompt = Prompt(
        "You are asked to generate text tokens.",
        None,
        tone(1.0, rate_hz=16000),
        speech=False,
        seed=0,
    )
    (answer,) = ServerModel(url, max_new_tokens=2048).answer([prompt])
    assert not isinstance(answer, str), answer


def test_the_demo_answers_with_text(url, chat):
    async def converse(server):
        async with Page(server) as page:
            await page.set(sampling={"max_new_tokens": TOKENS})
            await page.send(2, "hello")
            typed = await page.event("turn_end", turn=1)
            await page.start()
            await page.ask(tone(1.5))
            spoken = await page.event("turn_end", turn=2)
            assert not page.errors() and not page.audio_messages()
            assert typed["reason"] == spoken["reason"] == "done" and spoken["text"]
            return typed["text"]

    with started(None, "--llm-server", url) as server:
        typed = asyncio.run(converse(server))
    chat.reset()
    expected = chat.ask("hello", speech=False, sampling=Sampling(max_new_tokens=TOKENS)).text
    assert typed == expected.rstrip("\ufffd")
