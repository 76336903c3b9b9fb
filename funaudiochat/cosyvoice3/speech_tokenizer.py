# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speech tokenizer v3: 16 kHz sound -> 25 Hz codes, through onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers.audio_utils import mel_filter_bank

from funaudiochat.audio import load_audio
from funaudiochat.cosyvoice3.pieces import pieces
from funaudiochat.errors import CheckpointError
from funaudiochat.precision import float32_only

FILE_NAME = "speech_tokenizer_v3.onnx"
SAMPLE_RATE_HZ = 16000
SHORTEST_LAST_S = 1
_N_FFT, _HOP, _MELS = 400, 160, 128
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@float32_only()
def log_mel(wave: np.ndarray) -> np.ndarray:
    """Whisper's log-mel of one segment: [samples] at 16 kHz -> float32 [128, samples // 160].

    The floor is 8 below the segment's own maximum, so segmentation changes it.
    """
    filters = mel_filter_bank(
        _N_FFT // 2 + 1,
        _MELS,
        0.0,
        SAMPLE_RATE_HZ / 2,
        SAMPLE_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    spectrum = torch.stft(
        torch.from_numpy(wave),
        _N_FFT,
        _HOP,
        window=torch.hann_window(_N_FFT),
        return_complex=True,
    )[:, :-1]
    power = torch.from_numpy(filters).float().T @ spectrum.abs().square()
    scaled = power.clamp(min=1e-10).log10()
    scaled = scaled.clamp(min=float(scaled.max()) - 8)
    return ((scaled + 4) / 4).numpy()


class SpeechTokenizer:
    """One loaded network.

    Args:
        session: whose first input takes the features [1, 128, T], whose second the length [1],
            and whose first output gives the codes.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> "SpeechTokenizer":
        """Load ``speech_tokenizer_v3.onnx`` of a folder, or the file itself.

        Raises:
            CheckpointError: it is missing or damaged, has another signature, or onnxruntime
                cannot use the device.
        """
        path = Path(folder)
        if path.is_dir():
            path = path / FILE_NAME
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; fetch it with `funaudiochat download`")
        kind, _, index = device.partition(":")
        provider = _PROVIDERS.get(kind)
        if provider not in onnxruntime.get_available_providers():
            raise CheckpointError(
                f"onnxruntime cannot run on {device!r} here; use device='cpu', or for CUDA "
                "`pip install onnxruntime-gpu` in place of onnxruntime"
            )
        try:
            options = {"device_id": index} if kind == "cuda" and index else {}
            session = onnxruntime.InferenceSession(str(path), providers=[(provider, options)])
        except Exception as error:  # onnxruntime's own exceptions share no base
            raise CheckpointError(
                f"{path} is damaged or no ONNX file; fetch it again with `funaudiochat download`"
            ) from error
        if len(session.get_inputs()) != 2:
            raise CheckpointError(
                f"{path} is no speech tokenizer: it takes {len(session.get_inputs())} inputs, "
                "features and length are expected"
            )
        return cls(session)

    def encode(self, wave: np.ndarray) -> np.ndarray:
        """Turn a waveform [samples] at 16 kHz into speech tokens int64 [about samples / 640].

        Raises:
            AudioError: what :func:`funaudiochat.audio.load_audio` raises for an array.
        """
        wave = load_audio((wave, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
        parts = []
        for start, stop in pieces(len(wave), SAMPLE_RATE_HZ, SHORTEST_LAST_S):
            features = log_mel(wave[start:stop])[None]
            length = np.array([features.shape[2]], dtype=np.int32)
            (codes, *_) = self._session.run(
                None, dict(zip(self._inputs, (features, length), strict=True))
            )
            parts.append(np.asarray(codes).reshape(-1).astype(np.int64))
        return np.concatenate(parts)
