# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What the microphone says: one question at a time, ended by a button or by silence."""

from collections import deque
from enum import Enum

import numpy as np

from web_demo.server.echo import EchoDetector
from web_demo.server.opus import MODEL_RATE_HZ
from web_demo.server.vad import RATE_HZ, WINDOW_SAMPLES, VoiceActivity

PREROLL_MS = 300
# Silence kept around the speech of a question: models answer another question when there is much.
MARGIN_SAMPLES = PREROLL_MS * MODEL_RATE_HZ // 1000
# Windows above the threshold that open a turn: a click is shorter, and barge-in may not be late.
START_WINDOWS = 3
# While a reply may be heard from a loudspeaker, a voice must be surer and longer to be one.
START_WINDOWS_OVER_REPLY = 6
RAISED_THRESHOLD, MAX_THRESHOLD = 0.2, 0.95
RECHECK_WINDOWS = 2
# Speech ends below the threshold by this much, so that it does not flicker around it.
HYSTERESIS = 0.15
# A question may also be a sound that is no speech (music, an animal): so loud, and for so long.
LOUD_RMS = 0.1
LOUD_WINDOWS = 8
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
        echo: is told of all reply audio that is sent, so that it opens no turn.
        on: sound is collected.
        speaking: hands-free, the user is in a turn.
        nothing_heard: neither speech nor a loud sound was collected; False without voice detection.
        truncated: the question was longer, its beginning is lost.
    """

    def __init__(self, max_seconds: float, activity: VoiceActivity | None) -> None:
        self.on = True
        self.hands_free = False
        self.end_silence_ms = 600
        self.threshold = 0.5
        self.speaking = False
        self.echo = EchoDetector()
        self._activity = activity
        self._max_samples = int(max_seconds * MODEL_RATE_HZ)
        self.clear()

    def clear(self) -> None:
        """Forget what was collected."""
        self._chunks: deque[np.ndarray] = deque()
        self._samples = self._pushed = 0
        self.truncated = False
        self.speaking = False
        self._run_windows = 0
        self._silent_ms = 0.0
        # Where speech begins and ends, in samples that were examined.
        self._examined = self._speech_end = 0
        self._speech_begin: int | None = None
        self._loud_windows = 0
        if self._activity is not None:
            self._activity.reset()

    def push(self, samples: np.ndarray) -> list[Heard]:
        """Take 16 kHz samples [S] -> what happened, in order."""
        if not self.on or not len(samples):
            return []
        self._chunks.append(samples)
        self._samples += len(samples)
        self._pushed += len(samples)
        found = self._listen(samples)
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
        self._speech_begin = -len(samples)

    @property
    def nothing_heard(self) -> bool:
        """Whether there is no question in what was collected."""
        if self._activity is None:
            return False
        return self._speech_begin is None and self._loud_windows < LOUD_WINDOWS

    def take(self) -> np.ndarray:
        """Give the question so far [S]; the next one begins.

        Hands-free it ends with the silence that ended it; else the silence around speech is cut.
        """
        samples = np.concatenate([*self._chunks, np.zeros(0, np.float32)])
        if self._speech_begin is not None and not self.hands_free:
            first = self._pushed - len(samples)  # put-back audio came before all that was pushed
            begin = max(0, self._speech_begin - MARGIN_SAMPLES - first)
            samples = samples[begin : self._speech_end + MARGIN_SAMPLES - first]
        self.clear()
        return samples

    def _listen(self, samples: np.ndarray) -> list[Heard]:
        """Find speech; hands-free, it opens and ends turns."""
        if self._activity is None:
            return []
        found = []
        for window, probability in self._activity.push(samples):
            self._examined += len(window)
            self._loud_windows += bool(np.sqrt(np.mean(window**2)) > LOUD_RMS)
            self.echo.hear(window)
            begins = self._begins(probability)
            if begins and self._speech_begin is None:
                self._speech_begin = self._examined - self._run_windows * len(window)
            going_on = probability >= self.threshold - HYSTERESIS
            if going_on:
                self._speech_end = self._examined
            if not self.hands_free:
                continue
            if not self.speaking:
                if begins:
                    self.speaking, self._run_windows, self._silent_ms = True, 0, 0.0
                    found.append(Heard.SPEECH_START)
            elif going_on:
                self._silent_ms = 0.0
            else:
                self._silent_ms += _WINDOW_MS
                if self._silent_ms >= self.end_silence_ms:
                    self.speaking = False
                    found.append(Heard.SPEECH_END)
        return found

    def _begins(self, probability: float) -> bool:
        """Whether this window makes it sure that a person speaks."""
        over_reply = self.echo.playing
        threshold = self.threshold + over_reply * RAISED_THRESHOLD
        if probability < min(threshold, MAX_THRESHOLD):
            self._run_windows = 0
            return False
        self._run_windows += 1
        needed = START_WINDOWS_OVER_REPLY if over_reply else START_WINDOWS
        more = self._run_windows - needed
        if self.speaking or more < 0 or more % RECHECK_WINDOWS:
            return False
        return not self.echo.explains(needed * _WINDOW_MS / 1000)

    def _keep_last(self, samples: int) -> None:
        while self._samples - len(self._chunks[0]) >= samples:
            self._samples -= len(self._chunks.popleft())
        excess = self._samples - samples
        if excess > 0:
            self._chunks[0] = self._chunks[0][excess:]
            self._samples = samples
