# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speech tokenizer v3: 16 kHz waveform to 25 Hz speech tokens, through onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers.audio_utils import mel_filter_bank

from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.cosyvoice3.segments import segment_bounds
from funaudiochat.errors import CheckpointError
from funaudiochat.precision import float32_only

FILE_NAME = "speech_tokenizer_v3.onnx"
SHORTEST_LAST_S = 1
_N_FFT, _HOP, _MELS = 400, 160, 128
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@float32_only()
def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Compute Whisper's log-mel of a 16 kHz segment: [S] -> float32 [128, S // 160].

    The floor is 8 below the segment's own maximum, so it depends on the segmentation.
    """
    filters = mel_filter_bank(
        _N_FFT // 2 + 1,
        _MELS,
        0.0,
        INPUT_RATE_HZ / 2,
        INPUT_RATE_HZ,
        norm="slaney",
        mel_scale="slaney",
    )
    spectrum = torch.stft(
        torch.from_numpy(waveform),
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
    """The speech tokenizer's network, ready to run.

    Args:
        session: takes the features [1, 128, T] and the length [1] as its inputs, and gives the
            speech tokens as its first output.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> "SpeechTokenizer":
        """Load ``speech_tokenizer_v3.onnx`` from a folder, or from the path of the file.

        Raises:
            CheckpointError: the file is missing or damaged, its inputs are not those of a speech
                tokenizer, or onnxruntime cannot use the device.
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
                f"{path} is damaged or not an ONNX file; fetch it again with "
                "`funaudiochat download`"
            ) from error
        if len(session.get_inputs()) != 2:
            raise CheckpointError(
                f"{path} is not a speech tokenizer: it takes {len(session.get_inputs())} inputs "
                "instead of features and length; fetch the right file with `funaudiochat download`"
            )
        return cls(session)

    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """Turn a waveform [samples] at 16 kHz into speech tokens int64 [about samples / 640].

        Raises:
            AudioError: what :func:`funaudiochat.audio.load_audio` raises for an array.
        """
        waveform = load_audio((waveform, INPUT_RATE_HZ), INPUT_RATE_HZ)
        parts = []
        for start, stop in segment_bounds(len(waveform), INPUT_RATE_HZ, SHORTEST_LAST_S):
            features = log_mel(waveform[start:stop])[None]
            length = np.array([features.shape[2]], dtype=np.int32)
            (tokens, *_) = self._session.run(
                None, dict(zip(self._inputs, (features, length), strict=True))
            )
            parts.append(np.asarray(tokens).reshape(-1).astype(np.int64))
        return np.concatenate(parts)
