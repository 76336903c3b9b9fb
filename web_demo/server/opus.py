# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Decode and encode Ogg/Opus: one decoder and one encoder per connection."""

import numpy as np
import sphn

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ

FRAME_MS = 40
FRAME_SAMPLES = OUTPUT_RATE_HZ * FRAME_MS // 1000
SLICE_BYTES = 512  # the reader rejects more than five seconds at once
MAX_MESSAGE_SECONDS = 60


class BadAudio(ValueError):
    """The bytes are not valid Ogg/Opus."""


class OpusDecoder:
    """Decodes the microphone's Ogg pages to float32 samples at 16 kHz.

    Opus decodes at 16 kHz directly, so nothing is resampled. A malformed page makes a reader
    unusable, so after an error it is replaced; the new one needs no header pages.
    """

    def __init__(self) -> None:
        self._reader = sphn.OpusStreamReader(INPUT_RATE_HZ)

    def decode(self, data: bytes) -> np.ndarray:
        """Return the samples [S] that these bytes complete, possibly none.

        Raises:
            BadAudio: the bytes were dropped; decoding restarts with the bytes that follow.
        """
        try:
            return self._append(data)
        except ValueError:
            self._reader = sphn.OpusStreamReader(INPUT_RATE_HZ)
        try:  # the cause may be earlier bytes, such as a truncated page
            return self._append(data)
        except ValueError as error:
            self._reader = sphn.OpusStreamReader(INPUT_RATE_HZ)
            raise BadAudio(
                f"an audio page could not be decoded and was skipped: {error}"
            ) from error

    def _append(self, data: bytes) -> np.ndarray:
        """Decode in slices: packets of two bytes could expand a large message to gigabytes."""
        pieces, samples = [], 0
        for start in range(0, len(data), SLICE_BYTES):
            pieces.append(self._reader.append_bytes(data[start : start + SLICE_BYTES]))
            samples += len(pieces[-1])
            if samples > MAX_MESSAGE_SECONDS * INPUT_RATE_HZ:
                raise BadAudio(f"more than {MAX_MESSAGE_SECONDS} s of audio in one message")
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


class OpusEncoder:
    """Encodes replies as Ogg pages of 40 ms; one stream lasts the whole connection."""

    def __init__(self) -> None:
        self._writer = sphn.OpusStreamWriter(OUTPUT_RATE_HZ)

    def encode(self, frame: np.ndarray) -> bytes:
        """Return the page of a frame [960]; the first call also returns both header pages."""
        return self._writer.append_pcm(frame)


class Framer:
    """Cuts the audio of one reply into frames of 40 ms."""

    def __init__(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> list[np.ndarray]:
        """Return the frames [960] that these samples [S] complete."""
        joined = np.concatenate([self._rest, samples.astype(np.float32)])
        whole = len(joined) // FRAME_SAMPLES * FRAME_SAMPLES
        self._rest = joined[whole:]
        return list(joined[:whole].reshape(-1, FRAME_SAMPLES))

    def finish(self) -> list[np.ndarray]:
        """Return the last frame, padded with silence, if there is one."""
        return self.push(np.zeros(-len(self._rest) % FRAME_SAMPLES, np.float32))
