# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a model's folder says of what the model can do."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funaudiochat import hub
from funaudiochat.capabilities import FILE_NAME, PERSONAS, Capabilities, load_capabilities
from funaudiochat.errors import CheckpointError
from tests.helpers import ROOT
from tests.helpers.commands import CLI, run

# What must stand in Nano's answer to each of its examples.
RIGHT = {
    "What is the capital of France?": "Paris",
    "What is two plus three?": "five",
    "How many days are in a week?": "seven",
    "What is the opposite of hot?": "cold",
    "Who are you?": "Nano",
    "How many legs does a spider have?": "eight",
    "What is ten minus four?": "six",
    "What is the capital of Japan?": "Tokyo",
    "How many months are in a year?": "twelve",
    "What is five plus four?": "nine",
    "What is the opposite of big?": "small",
    "What is the capital of Germany?": "Berlin",
    "How many hours are in a day?": "twenty four",
    "What is the capital of Spain?": "Madrid",
}


def write(folder: Path, text: str) -> Path:
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    return folder


def test_a_folder_without_the_file_restricts_nothing(tmp_path):
    assert load_capabilities(tmp_path) == Capabilities(None, None, None, None, ())


def test_what_the_file_says_is_read(tmp_path):
    told = {"description": "小模型", "languages": ["en", "zh-CN"], "personas": [], "tools": ["f"],
            "examples": ["你是谁？"]}  # fmt: skip
    assert load_capabilities(write(tmp_path, json.dumps(told))) == Capabilities(
        "小模型", ("en", "zh-CN"), (), ("f",), ("你是谁？",)
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expecting value"),
        ("[]", "a JSON object"),
        ("[" * 100_000, FILE_NAME),
        ('{"exmples": []}', "exmples"),
        ('{"description": ""}', "description"),
        ('{"examples": "Who are you?"}', "examples"),
        ('{"examples": [1]}', "examples"),
        ('{"examples": ["a", "a"]}', "examples"),
        ('{"examples": [" "]}', "examples"),
        ('{"personas": ["pirate"]}', "pirate"),
        ('{"personas": null}', "personas"),
        ('{"languages": ["English"]}', "English"),
        ('{"tools": [{"name": "f"}]}', "tools"),
    ],
)
def test_a_wrong_file_is_one_error_that_names_the_fault(tmp_path, text, told):
    with pytest.raises(CheckpointError) as error:
        load_capabilities(write(tmp_path, text))
    assert told in str(error.value) and FILE_NAME in str(error.value)


@settings(deadline=None, max_examples=50)
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["description", "languages", "personas", "tools", "examples"]), inner
    ), max_leaves=8,
))  # fmt: skip
def test_any_content_is_read_or_one_error(tmp_path_factory, content):
    folder = write(tmp_path_factory.mktemp("model"), json.dumps(content))
    try:
        found = load_capabilities(folder)
    except CheckpointError:
        return
    assert isinstance(content, dict) and isinstance(found, Capabilities)


def test_nano_answers_its_examples_plays_no_persona_and_speaks_english():
    nano = load_capabilities(hub.NANO_MODEL)
    assert set(nano.examples) == set(RIGHT)
    assert nano.personas == () and nano.languages == ("en",)
    assert (hub.NANO_MODEL / FILE_NAME).read_text() == (
        ROOT / "training/nano" / FILE_NAME
    ).read_text()
    from funaudiochat.voice_chat import VoiceChat

    chat = VoiceChat.from_pretrained(hub.NANO_MODEL, device="cpu")
    for question, right in RIGHT.items():
        chat.reset()
        assert right in chat.ask(question, speech=False).text, question


def test_the_page_knows_the_same_personas():
    source = (ROOT / "web_demo/client/src/settings.ts").read_text()
    (listed,) = re.findall(r"const PERSONAS = (\[.*?\]) as const", source, re.DOTALL)
    assert re.findall(r'"(\w+)"', listed) == ["default", *PERSONAS]


def test_chat_prints_the_examples_and_refuses_a_wrong_file_before_it_loads(tmp_path):
    done = run(
        *CLI, "chat", "--no-speech", "--model-path", hub.NANO_MODEL, cwd=tmp_path, stdin="/quit\n"
    )
    assert "Ask, for example:" in done.stdout
    assert all(f"  {question}\n" in done.stdout for question in RIGHT)
    wrong = run(
        *CLI, "chat", "--model-path", write(tmp_path, "{"), cwd=tmp_path, stdin="/quit\n", code=1
    )
    assert wrong.stderr.startswith("error: ") and FILE_NAME in wrong.stderr
    assert wrong.stderr.count("\n") == 1
