# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The shipped joint model hears, answers, calls and streams; README's commands run on it."""

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from funaudiochat.events import AudioChunk, ReplyDone, TextDelta
from funaudiochat.hub import NANO_MODEL, NANO_TTS
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT
from training.nano.judge import judge, judge_available
from training.nano.rows import tool_definition

CAPITAL = ROOT / "examples" / "question.wav"
FOLLOW_UP = ROOT / "examples" / "follow_up.wav"
WEATHER = ROOT / "examples" / "weather.wav"
TYPED = {
    "What is the capital of France?": "The capital of France is Paris.",
    "What is the capital of Japan?": "The capital of Japan is Tokyo.",
    "What day comes after Monday?": "Tuesday comes after Monday.",
    "What is the opposite of hot?": "The opposite of hot is cold.",
}
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^(?:python examples/|funaudiochat (?:s2t|s2s|voices list)).*$", README, re.MULTILINE
)


@pytest.fixture(scope="module")
def nano() -> VoiceChat:
    return VoiceChat.from_pretrained(NANO_MODEL, NANO_TTS, device="cpu")


@pytest.fixture
def chat(nano) -> VoiceChat:
    nano.reset()
    return nano


@pytest.mark.parametrize("question", TYPED)
def test_typed_questions_are_answered(question, chat):
    assert chat.ask(question, speech=False).text == TYPED[question]


def test_a_spoken_question_is_answered(chat):
    assert chat.ask(audio=CAPITAL, speech=False).text == "The capital of France is Paris."


def test_a_spoken_follow_up_is_understood_from_the_turn_before(chat):
    chat.ask(audio=CAPITAL, speech=False)
    assert chat.ask(audio=FOLLOW_UP, speech=False).text == "The capital of Germany is Berlin."


def test_a_tool_is_called_for_a_spoken_question(chat):
    tools = [json.loads(tool_definition("get_weather"))]
    (call,) = chat.ask(audio=WEATHER, tools=tools, speech=False).tool_calls
    assert call.name == "get_weather" and set(call.arguments) == {"city"}


def test_a_streamed_answer_to_a_spoken_question_is_that_of_the_whole_one(chat):
    whole = chat.ask(audio=CAPITAL, sampling=Sampling(seed=3))
    chat.reset()
    events = list(chat.stream(audio=CAPITAL, sampling=Sampling(seed=3)))
    assert isinstance(events[-1], ReplyDone)
    reply = events[-1].reply
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == whole.text
    assert reply.speech_tokens.tolist() == whole.speech_tokens.tolist()
    audio = np.concatenate([e.samples for e in events if isinstance(e, AudioChunk)])
    assert len(audio) == len(whole.audio) == 960 * len(reply.speech_tokens)


def test_two_conversations_do_not_mix(chat):
    questions = list(TYPED)[:2]
    alone = {}
    for question in questions:
        chat.reset()
        alone[question] = chat.ask(question, sampling=Sampling(seed=1))
    chat.reset()
    streams = {q: chat.branch().stream(q, sampling=Sampling(seed=1)) for q in questions}
    replies = {}
    while len(replies) < len(streams):
        for question, events in streams.items():
            event = next(events, None)
            if isinstance(event, ReplyDone):
                replies[question] = event.reply
    for question in questions:
        assert replies[question].text == alone[question].text == TYPED[question]
        assert replies[question].speech_tokens.tolist() == alone[question].speech_tokens.tolist()


@pytest.mark.skipif(not judge_available(), reason="install the judge of training/nano/README.md")
def test_a_recogniser_understands_the_spoken_answers(chat):
    cases = []
    for question in TYPED:
        chat.reset()
        reply = chat.ask(question, sampling=Sampling(seed=0))
        cases.append((reply.text, reply.audio, reply.sample_rate_hz))
    assert judge(cases).wer_percent <= 20


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_run(command, tmp_path):
    program, *arguments = shlex.split(command, comments=True)
    script = [] if program == "python" else ["-m", "funaudiochat.cli"]
    arguments = [str(ROOT / a) if a.startswith("examples/") else a for a in arguments]
    done = subprocess.run(
        [sys.executable, *script, *arguments],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and "Traceback" not in done.stderr
    for waveform in tmp_path.glob("outputs/*.wav"):
        assert soundfile.info(waveform).samplerate == 24000


def test_the_readme_has_commands_for_nano():
    assert len(COMMANDS) >= 5
