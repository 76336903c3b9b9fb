# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tell the assistant's own reply, coming back from a loudspeaker, from a person's voice."""

from collections import deque

import numpy as np

from web_demo.server.opus import MODEL_RATE_HZ, REPLY_RATE_HZ

HOP_S = 0.016  # half a window of voice detection
# A reply is sent up to a second ahead, a page buffers up to half a second, the path adds another.
MEMORY_HOPS = 250
CONTEXT_HOPS = 64  # of the microphone, on which delay and loudness are estimated: a second
BAND_EDGES_HZ = np.geomspace(150, 7500, 17)
MAX_GAIN = 0.4  # in amplitude, while the path is unknown: louder echo would howl anyway
LEAST_LIKENESS, LOUDEST = 0.65, 0.7  # of echo with its reverberation, while the path is unknown
TOLERANCE = 2.0  # in amplitude: reflections, and what the page's own processing changes
ECHO_SHARE = 0.7  # of the microphone's energy that a reply must explain to be called its cause
# The path's loudness is learned from what is surely echo, and may grow by so much.
SURE_SHARE, SURE_LIKENESS, LEARNING_RATE, MAX_GROWTH = 0.95, 0.85, 0.1, 1.25


class _Spectrogram:
    """Amplitudes in bands of the last hops of a signal: ``frames`` [hops, bands]."""

    def __init__(self, rate_hz: int, hops: int) -> None:
        self._hop, self._size = round(HOP_S * rate_hz), round(2 * HOP_S * rate_hz)
        bins_hz = np.fft.rfftfreq(self._size, 1 / rate_hz)
        numbers = np.arange(1, len(BAND_EDGES_HZ))[:, None]
        self._bands = (np.digitize(bins_hz, BAND_EDGES_HZ) == numbers).T.astype(np.float32)
        self._window = (np.hanning(self._size) / self._size).astype(np.float32)
        self._rest = np.zeros(self._size - self._hop, np.float32)
        self.frames = np.zeros((hops, len(numbers)), np.float32)

    def push(self, samples: np.ndarray) -> int:
        """Take samples [S] -> how many hops they completed."""
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
    """Compare the microphone with the reply audio that was sent.

    Echo rises and falls, in each band of frequencies, as the reply did some time before, and is
    quieter; a person does not. Nothing is measured by a clock: time is counted in hops of the
    microphone, and the delay is estimated from its last second every time.
    """

    def __init__(self) -> None:
        self._new: deque[np.ndarray] = deque()  # sent from another thread than the one that hears
        self._heard = _Spectrogram(MODEL_RATE_HZ, CONTEXT_HOPS)
        self._sent = _Spectrogram(REPLY_RATE_HZ, MEMORY_HOPS)
        self._hops_left = 0  # until all of what was sent is too old to be heard
        self._gain: float | None = None

    @property
    def playing(self) -> bool:
        """Whether a reply was sent so lately that it may still be heard."""
        return self._hops_left > 0

    def play(self, samples: np.ndarray) -> None:
        """Note reply audio [S], at 24 kHz, that is sent now."""
        self._new.append(samples)

    def hear(self, samples: np.ndarray) -> None:
        """Note microphone audio [S], at 16 kHz."""
        while self._new:
            if not self.playing:
                self._sent, self._gain = _Spectrogram(REPLY_RATE_HZ, MEMORY_HOPS), None
            self._sent.push(self._new.popleft())
            self._hops_left = MEMORY_HOPS
        self._hops_left -= self._heard.push(samples)

    def explains(self, seconds: float) -> bool:
        """Return whether the last seconds of the microphone are mostly echo."""
        return self.playing and self._share(round(seconds / HOP_S)) > ECHO_SHARE

    def _share(self, hops: int) -> float:
        """Return how much of the energy of the microphone's last hops is echo, from 0 to 1."""
        heard = self._heard.frames
        sent = np.pad(self._sent.frames, ((CONTEXT_HOPS, 0), (0, 0)))
        delayed = np.lib.stride_tricks.sliding_window_view(sent, CONTEXT_HOPS, axis=0)
        likeness = _likeness(delayed.transpose(0, 2, 1), heard)  # [lags]
        best = int(likeness.argmax())
        # A hop brings some of its neighbours too: delays between two hops, and reflections.
        source = delayed[best].T
        for back, weight in ((1, 1.0), (2, 0.7)):
            source = np.maximum(source, weight * delayed[max(0, best - back)].T)
        gain = float((heard * source).sum() / max((source**2).sum(), 1e-12))
        if self._gain is None and (likeness[best] < LEAST_LIKENESS or gain > LOUDEST):
            return 0.0
        most = MAX_GAIN if self._gain is None else min(MAX_GAIN, MAX_GROWTH * self._gain)
        noise = 2 * np.quantile(heard, 0.1, axis=0)
        predicted = noise + TOLERANCE * min(gain, most) * source[-hops:]
        rest = np.maximum(heard[-hops:] - predicted, 0)
        share = 1 - float((rest**2).sum()) / max(float((heard[-hops:] ** 2).sum()), 1e-12)
        if share > SURE_SHARE and likeness[best] > SURE_LIKENESS:
            known = gain if self._gain is None else self._gain
            self._gain = known + LEARNING_RATE * (gain - known)
        return share


def _likeness(delayed: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Correlate each of delayed [lags, hops, bands] with heard [hops, bands] -> [lags].

    Of square roots, so that the loudest moment does not decide alone.
    """
    rows, target = np.sqrt(delayed.reshape(len(delayed), -1)), np.sqrt(heard.ravel())
    rows = rows - rows.mean(1, keepdims=True)
    target = target - target.mean()
    norms = np.sqrt((rows**2).sum(1) * (target**2).sum())
    found: np.ndarray = rows @ target / np.maximum(norms, 1e-9)
    return found
