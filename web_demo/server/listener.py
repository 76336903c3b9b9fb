# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What the microphone says: one question at a time, ended by a button or by silence."""

from collections import deque
from enum import Enum

import numpy as np

from web_demo.server.opus import MODEL_RATE_HZ
from web_demo.server.vad import RATE_HZ, WINDOW_SAMPLES, VoiceActivity

PREROLL_MS = 300
# Windows above the threshold that open a turn: a click is shorter, and barge-in may not be late.
START_WINDOWS = 3
# Speech ends below the threshold by this much, so that it does not flicker around it.
HYSTERESIS = 0.15
_WINDOW_MS = WINDOW_SAMPLES * 1000 / RATE_HZ


class Heard(Enum):
    """What became of the sound pushed."""

    SPEECH_START = "speech_start"
    SPEECH_END = "speech_end"


class Listener:
    """Collects the question of a turn, the last ``max_seconds`` of it.

    Args:
        activity: None without voice detection; then ``hands_free`` stays off.

    Attributes:
        on: sound is collected.
        speaking: hands-free, the user is in a turn.
        truncated: the question was longer, its beginning is lost.
    """

    def __init__(self, max_seconds: float, activity: VoiceActivity | None) -> None:
        self.on = True
        self.hands_free = False
        self.end_silence_ms = 600
        self.threshold = 0.5
        self.speaking = False
        self._activity = activity
        self._max_samples = int(max_seconds * MODEL_RATE_HZ)
        self.clear()

    def clear(self) -> None:
        """Forget what was collected."""
        self._chunks: deque[np.ndarray] = deque()
        self._samples = 0
        self.truncated = False
        self.speaking = False
        self._run_windows = 0
        self._silent_ms = 0.0
        if self._activity is not None:
            self._activity.reset()

    def push(self, samples: np.ndarray) -> list[Heard]:
        """Take 16 kHz samples [S] -> what happened, in order."""
        if not self.on or not len(samples):
            return []
        self._chunks.append(samples)
        self._samples += len(samples)
        found = self._listen(samples) if self.hands_free else []
        if self.hands_free and not self.speaking and Heard.SPEECH_END not in found:
            self._keep_last(PREROLL_MS * MODEL_RATE_HZ // 1000)
        elif self._samples > self._max_samples:
            self._keep_last(self._max_samples)
            self.truncated = True
            if self.hands_free and Heard.SPEECH_END not in found:
                found.append(Heard.SPEECH_END)
        return found

    def put_back(self, samples: np.ndarray) -> None:
        """Sound of before what is collected now: the user had only paused."""
        self._chunks.appendleft(samples)
        self._samples += len(samples)

    def take(self) -> np.ndarray:
        """The question so far [S]; the next one begins."""
        samples = np.concatenate([*self._chunks, np.zeros(0, np.float32)])
        self.clear()
        return samples

    def _listen(self, samples: np.ndarray) -> list[Heard]:
        assert self._activity is not None
        found = []
        for probability in self._activity.push(samples):
            if not self.speaking:
                self._run_windows = self._run_windows + 1 if probability >= self.threshold else 0
                if self._run_windows == START_WINDOWS:
                    self.speaking, self._run_windows, self._silent_ms = True, 0, 0.0
                    found.append(Heard.SPEECH_START)
            elif probability >= self.threshold - HYSTERESIS:
                self._silent_ms = 0.0
            else:
                self._silent_ms += _WINDOW_MS
                if self._silent_ms >= self.end_silence_ms:
                    self.speaking = False
                    found.append(Heard.SPEECH_END)
        return found

    def _keep_last(self, samples: int) -> None:
        while self._samples - len(self._chunks[0]) >= samples:
            self._samples -= len(self._chunks.popleft())
        excess = self._samples - samples
        if excess > 0:
            self._chunks[0] = self._chunks[0][excess:]
            self._samples = samples
