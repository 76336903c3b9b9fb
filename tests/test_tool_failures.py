# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A call that was not run reaches the model before it answers, and the caller as a problem."""

import json

import pytest

from funaudiochat import voice_chat
from funaudiochat.events import TextDelta
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.golden import TINY_A
from tests.helpers.questions import question

SHORT = Sampling(greedy=True, max_new_tokens=3)
TIME = {"name": "get_time"}
WEATHER = {"type": "function", "function": {"name": "get_weather"}}


def call(name, **arguments):
    body = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{body}\n</tool_call>"


@pytest.fixture(scope="module")
def loaded():
    return VoiceChat.from_pretrained(TINY_A, device="cpu")


@pytest.fixture
def conversation(loaded, monkeypatch):
    """A conversation whose model writes what a test wants, and the prompts it was given."""
    chat, prompts, says = VoiceChat(loaded.model, loaded.processor), [], []

    def scripted(model, tokenizer, state, options):
        prompts.append(tokenizer.decode(state.token_ids[0]))
        said = says.pop(0)
        if isinstance(said, Exception):
            raise said
        yield TextDelta(said)

    monkeypatch.setattr(voice_chat, "stream_steps", scripted)
    return chat, prompts, says


@pytest.mark.parametrize(
    "asked", [{"text": "And now?"}, {"audio": question(0.5)}], ids=["typed", "spoken"]
)
@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (call("set_light", on=True), "there is no tool named set_light"),
        ('<tool_call>{"name": "get_time"</tool_call>', "malformed tool call"),
        ('<tool_call>{"name": "get_time", "argum', "not closed"),
        (call("get_time", deep=json.loads("[" * 150 + "]" * 150)), "nested"),
    ],
)
def test_a_refused_call_is_a_problem_and_a_result_before_the_next_answer(
    conversation, answer, problem, asked
):
    chat, prompts, says = conversation
    says += [answer, "I could not do that."]
    reply = chat.ask("Light, please.", tools=[TIME, WEATHER])
    assert problem in reply.problems[0]
    chat.ask(**asked)
    turns = prompts[1].split("<|im_start|>")
    result = next(turn for turn in turns if "<tool_response>" in turn)
    told = json.loads(result.split("<tool_response>\n")[1].split("\n</tool_response>")[0])
    assert problem in told["error"]
    at = turns.index(result)
    assert turns[at - 1].startswith("assistant") and turns[at + 1].startswith("user")
    assert turns[at + 2] == "assistant\n"
    says.append("Yes.")
    chat.ask("And then?")
    assert prompts[2].count("<tool_response>") == 1  # told once, and it stays in the history


def test_a_call_without_a_result_is_told_as_not_run_and_one_with_a_result_is_not(conversation):
    chat, prompts, says = conversation
    says += [call("get_time"), "It is noon.", "Bye."]
    chat.ask("Time?", tools=[TIME])
    ignored = chat.branch()
    assert chat.tool_result({"hour": 12}).text == "It is noon."
    says[:] = ["Bye.", "Bye."]
    chat.ask("Thanks.")
    assert "not run" not in prompts[-1]
    ignored.ask("Thanks.")
    assert '{"error": "get_time was not run"}' in prompts[-1]


def test_calls_of_offered_tools_are_no_problem(conversation):
    chat, _, says = conversation
    says += [call("get_time") + call("get_weather", city="Paris")]
    reply = chat.ask("?", tools=[TIME, WEATHER])
    assert [each.name for each in reply.tool_calls] == ["get_time", "get_weather"]
    assert reply.problems == []


def test_a_failure_keeps_the_tools_that_were_offered_before(conversation):
    chat, prompts, says = conversation
    says += [call("get_time"), RuntimeError("broken"), RuntimeError("broken"), "Noon."]
    chat.ask("Time?", tools=[TIME])
    with pytest.raises(RuntimeError):
        chat.ask("Weather?", tools=[WEATHER])
    with pytest.raises(RuntimeError):
        list(chat.stream("Weather?", tools=[WEATHER]))
    chat.stream("Weather?", tools=[WEATHER])  # never begun
    chat.tool_result("12:00", speech=False)
    assert '"get_time"' in prompts[-1] and "get_weather" not in prompts[-1]


def test_results_of_calls_that_are_no_longer_looked_back_on_go_with_them(conversation):
    chat, prompts, says = conversation
    says += [call("set_light"), *["Yes."] * 9]
    chat.ask("Light, please.", tools=[TIME])
    for number in range(9):
        chat.ask(f"question {number}")
    assert "<tool_response>" in prompts[8] and "<tool_response>" not in prompts[9]
    assert "question 0" in prompts[9]
