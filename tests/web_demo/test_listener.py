# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What is kept of the microphone's sound, and when voice opens and ends a turn."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from web_demo.server.listener import PREROLL_MS, Heard, Listener
from web_demo.server.vad import VoiceActivity

ROOT = Path(__file__).parents[2]
CHUNK = 640  # 40 ms


def push(listener, samples):
    """In 40 ms chunks -> what was heard, with its second."""
    found = []
    for start in range(0, len(samples), CHUNK):
        for what in listener.push(samples[start : start + CHUNK]):
            found.append((what, (start + CHUNK) / 16000))
    return found


def test_ten_minutes_before_the_button_keep_the_last_minute():
    listener = Listener(60, None)
    ramp = np.arange(600 * 16000, dtype=np.float32)
    assert push(listener, ramp) == []
    assert listener.truncated
    assert np.array_equal(listener.take(), ramp[-60 * 16000 :])
    assert not listener.truncated and not len(listener.take())


def test_nothing_is_collected_while_off():
    listener = Listener(60, None)
    listener.on = False
    push(listener, np.ones(16000, np.float32))
    assert not len(listener.take())


def test_a_voice_opens_a_turn_and_silence_ends_it(network):
    question, rate_hz = soundfile.read(ROOT / "examples" / "question.wav", dtype="float32")
    assert rate_hz == 16000
    listener = Listener(60, VoiceActivity(network))
    listener.hands_free = True
    quiet = np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32)
    found = push(listener, np.concatenate([quiet, question, quiet]))
    assert [what for what, _ in found] == [Heard.SPEECH_START, Heard.SPEECH_END]
    (_, began), (_, ended) = found
    onset = 2 + np.flatnonzero(np.abs(question) > 0.05)[0] / 16000
    assert onset <= began < onset + 0.25
    assert 2 + len(question) / 16000 - 0.5 < ended < 2 + len(question) / 16000 + 1.0


def test_before_a_voice_only_the_preroll_is_kept(network):
    listener = Listener(60, VoiceActivity(network))
    listener.hands_free = True
    push(listener, np.zeros(10 * 16000, np.float32))
    assert len(listener.take()) == PREROLL_MS * 16


def test_a_turn_without_an_end_is_ended_at_the_limit(network):
    question, _ = soundfile.read(ROOT / "examples" / "question.wav", dtype="float32")
    listener = Listener(1, VoiceActivity(network))
    listener.hands_free = True
    found = push(listener, question)
    assert [what for what, _ in found][:2] == [Heard.SPEECH_START, Heard.SPEECH_END]


def test_sound_put_back_comes_first():
    listener = Listener(60, None)
    listener.push(np.full(3, 2, np.float32))
    listener.put_back(np.full(2, 1, np.float32))
    assert listener.take().tolist() == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("before_s, after_s", [(0, 5), (5, 0), (2, 2), (5, 5)])
def test_push_to_talk_cuts_the_silence_around_a_question(network, before_s, after_s):
    """The model gets the same question, however long nothing was said before and after it."""
    question, _ = soundfile.read(ROOT / "examples" / "question.wav", dtype="float32")
    noise = np.random.default_rng(0).normal(0, 1e-3, 5 * 16000).astype(np.float32)
    listener = Listener(60, VoiceActivity(network))
    push(listener, np.concatenate([noise[: before_s * 16000], question, noise[: after_s * 16000]]))
    assert not listener.nothing_heard
    taken = listener.take()
    # All that is loud, in order, and at most the margins of silence around it.
    loud = np.flatnonzero(np.abs(question) > 0.02)
    middle = question[loud[0] : loud[-1]]
    at = int(np.correlate(taken, middle, "valid").argmax())
    assert np.array_equal(taken[at : at + len(middle)], middle)
    assert len(taken) < len(question) + 2 * 0.3 * 16000 + 2048


@pytest.mark.parametrize("level", [0.0, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("seconds", [1, 5])
def test_nothing_said_is_nothing_heard(network, level, seconds):
    noise = np.random.default_rng(1).normal(0, level, seconds * 16000).astype(np.float32)
    listener = Listener(60, VoiceActivity(network))
    push(listener, noise)
    assert listener.nothing_heard
    assert len(listener.take()) == len(noise)


def test_a_loud_sound_that_is_no_speech_is_a_question_and_stays_whole(network):
    time_s = np.arange(16000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    listener = Listener(60, VoiceActivity(network))
    push(listener, tone)
    assert not listener.nothing_heard
    assert np.array_equal(listener.take(), tone)


def test_without_voice_detection_everything_is_taken_as_it_is():
    listener = Listener(60, None)
    push(listener, np.zeros(16000, np.float32))
    assert not listener.nothing_heard and len(listener.take()) == 16000
