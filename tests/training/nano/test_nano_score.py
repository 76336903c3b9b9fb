# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Right and wrong answers are told apart; a dialogue is held turn by turn."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from training.nano.score import (
    is_right,
    is_right_call,
    is_right_typed,
    says_right,
    written_answers,
)

CALL = '<tool_call>\n{"name": "get_time", "arguments": {"city": "Rome"}}\n</tool_call>'


class ScriptedChat:
    """Gives the answers it is told to and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked, self.tools, self.resets = list(answers), [], None, 0

    def reset(self) -> None:
        self.resets += 1

    def ask(self, text=None, audio=None, tools=None, speech=True):
        assert not speech
        self.asked.append(audio if text is None else text)
        self.tools = tools
        return SimpleNamespace(text=self.answers[len(self.asked) - 1])


def dialogue(*turns: tuple[str, str, str]) -> dict:
    return {
        "id": "test-1",
        "messages": [{"role": role, "text": text, "audio": audio} for role, text, audio in turns],
    }


FOLLOW_UP = dialogue(
    ("user", "What is the capital of France?", "1.flac"),
    ("assistant", "The capital of France is Paris.", ""),
    ("user", "And of Italy?", "2.flac"),
    ("assistant", "The capital of Italy is Rome.", ""),
)


@pytest.mark.parametrize(
    "last, right",
    [("The capital of Italy is Rome.", True), ("The capital of Italy is Rome", False)],
)
def test_a_follow_up_is_right_if_its_last_answer_is(last, right):
    chat = ScriptedChat("The capital of France is Rome.", last)
    assert is_right(chat, FOLLOW_UP, Path("work")) is right
    assert chat.asked == [Path("work/1.flac"), Path("work/2.flac")]
    assert chat.resets == 1, "a dialogue begins without a history and keeps its own"


def test_typed_questions_are_asked_as_text():
    chat = ScriptedChat("Paris.", "The capital of Italy is Rome.")
    assert is_right_typed(chat, FOLLOW_UP, Path("work"))
    assert chat.asked == ["What is the capital of France?", "And of Italy?"]
    assert written_answers(ScriptedChat("a", "b"), FOLLOW_UP, Path(), typed=True) == ["a", "b"]


@pytest.mark.parametrize("answer, right", [(CALL, True), (CALL.replace("Rome", "Oslo"), False)])
def test_a_tool_call_is_right_if_written_exactly_and_its_tool_is_offered(answer, right):
    record = dialogue(
        ("user", "What time is it in Rome?", "q.flac"),
        ("assistant", CALL, ""),
        ("tool", "{}", ""),
        ("assistant", "It is noon in Rome.", ""),
    )
    record["tools"] = ["set_timer", "get_time"]
    chat = ScriptedChat(answer)
    assert is_right_call(chat, record, Path("work")) is right
    assert [tool["name"] for tool in chat.tools] == ["set_timer", "get_time"]


def test_an_answer_is_right_by_its_keys_or_by_all_its_words():
    keyed = {"text": "The capital of Italy is Rome.", "keys": ["Rome"]}
    assert says_right("it is rome", keyed) and not says_right("It is Romeo.", keyed)
    whole = {"text": "Red apple.", "keys": []}
    assert says_right("red apple", whole) and not says_right("A red apple", whole)
