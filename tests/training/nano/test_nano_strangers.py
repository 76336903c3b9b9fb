# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Strangers' questions are many, can be judged, and are asked in every way."""

import json

import numpy as np
import pytest
import soundfile

from funaudiochat import hub
from funaudiochat.voice_chat import VoiceChat
from training.nano.score_strangers import Question, Scores, refuses, strangers
from training.nano.voices import HELD_OUT_VOICES, available


def test_there_are_three_hundred_questions_and_none_twice():
    inside, tools, outside = strangers()
    texts = [question.text.lower() for question in (*inside, *tools, *outside)]
    assert len(inside) + len(tools) >= 300 and len(outside) >= 60
    assert len(set(texts)) == len(texts)
    assert all(question.needed for question in inside)
    assert all(question.arguments is not None for question in tools)


def test_an_answer_is_right_when_it_holds_one_of_every_alternative():
    question = Question("sum", "two and two, and your name?", ("4|four", "Nano"))
    assert question.is_right("That is 4, says Nano.") and question.is_right("four. nano")
    assert not question.is_right("Four.") and not question.is_right("Fourteen, Nano.")
    assert refuses("I do not know that. Ask me about colours.") and not refuses("I know that.")


@pytest.fixture(scope="module")
def scores():
    chat = VoiceChat.from_pretrained(hub.NANO_MODEL, hub.NANO_TTS, device="cpu")
    return Scores(chat)


def test_an_answer_is_interrupted_halfway_and_the_next_one_whole(scores):
    first = Question("capital", "What is the capital of France?", ("Paris",))
    second = Question("capital", "What is the capital of Spain?", ("Madrid",))
    assert second.is_right(scores._after_interruption(first, second))
    kept = scores.chat._history[1].content
    assert kept.startswith("The") and "Paris" not in kept


def test_calls_are_right_by_name_and_every_argument(scores):
    scores.tools([Question("get_battery", "How much battery is left?", arguments={})])
    assert set(scores.values) >= {"typed: call exact", "spoken: call exact"}


def test_people_are_measured_where_there_are_recordings(scores, tmp_path):
    rng = np.random.default_rng(0)
    for folder, name in (("orders", "a"), ("other", "b"), ("train/an4", "c")):
        (tmp_path / folder).mkdir(parents=True)
        noise = 0.1 * rng.standard_normal(16000)
        soundfile.write(tmp_path / folder / f"{name}.flac", noise, 16000)
    labels = {"a": {"coffeeDrink": "latte"}}
    (tmp_path / "orders" / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "other" / "transcripts.json").write_text(json.dumps({"b": "hello there"}))
    row = {"file": "c.flac", "split": "test", "text": "one two", "speaker": "x"}
    (tmp_path / "train" / "an4" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    scores.people(tmp_path)
    assert scores.values["people: orders with every slot right"] == 0
    assert scores.values["people: WER of transcription, an4"] > 50
    assert scores.values["people: WER of transcription, other"] > 50


@pytest.mark.skipif(not any(map(available, HELD_OUT_VOICES)), reason="no held-out voice is here")
def test_questions_are_typed_said_and_said_in_silence(scores):
    inside = [Question("capital", "What is the capital of France?", ("Paris",))]
    scores.strangers(inside, [Question("outside", "Who won the football game?")])
    assert scores.values["typed: right"] == 100
    assert scores.values["typed: refused by mistake"] == 0
    assert scores.values["spoken: tool call where none is offered"] == 0
    assert "the same with 5 s of silence around" in scores.values
