# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Audio to play to a page's microphone, and measurements of the audio it plays."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from tests.helpers import ROOT

QUESTION = ROOT / "examples" / "question.wav"
MICROPHONE_HZ = 48000


def read(path: Path, rate_hz: int) -> np.ndarray:
    """A mono file at another rate."""
    samples, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(samples, rate, rate_hz)


def question(rate_hz: int) -> np.ndarray:
    """The spoken question of the examples, mono."""
    return read(QUESTION, rate_hz)


def microphone(path: Path, samples: np.ndarray, silence_s: float) -> Path:
    """A file for a fake microphone, which plays it over and over: `samples` (48 kHz), silence."""
    silence = np.zeros(int(silence_s * MICROPHONE_HZ), np.float32)
    soundfile.write(path, np.concatenate([samples, silence]), MICROPHONE_HZ)
    return path


def pitch(samples: np.ndarray, rate_hz: int) -> float:
    """Frequency of the strongest partial, Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    return float(spectrum.argmax()) * rate_hz / samples.size


def sounding_s(samples: np.ndarray, rate_hz: int, level: float = 1e-3) -> float:
    """Measure the seconds of audio above `level`, without the pauses of a loaded machine."""
    size = rate_hz // 100
    frames = samples[: samples.size // size * size].reshape(-1, size)
    return float((np.abs(frames).max(1) > level).sum()) / 100


def without_pauses(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Remove silence of 50 ms and more, which a loaded machine inserts."""
    edges = np.flatnonzero(np.diff(samples == 0)) + 1
    pieces = np.split(samples, edges)
    return np.concatenate([x for x in pieces if x.any() or x.size < rate_hz // 20])


def likeness(samples: np.ndarray, part: np.ndarray) -> float:
    """Highest correlation of the loudness (20 ms, 24 kHz) of `part` and of a piece of `samples`.

    A microphone's echo and noise removal change the samples, not how loud speech comes and goes.
    """

    def curve(x: np.ndarray) -> np.ndarray:
        frames = x[: x.size // 480 * 480].reshape(-1, 480)
        return np.sqrt((frames.astype(np.float64) ** 2).mean(1))

    long, short = curve(samples), curve(part)
    best = [
        np.corrcoef(long[at : at + short.size], short)[0, 1]
        for at in range(long.size - short.size + 1)
        if long[at : at + short.size].any()
    ]
    return float(max(best, default=0.0))
