# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What lies between a speaker and a microphone: silence, room, noise, channel and level."""

from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import numpy as np
import soxr


@dataclass(frozen=True)
class Scene:
    """How a question was recorded.

    Attributes:
        lead_s, tail_s: silence before and after.
        reverb_s: time in which reverberation falls by 60 dB; 0 for no room.
        snr_db: speech to noise; None for no noise.
        pink: whether the noise falls by 3 dB an octave, else it is white.
        low_pass_hz: cut-off of the channel; None is the full band.
        peak: largest sample.
        noise_seed: of the room and the noise.
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

    def record(self, wave: np.ndarray, rate_hz: int) -> np.ndarray:
        """Render the waveform [samples] as recorded in this scene, float32."""
        noise_rng = np.random.default_rng(self.noise_seed)
        lead, tail = (round(s * rate_hz) for s in (self.lead_s, self.tail_s))
        wave = np.pad(wave, (lead, tail))
        if self.reverb_s:
            wave = _convolve(wave, _room(self.reverb_s, rate_hz, noise_rng))
        if self.snr_db is not None:
            noise = _noise(len(wave), self.pink, noise_rng)
            level = np.sqrt(np.mean(wave**2) / 10 ** (self.snr_db / 10))
            wave = wave + level * noise
        if self.low_pass_hz:
            narrow = soxr.resample(wave, rate_hz, 2 * self.low_pass_hz)
            wave = soxr.resample(narrow, 2 * self.low_pass_hz, rate_hz)
        return (wave * (self.peak / max(np.abs(wave).max(), 1e-6))).astype(np.float32)


def _convolve(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve a waveform with a response, cut to the waveform's length."""
    size = len(wave) + len(response)
    spectrum = np.fft.rfft(wave, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: len(wave)]


def _room(reverb_s: float, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Direct sound and exponentially falling noise, 3 to 12 dB below it in energy."""
    time_s = np.arange(int(reverb_s * rate_hz)) / rate_hz
    tail = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / reverb_s)
    tail[: rate_hz // 500] = 0
    tail *= np.sqrt(10 ** (-rng.uniform(0.3, 1.2)) / np.sum(tail**2))
    tail[0] = 1
    return tail


def _noise(samples: int, pink: bool, rng: np.random.Generator) -> np.ndarray:
    """White or pink noise of unit power."""
    noise = rng.standard_normal(samples)
    if pink:
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20))
        noise = np.fft.irfft(spectrum, samples)
    return noise / np.sqrt(np.mean(noise**2))
