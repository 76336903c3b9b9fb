# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Recording conditions: silence, room, noise, channel and level."""

from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import numpy as np
import soxr


@dataclass(frozen=True)
class Scene:
    """The conditions of one recording.

    Attributes:
        lead_s, tail_s: silence before and after the speech.
        reverb_s: reverberation time (60 dB decay); 0 for no room.
        snr_db: signal-to-noise ratio; None for no noise.
        pink: whether the noise is pink (-3 dB per octave) rather than white.
        low_pass_hz: cut-off of the channel; None for the full band.
        peak: largest absolute sample.
        noise_seed: seed of the room and the noise.
    """

    lead_s: float
    tail_s: float
    reverb_s: float
    snr_db: float | None
    pink: bool
    low_pass_hz: int | None
    peak: float
    noise_seed: int

    @classmethod
    def draw(cls, rng: Random) -> "Scene":
        """Draw a random scene; about one in six is clean."""
        return cls(
            lead_s=round(rng.uniform(0, 0.3), 3),
            tail_s=round(rng.uniform(0.05, 0.3), 3),
            reverb_s=round(rng.uniform(0.1, 0.5), 3) if rng.random() < 0.4 else 0.0,
            snr_db=round(rng.uniform(10, 35), 1) if rng.random() < 0.7 else None,
            pink=rng.random() < 0.6,
            low_pass_hz=rng.choice([3400, 4000, 6000]) if rng.random() < 0.15 else None,
            peak=round(10 ** rng.uniform(-1.3, -0.05), 3),
            noise_seed=rng.randrange(2**31),
        )

    def as_record(self) -> dict[str, Any]:
        """Convert the scene to a JSON object."""
        return asdict(self)

    def record(self, waveform: np.ndarray, rate_hz: int) -> np.ndarray:
        """Render the waveform [samples] as recorded in this scene, float32."""
        noise_rng = np.random.default_rng(self.noise_seed)
        lead, tail = (round(s * rate_hz) for s in (self.lead_s, self.tail_s))
        waveform = np.pad(waveform, (lead, tail))
        if self.reverb_s:
            waveform = _convolve(waveform, _room(self.reverb_s, rate_hz, noise_rng))
        if self.snr_db is not None:
            noise = _noise(len(waveform), self.pink, noise_rng)
            level = np.sqrt(np.mean(waveform**2) / 10 ** (self.snr_db / 10))
            waveform = waveform + level * noise
        if self.low_pass_hz:
            narrow = soxr.resample(waveform, rate_hz, 2 * self.low_pass_hz)
            waveform = soxr.resample(narrow, 2 * self.low_pass_hz, rate_hz)
        return (waveform * (self.peak / max(np.abs(waveform).max(), 1e-6))).astype(np.float32)


def _convolve(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve a waveform with a response, cut to the waveform's length."""
    size = len(waveform) + len(response)
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)]


def _room(reverb_s: float, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a room response: an impulse and decaying noise of 3 to 12 dB less energy."""
    time_s = np.arange(int(reverb_s * rate_hz)) / rate_hz
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / reverb_s)
    tail[: rate_hz // 500] = 0
    tail *= np.sqrt(10 ** (-rng.uniform(0.3, 1.2)) / np.sum(tail**2))
    tail[0] = 1
    return tail


def _noise(samples: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw white or pink noise of unit power."""
    noise = rng.standard_normal(samples)
    if pink:
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20))
        noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))
