# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Audio of a Realtime session: 16-bit PCM at 24 kHz, or G.711 at 8 kHz."""

import numpy as np
import soxr

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from web_demo.server.openai_api.audio_formats import to_pcm16
from web_demo.server.openai_api.errors import ApiError

_QUALITY = "MQ"  # better ones hold audio back longer
RATES_HZ = {"audio/pcm": OUTPUT_RATE_HZ, "audio/pcmu": 8000, "audio/pcma": 8000}


def _mu_law_levels() -> np.ndarray:
    """Return the 16-bit sample of each mu-law byte [256]; ITU-T G.711, table 2."""
    byte = ~np.arange(256, dtype=np.int32) & 0xFF
    size = (((byte & 0x0F) << 3) + 0x84 << (byte >> 4 & 7)) - 0x84
    return np.where(byte & 0x80, -size, size)


def _a_law_levels() -> np.ndarray:
    """Return the 16-bit sample of each A-law byte [256]; ITU-T G.711, table 1."""
    byte = np.arange(256, dtype=np.int32) ^ 0x55
    segment = byte >> 4 & 7
    size = ((byte & 0x0F) << 4) + 8 + np.where(segment > 0, 0x100, 0)
    size <<= np.maximum(segment - 1, 0)
    return np.where(byte & 0x80, size, -size)


_LEVELS = {"audio/pcmu": _mu_law_levels(), "audio/pcma": _a_law_levels()}


def _nearest(samples: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the byte whose level is nearest to each 16-bit sample [S]."""
    order = np.argsort(levels, kind="stable")
    sorted_levels = levels[order]
    borders = (sorted_levels[1:] + sorted_levels[:-1]) / 2
    return order[np.searchsorted(borders, samples)].astype(np.uint8)


class AudioInput:
    """Decodes the audio that a client appends to float32 samples at 16 kHz.

    Args:
        form: ``audio/pcm``, ``audio/pcmu`` or ``audio/pcma``.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._resampler = self._new_resampler()

    @property
    def bytes_per_ms(self) -> int:
        """Bytes of a millisecond."""
        return RATES_HZ[self._form] // 1000 * (2 if self._form == "audio/pcm" else 1)

    def decode(self, data: bytes) -> np.ndarray:
        """Return samples [S]; a few milliseconds stay behind for the next call.

        Raises:
            ApiError: the bytes are not whole samples.
        """
        if self._form != "audio/pcm":
            samples = _LEVELS[self._form][np.frombuffer(data, np.uint8)]
        elif len(data) % 2:
            raise ApiError(
                f"audio: {len(data)} bytes are not a whole number of 16-bit samples",
                "audio",
                "invalid_value",
            )
        else:
            samples = np.frombuffer(data, "<i2")
        return self._resampler.resample_chunk((samples / 32768).astype(np.float32))

    def finish(self) -> np.ndarray:
        """Return the samples that stayed behind [S]."""
        rest = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        self._resampler = self._new_resampler()
        return rest

    def _new_resampler(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(
            RATES_HZ[self._form], INPUT_RATE_HZ, 1, dtype="float32", quality=_QUALITY
        )


class AudioOutput:
    """Encodes a reply, float32 at 24 kHz, for a client.

    Args:
        form: ``audio/pcm``, ``audio/pcmu`` or ``audio/pcma``.
    """

    def __init__(self, form: str) -> None:
        self._levels = _LEVELS.get(form)
        rate_hz = RATES_HZ[form]
        self._resampler = (
            None
            if rate_hz == OUTPUT_RATE_HZ
            else soxr.ResampleStream(OUTPUT_RATE_HZ, rate_hz, 1, dtype="float32", quality=_QUALITY)
        )

    def encode(self, samples: np.ndarray, last: bool = False) -> bytes:
        """Return the bytes of the next samples [S]; ``last`` also returns what stayed behind."""
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples.astype(np.float32), last=last)
        if self._levels is None:
            return to_pcm16(samples)
        return _nearest(np.clip(samples, -1, 1) * 32767, self._levels).tobytes()


def stored_audio(samples: np.ndarray) -> bytes:
    """Return kept audio [S], float32 at 16 kHz, as 16-bit PCM at 24 kHz."""
    return to_pcm16(soxr.resample(samples, INPUT_RATE_HZ, OUTPUT_RATE_HZ))
