# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Hands-free with a loudspeaker: the reply that comes back interrupts nothing, a person does."""

import itertools
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import soxr

from tests.helpers import ROOT
from web_demo.server.turn_detector import SpeechEvent, TurnDetector
from web_demo.server.vad import VoiceActivity

EXAMPLES = ROOT / "examples"
CHUNK = 640  # 40 ms of the microphone
LEVEL = 0.08  # RMS of a reply and of a person near the microphone
QUIET = 3e-4
GAINS_DB, DELAYS_MS = (-10, -20, -30), (50, 120, 250, 400)
REPLY = (
    "The weather today is sunny and warm, with a light wind from the west. In the evening some "
    "clouds may come. The capital of France is Paris, and it lies on the river Seine."
)


def read(path, rate_hz=16000):
    samples, rate = soundfile.read(path, dtype="float32")
    samples = soxr.resample(samples, rate, rate_hz)
    return samples[np.flatnonzero(np.abs(samples) > 0.02)[0] :] * (LEVEL / samples.std())


def persons():
    return [read(EXAMPLES / f"{name}.wav") for name in ("question", "weather", "follow_up")]


def replies(folder):
    """Different voices: those of the installed programs, and always the examples' own."""
    found = [np.concatenate([np.pad(voice, (0, 4000)) for voice in persons()])]
    for name, command in {
        "espeak-ng": ["-v", "en-us", "-w", "OUT", REPLY],
        "flite": ["-voice", "slt", "-t", REPLY, "-o", "OUT"],
    }.items():
        if shutil.which(name):
            path = folder / f"{name}.wav"
            subprocess.run([name, *(str(path) if x == "OUT" else x for x in command)], check=True)
            found.append(read(path))
    return found


def converse(network, reply, gain_db, delay_ms, person=None, at_s=0.0, room=False):
    """Play a reply into a hands-free microphone -> what was heard, in seconds of its audio."""
    rng = np.random.default_rng(0)
    echo = np.pad(reply, (delay_ms * 16, 8000)) * 10 ** (gain_db / 20)
    if room:  # reverberation of 200 ms after the direct signal
        answer = rng.normal(0, 0.15, 3200) * np.exp(-np.arange(3200) / 500)
        answer[0] = 1
        echo = np.convolve(echo, answer)[: len(echo)]
    heard = echo + rng.normal(0, QUIET, len(echo))
    if person is not None:
        start = int(at_s * 16000)
        heard = np.pad(heard, (0, max(0, start + len(person) + 16000 - len(heard))))
        heard[start : start + len(person)] += person
    sent = soxr.resample(reply, 16000, 24000)
    detector, found, position = TurnDetector(60, VoiceActivity(network)), [], 0
    detector.hands_free = True
    for start in range(0, len(heard), CHUNK):
        while position < min(len(sent), 24000 + start * 3 // 2):  # a second ahead, as the server
            detector.echo.play(sent[position : position + 960])
            position += 960
        for what in detector.push(heard[start : start + CHUNK].astype(np.float32)):
            found.append((what, (start + CHUNK) / 16000))
    return found, len(heard) / 16000


def starts(found):
    return [at for what, at in found if what is SpeechEvent.SPEECH_START]


@pytest.mark.parametrize("gain_db, delay_ms", [(-10, 200), (-30, 50)])
def test_the_reply_from_a_loudspeaker_does_not_interrupt_itself(network, gain_db, delay_ms):
    reply = np.tile(np.concatenate(persons()), 2)
    assert converse(network, reply, gain_db, delay_ms)[0] == []


@pytest.mark.parametrize("gain_db", [-10, -20, -100])
def test_a_person_is_heard_over_the_reply(network, gain_db):
    reply = np.concatenate(persons()[1:] * 2)
    (first, *_) = starts(converse(network, reply, gain_db, 200, persons()[0], at_s=2.0)[0])
    assert 2.0 < first <= 2.5


def test_after_the_reply_a_person_is_heard_as_ever(network):
    reply, question = persons()[1], persons()[0]
    (first, *_) = starts(converse(network, reply, -20, 100, question, at_s=8.0)[0])
    assert 8.0 < first <= 8.3


@pytest.mark.slow
def test_five_minutes_of_echo_interrupt_nothing_and_persons_are_heard(network, tmp_path):
    seconds, made = 0.0, replies(tmp_path)
    cases = list(itertools.product(made, GAINS_DB, DELAYS_MS))
    for number, (reply, gain_db, delay_ms) in enumerate(cases):
        room = bool(number % 2)
        found, length = converse(network, reply, gain_db, delay_ms, room=room)
        assert found == [], (gain_db, delay_ms, room)
        seconds += length
        # Not over the same recording of the same person: nobody could tell these apart.
        if number % 5 == 0 and reply is not made[0]:
            person, at_s = persons()[number // 5 % 3], 2.0
            heard = starts(
                converse(network, np.tile(reply, 2), gain_db, delay_ms, person, at_s, room)[0]
            )
            assert heard and at_s < heard[0] <= at_s + 0.5, (gain_db, delay_ms, room, heard)
    if len(made) == 1:
        pytest.skip("only the examples' voices were tried: install espeak-ng and flite")
    assert seconds >= 300
