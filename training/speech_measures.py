# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Measures of a voice: pitch range, speaking rate and similarity of speakers."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError
from training.nano.features import pitch_hz
from training.nano.voices import require_sha256
from training.nano.words import normalized_words

_ENCODER_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
_HOP, _FFT, _MELS = 160, 400, 40
_WINDOW_FRAMES, _STEP_FRAMES = 160, 77  # 1.6 s, about 1.3 windows a second
_WIDTH, _LAYERS = 256, 3
_TARGET_RMS = 10 ** (-30 / 20)
_SILENCE_RATIO = 0.03  # frames this far below the loudest one are left out


def pitch_range(waveform: np.ndarray, rate_hz: int) -> tuple[float, float]:
    """Return median pitch in Hz, and the range from the 5th to the 95th percentile in semitones.

    Both are NaN where nothing is voiced.
    """
    samples = soxr.resample(waveform, rate_hz, OUTPUT_RATE_HZ).astype(np.float32)
    pitch = pitch_hz(torch.from_numpy(samples)).numpy()
    voiced = pitch[pitch > 0]
    if not len(voiced):
        return float("nan"), float("nan")
    low, middle, high = np.percentile(voiced, (5, 50, 95))
    return float(middle), float(12 * np.log2(high / low))


def _loud_frames(samples: np.ndarray) -> np.ndarray:
    """Return which frames of 10 ms are not silence."""
    count = len(samples) // _HOP
    level = np.sqrt((samples[: count * _HOP].reshape(count, _HOP) ** 2).mean(1))
    return level > _SILENCE_RATIO * level.max(initial=0.0)


def speaking_rate(text: str, waveform: np.ndarray, rate_hz: int) -> float:
    """Return words a second between the first and the last 10 ms that are not silence."""
    samples = soxr.resample(waveform, rate_hz, INPUT_RATE_HZ).astype(np.float32)
    loud = np.flatnonzero(_loud_frames(samples))
    if not len(loud):
        return float("nan")
    seconds = (loud[-1] + 1 - loud[0]) * _HOP / INPUT_RATE_HZ
    return len(normalized_words(text)) / seconds


class _Encoder(nn.Module):
    """The d-vector network of arXiv 1710.10467: an LSTM over mel frames."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_MELS, _WIDTH, _LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, mel: Tensor) -> Tensor:
        """Embed windows [B, T, 40] as unit vectors [B, 256]."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


def speaker_encoder_available() -> bool:
    """Whether the package with the encoder's weights is installed."""
    return find_spec("resemblyzer") is not None


@cache
def _encoder() -> _Encoder:
    spec = find_spec("resemblyzer")  # found, not imported: that would need three more packages
    if spec is None or spec.origin is None:
        raise FunAudioChatError(
            "speaker similarity needs an encoder: pip install --no-deps resemblyzer==0.1.4"
        )
    path = require_sha256(Path(spec.origin).with_name("pretrained.pt"), _ENCODER_SHA256)
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder = _Encoder()
    encoder.load_state_dict({k: v for k, v in state.items() if k.startswith(("lstm", "linear"))})
    return encoder.eval()


@torch.inference_mode()
def speaker_embedding(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Embed a speaker's voice as a unit vector [256]: the mean over windows of 1.6 s.

    Raises:
        FunAudioChatError: the encoder is not installed, or the waveform is silent.
    """
    encoder = _encoder()
    samples = soxr.resample(waveform, rate_hz, INPUT_RATE_HZ).astype(np.float32)
    level = float(np.sqrt((samples**2).mean())) if len(samples) else 0.0
    if not level:
        raise FunAudioChatError("a silent recording has no speaker")
    samples = samples * max(1.0, _TARGET_RMS / level)
    loud = _loud_frames(samples)
    voiced = samples[: len(loud) * _HOP].reshape(-1, _HOP)[loud].flatten()
    voiced = np.pad(voiced, (0, max(0, _WINDOW_FRAMES * _HOP - len(voiced))))
    spectrum = torch.stft(
        torch.from_numpy(voiced), _FFT, _HOP, window=torch.hann_window(_FFT),
        pad_mode="constant", return_complex=True,
    )  # fmt: skip
    bank = mel_filter_bank(
        _FFT // 2 + 1, _MELS, 0.0, INPUT_RATE_HZ / 2, INPUT_RATE_HZ, "slaney", "slaney"
    )
    mel = spectrum.abs().square().T @ torch.from_numpy(bank).float()
    windows = mel.unfold(0, _WINDOW_FRAMES, _STEP_FRAMES).transpose(1, 2)
    return nn.functional.normalize(encoder(windows).mean(0), dim=0).numpy()


def similarity(embedding: np.ndarray, others: list[np.ndarray]) -> float:
    """Return the cosine of a speaker embedding with the centre of others."""
    centre = np.mean(others, axis=0)
    return float(embedding @ centre / np.linalg.norm(centre))
