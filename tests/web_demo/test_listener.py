# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Which microphone audio is kept, and when voice starts and ends a turn."""

import numpy as np
import pytest
import soundfile

from tests.helpers import ROOT
from web_demo.server.turn_detector import PREROLL_MS, SpeechEvent, TurnDetector
from web_demo.server.vad import VoiceActivity

CHUNK = 640  # 40 ms


def push(detector, samples):
    """In 40 ms chunks -> what was heard, with its second."""
    found = []
    for start in range(0, len(samples), CHUNK):
        for what in detector.push(samples[start : start + CHUNK]):
            found.append((what, (start + CHUNK) / 16000))
    return found


def test_ten_minutes_before_the_button_keep_the_last_minute():
    detector = TurnDetector(60, None)
    ramp = np.arange(600 * 16000, dtype=np.float32)
    assert push(detector, ramp) == []
    assert detector.truncated
    assert np.array_equal(detector.take(), ramp[-60 * 16000 :])
    assert not detector.truncated and not len(detector.take())


def test_nothing_is_collected_while_off():
    detector = TurnDetector(60, None)
    detector.on = False
    push(detector, np.ones(16000, np.float32))
    assert not len(detector.take())


def test_a_voice_opens_a_turn_and_silence_ends_it(network):
    question, rate_hz = soundfile.read(ROOT / "examples" / "question.wav", dtype="float32")
    assert rate_hz == 16000
    detector = TurnDetector(60, VoiceActivity(network))
    detector.hands_free = True
    quiet = np.random.default_rng(0).normal(0, 1e-3, 32000).astype(np.float32)
    found = push(detector, np.concatenate([quiet, question, quiet]))
    assert [what for what, _ in found] == [SpeechEvent.SPEECH_START, SpeechEvent.SPEECH_END]
    (_, began), (_, ended) = found
    onset = 2 + np.flatnonzero(np.abs(question) > 0.05)[0] / 16000
    assert onset <= began < onset + 0.25
    assert 2 + len(question) / 16000 - 0.5 < ended < 2 + len(question) / 16000 + 1.0


def test_before_a_voice_only_the_preroll_is_kept(network):
    detector = TurnDetector(60, VoiceActivity(network))
    detector.hands_free = True
    push(detector, np.zeros(10 * 16000, np.float32))
    assert len(detector.take()) == PREROLL_MS * 16


def test_a_turn_without_an_end_is_ended_at_the_limit(network):
    question, _ = soundfile.read(ROOT / "examples" / "question.wav", dtype="float32")
    detector = TurnDetector(1, VoiceActivity(network))
    detector.hands_free = True
    found = push(detector, question)
    assert [what for what, _ in found][:2] == [SpeechEvent.SPEECH_START, SpeechEvent.SPEECH_END]


def test_audio_put_back_comes_first():
    detector = TurnDetector(60, None)
    detector.push(np.full(3, 2, np.float32))
    detector.put_back(np.full(2, 1, np.float32))
    assert detector.take().tolist() == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("before_s, after_s", [(0, 5), (5, 0), (2, 2), (5, 5)])
def test_push_to_talk_cuts_the_silence_around_a_question(network, before_s, after_s):
    """The model gets the same question, however long nothing was said before and after it."""
    question, _ = soundfile.read(ROOT / "examples" / "question.wav", dtype="float32")
    noise = np.random.default_rng(0).normal(0, 1e-3, 5 * 16000).astype(np.float32)
    detector = TurnDetector(60, VoiceActivity(network))
    push(detector, np.concatenate([noise[: before_s * 16000], question, noise[: after_s * 16000]]))
    assert not detector.nothing_heard
    taken = detector.take()
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
    detector = TurnDetector(60, VoiceActivity(network))
    push(detector, noise)
    assert detector.nothing_heard
    assert len(detector.take()) == len(noise)


def test_loud_noise_that_is_not_speech_is_a_question_and_stays_whole(network):
    time_s = np.arange(16000) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
    detector = TurnDetector(60, VoiceActivity(network))
    push(detector, tone)
    assert not detector.nothing_heard
    assert np.array_equal(detector.take(), tone)


def test_without_voice_detection_everything_is_taken_as_it_is():
    detector = TurnDetector(60, None)
    push(detector, np.zeros(16000, np.float32))
    assert not detector.nothing_heard and len(detector.take()) == 16000
