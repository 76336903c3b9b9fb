# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Spectrograms and pitch of the training audio, and a file that stores many of them.

Shapes: ``S`` samples, ``T`` frames, ``C`` channels.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ

WHISPER_HZ, WHISPER_HOP, WHISPER_FFT, WHISPER_MELS = INPUT_RATE_HZ, 160, 400, 128
VOCODER_HZ, VOCODER_HOP, VOCODER_FFT, VOCODER_MELS = OUTPUT_RATE_HZ, 480, 1920, 80


@cache
def _filters(rate_hz: int, fft: int, mels: int) -> Tensor:
    """Build Slaney mel filters [mels, fft // 2 + 1] up to the Nyquist frequency."""
    bank = mel_filter_bank(fft // 2 + 1, mels, 0.0, rate_hz / 2, rate_hz, "slaney", "slaney")
    return torch.tensor(bank.T, dtype=torch.float32)


def whisper_mel(waveform: Tensor, mels: int = WHISPER_MELS) -> Tensor:
    """Compute Whisper's log-mel [..., mels, S // 160] of 16 kHz waveforms [..., S].

    Each waveform is normalised by its own peak.
    """
    window = torch.hann_window(WHISPER_FFT)
    spectrum = torch.stft(waveform, WHISPER_FFT, WHISPER_HOP, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    mel = _filters(WHISPER_HZ, WHISPER_FFT, mels) @ power
    log_mel = mel.clamp(min=1e-10).log10()
    return (log_mel.maximum(log_mel.amax((-2, -1), keepdim=True) - 8) + 4) / 4


def vocoder_mel(waveform: Tensor) -> Tensor:
    """Compute the CosyVoice3 detokenizer's log-mel [B, 80, S // 480] of 24 kHz waveforms [B, S]."""
    edge = (VOCODER_FFT - VOCODER_HOP) // 2
    padded = F.pad(waveform[:, None], (edge, edge), mode="reflect")[:, 0]
    window = torch.hann_window(VOCODER_FFT)
    spectrum = torch.stft(
        padded, VOCODER_FFT, VOCODER_HOP, window=window, center=False, return_complex=True
    )
    magnitude = torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
    mel = _filters(VOCODER_HZ, VOCODER_FFT, VOCODER_MELS) @ magnitude
    return mel.clamp(min=1e-5).log()


def pitch_hz(waveform: Tensor, low_hz: float = 70, high_hz: float = 450) -> Tensor:
    """Estimate the pitch [S // 480] in Hz of a 24 kHz waveform [S] by YIN; 0 where unvoiced.

    De Cheveigne and Kawahara, "YIN, a fundamental frequency estimator", 2002, steps 1 to 5.
    """
    shortest, longest = int(VOCODER_HZ / high_hz), int(VOCODER_HZ / low_hz)
    width, frames = 2 * VOCODER_HOP, len(waveform) // VOCODER_HOP
    lead = (width + longest - VOCODER_HOP) // 2  # the compared pair of windows is centred
    padded = F.pad(waveform, (lead, width + longest))
    block = padded.unfold(0, width + longest, VOCODER_HOP)[:frames]
    size = 4096
    cross = torch.fft.rfft(block, size) * torch.fft.rfft(block[:, :width], size).conj()
    correlation = torch.fft.irfft(cross, size)[:, :longest]
    energy = F.pad((block.double() ** 2).cumsum(1), (1, 0))
    energy = (energy[:, width : width + longest] - energy[:, :longest]).float()
    difference = (energy[:, :1] + energy - 2 * correlation).clamp(min=0)
    lags = torch.arange(longest)
    normal = difference * lags / difference[:, 1:].cumsum(1).add(1e-8)[:, (lags - 1).clamp(min=0)]
    normal = normal[:, shortest:]
    dip = (normal < 0.2) & (normal <= F.pad(normal[:, 1:], (0, 1), value=np.inf))
    found = dip.any(1) & (energy[:, 0] / width > 1e-5)
    lag = dip.float().argmax(1)
    left, here, right = (
        normal.gather(1, (lag + k).clamp(0, normal.shape[1] - 1)[:, None])[:, 0] for k in (-1, 0, 1)
    )
    offset = ((left - right) / (2 * (left - 2 * here + right) + 1e-9)).clamp(-0.5, 0.5)
    return torch.where(found, VOCODER_HZ / (lag + shortest + offset), 0.0)


def read_waveform(path: Path, rate_hz: int) -> Tensor:
    """Read a file as a mono waveform [S] at a sampling rate."""
    waveform, source_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(soxr.resample(waveform.mean(1), source_hz, rate_hz))


class FrameStore:
    """Arrays [T, C] with the same C, concatenated in one memory-mapped file.

    Args:
        path: the data file; lengths are stored beside it in ``PATH.lengths.npy``.
        channels: C.
    """

    def __init__(self, path: Path, channels: int) -> None:
        self.path, self.channels = path, channels
        self.lengths_path = path.with_name(path.name + ".lengths.npy")
        known = self.lengths_path.exists()
        self.lengths = np.load(self.lengths_path) if known else np.zeros(0, int)
        self._open()

    def _open(self) -> None:
        self.ends = self.lengths.cumsum()
        shape = (int(self.lengths.sum()), self.channels)
        self.frames = np.memmap(self.path, np.float16, "r", shape=shape) if shape[0] else None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        """Return array ``index`` as float32 [T, C]."""
        assert self.frames is not None, "the store is empty"
        end = self.ends[index]
        return torch.from_numpy(self.frames[end - self.lengths[index] : end].astype(np.float32))

    def extend(self, arrays: Iterable[Tensor]) -> None:
        """Append arrays [T, C], overwriting leftovers of an interrupted call."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        with self.path.open("r+b") as file:
            file.truncate(int(self.lengths.sum()) * self.channels * 2)
            file.seek(0, 2)
            for block in _blocks(arrays, 500):
                for array in block:
                    file.write(array.numpy().astype(np.float16).tobytes())
                file.flush()
                self.lengths = np.append(self.lengths, [len(a) for a in block])
                np.save(self.lengths_path, self.lengths)
        self._open()


def _blocks(items: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    block: list[Tensor] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
