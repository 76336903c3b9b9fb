# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Reply audio in the formats that clients ask for."""

import io

import numpy as np
import soundfile

# Name -> libsndfile's container and encoding, and the media type.
_FILES = {
    "wav": ("WAV", "PCM_16", "audio/wav"),
    "flac": ("FLAC", "PCM_16", "audio/flac"),
    "mp3": ("MP3", "MPEG_LAYER_III", "audio/mpeg"),
    "opus": ("OGG", "OPUS", "audio/ogg"),
}


def to_pcm16(waveform: np.ndarray) -> bytes:
    """Return samples [S] as 16-bit little-endian integers."""
    return (np.clip(waveform, -1, 1) * 32767).round().astype("<i2").tobytes()


def encode(waveform: np.ndarray, rate_hz: int, form: str) -> bytes:
    """Return a waveform [S], float32, as a file, or as bare PCM for ``pcm`` and ``pcm16``."""
    if form in ("pcm", "pcm16"):
        return to_pcm16(waveform)
    container, subtype, _ = _FILES[form]
    file = io.BytesIO()
    soundfile.write(file, waveform, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def media_type(form: str) -> str:
    """Return the ``Content-Type`` of a format."""
    return "audio/pcm" if form in ("pcm", "pcm16") else _FILES[form][2]
