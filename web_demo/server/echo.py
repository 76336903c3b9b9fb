# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Distinguish the assistant's own reply, played by a loudspeaker, from a person's voice."""

from collections import deque

import numpy as np

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ

HOP_S = 0.016  # half a window of voice detection
# A reply is sent up to a second ahead, the client buffers up to half a second, and the path from
# loudspeaker to microphone adds another.
MEMORY_HOPS = 250
CONTEXT_HOPS = 64  # of the microphone, from which delay and loudness are estimated: a second
BAND_EDGES_HZ = np.geomspace(150, 7500, 17)
MAX_GAIN = 0.4  # in amplitude, while the path is unknown: louder echo would cause feedback
MIN_SIMILARITY, MAX_ECHO_GAIN = 0.65, 0.7  # of echo with reverberation, path unknown
TOLERANCE = 2.0  # in amplitude: reflections, and the browser's own processing
ECHO_SHARE = 0.7  # of the microphone's energy that a reply must explain to count as echo
# The path's gain is learned from unmistakable echo, and may grow by this factor.
SURE_SHARE, SURE_SIMILARITY, LEARNING_RATE, MAX_GROWTH = 0.95, 0.85, 0.1, 1.25


class _Spectrogram:
    """Amplitudes of the last hops of a signal by frequency band: ``frames`` [hops, bands]."""

    def __init__(self, rate_hz: int, hops: int) -> None:
        self._hop, self._size = round(HOP_S * rate_hz), round(2 * HOP_S * rate_hz)
        bins_hz = np.fft.rfftfreq(self._size, 1 / rate_hz)
        numbers = np.arange(1, len(BAND_EDGES_HZ))[:, None]
        self._bands = (np.digitize(bins_hz, BAND_EDGES_HZ) == numbers).T.astype(np.float32)
        self._window = (np.hanning(self._size) / self._size).astype(np.float32)
        self._rest = np.zeros(self._size - self._hop, np.float32)
        self.frames = np.zeros((hops, len(numbers)), np.float32)

    def push(self, samples: np.ndarray) -> int:
        """Take samples [S] and return how many hops they completed."""
        self._rest = np.concatenate([self._rest, samples])
        count = (len(self._rest) - self._size) // self._hop + 1
        if count <= 0:
            return 0
        windows = np.lib.stride_tricks.sliding_window_view(self._rest, self._size)[:: self._hop]
        power = (np.abs(np.fft.rfft(windows * self._window)) ** 2).astype(np.float32)
        new = np.sqrt(power @ self._bands)
        self.frames = np.concatenate([self.frames, new])[-len(self.frames) :]
        self._rest = self._rest[count * self._hop :]
        return count


class EchoDetector:
    """Compares the microphone with the reply audio that was sent.

    In each frequency band, echo rises and falls as the reply did some time before, and is quieter;
    a person's voice does not. No clock is used: time is counted in hops of the microphone, and the
    delay is estimated from its last second every time.
    """

    def __init__(self) -> None:
        self._new: deque[np.ndarray] = (
            deque()
        )  # appended by another thread than the one that calls hear()
        self._heard = _Spectrogram(INPUT_RATE_HZ, CONTEXT_HOPS)
        self._sent = _Spectrogram(OUTPUT_RATE_HZ, MEMORY_HOPS)
        self._hops_left = 0  # until all sent audio is too old to be heard
        self._gain: float | None = None

    @property
    def playing(self) -> bool:
        """Whether a reply was sent so recently that it may still be heard."""
        return self._hops_left > 0

    def play(self, samples: np.ndarray) -> None:
        """Add reply audio [S] at 24 kHz that is being sent."""
        self._new.append(samples)

    def hear(self, samples: np.ndarray) -> None:
        """Add microphone audio [S] at 16 kHz."""
        while self._new:
            if not self.playing:
                self._sent, self._gain = _Spectrogram(OUTPUT_RATE_HZ, MEMORY_HOPS), None
            self._sent.push(self._new.popleft())
            self._hops_left = MEMORY_HOPS
        self._hops_left -= self._heard.push(samples)

    def explains(self, seconds: float) -> bool:
        """Return whether the last ``seconds`` of the microphone are mostly echo."""
        return self.playing and self._share(round(seconds / HOP_S)) > ECHO_SHARE

    def _share(self, hops: int) -> float:
        """Return the share of echo in the energy of the microphone's last hops, from 0 to 1."""
        heard = self._heard.frames
        sent = np.pad(self._sent.frames, ((CONTEXT_HOPS, 0), (0, 0)))
        delayed = np.lib.stride_tricks.sliding_window_view(sent, CONTEXT_HOPS, axis=0)
        similarity = _similarity(delayed.transpose(0, 2, 1), heard)  # [lags]
        best = int(similarity.argmax())
        # Neighbouring hops contribute too: delays between two hops, and reflections.
        source = delayed[best].T
        for back, weight in ((1, 1.0), (2, 0.7)):
            source = np.maximum(source, weight * delayed[max(0, best - back)].T)
        gain = float((heard * source).sum() / max((source**2).sum(), 1e-12))
        if self._gain is None and (similarity[best] < MIN_SIMILARITY or gain > MAX_ECHO_GAIN):
            return 0.0
        most = MAX_GAIN if self._gain is None else min(MAX_GAIN, MAX_GROWTH * self._gain)
        noise = 2 * np.quantile(heard, 0.1, axis=0)
        predicted = noise + TOLERANCE * min(gain, most) * source[-hops:]
        rest = np.maximum(heard[-hops:] - predicted, 0)
        share = 1 - float((rest**2).sum()) / max(float((heard[-hops:] ** 2).sum()), 1e-12)
        if share > SURE_SHARE and similarity[best] > SURE_SIMILARITY:
            known = gain if self._gain is None else self._gain
            self._gain = known + LEARNING_RATE * (gain - known)
        return share


def _similarity(delayed: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Correlate each lag of ``delayed`` [lags, hops, bands] with ``heard`` [hops, bands].

    Square roots are compared, so that the loudest moment does not decide alone.

    Returns:
        Correlations [lags].
    """
    rows, target = np.sqrt(delayed.reshape(len(delayed), -1)), np.sqrt(heard.ravel())
    rows = rows - rows.mean(1, keepdims=True)
    target = target - target.mean()
    norms = np.sqrt((rows**2).sum(1) * (target**2).sum())
    found: np.ndarray = rows @ target / np.maximum(norms, 1e-9)
    return found
