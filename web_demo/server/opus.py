# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Ogg/Opus in and out: one decoder and one encoder per connection."""

import numpy as np
import sphn

MODEL_RATE_HZ = 16000
REPLY_RATE_HZ = 24000
FRAME_MS = 40
FRAME_SAMPLES = REPLY_RATE_HZ * FRAME_MS // 1000
SLICE_BYTES = 512  # more than five seconds at once is more than the reader takes
MAX_MESSAGE_SECONDS = 60


class BadAudio(ValueError):
    """Bytes that are no Ogg/Opus."""


class OpusDecoder:
    """Pages of the microphone -> float32 samples at the model's rate.

    Opus decodes at 16 kHz directly, so nothing is resampled. One malformed page spoils a reader
    for good, so an error replaces it; a new one needs no header pages.
    """

    def __init__(self) -> None:
        self._reader = sphn.OpusStreamReader(MODEL_RATE_HZ)

    def decode(self, data: bytes) -> np.ndarray:
        """The samples these bytes complete, possibly none.

        Raises:
            BadAudio: the bytes were dropped; what follows is decoded anew.
        """
        try:
            return self._append(data)
        except ValueError:
            self._reader = sphn.OpusStreamReader(MODEL_RATE_HZ)
        try:  # the fault may lie in earlier bytes, as after a page cut short
            return self._append(data)
        except ValueError as error:
            self._reader = sphn.OpusStreamReader(MODEL_RATE_HZ)
            raise BadAudio(f"a sound page could not be decoded and was skipped: {error}") from error

    def _append(self, data: bytes) -> np.ndarray:
        """In slices, because packets of two bytes could blow a large message up to gigabytes."""
        pieces, samples = [], 0
        for start in range(0, len(data), SLICE_BYTES):
            pieces.append(self._reader.append_bytes(data[start : start + SLICE_BYTES]))
            samples += len(pieces[-1])
            if samples > MAX_MESSAGE_SECONDS * MODEL_RATE_HZ:
                raise BadAudio(f"more than {MAX_MESSAGE_SECONDS} s of sound in one message")
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


class OpusEncoder:
    """Samples of replies -> Ogg pages, one per 40 ms; one stream for the whole connection."""

    def __init__(self) -> None:
        self._writer = sphn.OpusStreamWriter(REPLY_RATE_HZ)

    def encode(self, frame: np.ndarray) -> bytes:
        """One frame of 960 samples -> its page; the first also brings both header pages."""
        return self._writer.append_pcm(frame)


class Framer:
    """Cuts the sound of one reply into frames of 40 ms."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> list[np.ndarray]:
        """The frames these samples complete."""
        joined = np.concatenate([self._rest, samples.astype(np.float32)])
        whole = len(joined) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = joined[whole:]
        return list(joined[:whole].reshape(-1, FRAME_SAMPLES))

    def finish(self) -> list[np.ndarray]:
        """The last frame, filled up with silence, if there is one."""
        return self.push(np.zeros(-len(self._rest) % FRAME_SAMPLES, np.float32))
