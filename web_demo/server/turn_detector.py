# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Collect one question at a time from the microphone; a button or silence ends it."""

from collections import deque
from enum import Enum

import numpy as np

from funaudiochat.constants import INPUT_RATE_HZ
from web_demo.server.echo import EchoDetector
from web_demo.server.vad import WINDOW_SAMPLES, VoiceActivity

PREROLL_MS = 300
# Silence kept around the speech of a question: with much silence models answer something else.
MARGIN_SAMPLES = PREROLL_MS * INPUT_RATE_HZ // 1000
# Windows above the threshold that start a turn: a click is shorter, and barge-in must be quick.
START_WINDOWS = 3
# While a loudspeaker may be playing a reply, speech must be more probable and last longer.
START_WINDOWS_OVER_REPLY = 6
RAISED_THRESHOLD, MAX_THRESHOLD = 0.2, 0.95
RECHECK_WINDOWS = 2
# Speech ends this far below the threshold, so that detection does not flicker around it.
HYSTERESIS = 0.15
# A question may also be audio without speech (music, an animal) if it is this loud and long.
LOUD_RMS = 0.1
LOUD_WINDOWS = 8
_WINDOW_MS = WINDOW_SAMPLES * 1000 / INPUT_RATE_HZ


class SpeechEvent(Enum):
    """Hands-free: the user began to speak, or the user's turn ended."""

    SPEECH_START = "speech_start"
    SPEECH_END = "speech_end"


class TurnDetector:
    """Collects the audio of a question, at most the last ``max_seconds``, and detects its end.

    Args:
        activity: None without voice activity detection; ``hands_free`` must then stay off.

    Attributes:
        echo: is given all reply audio that is sent, so that its echo does not start a turn.
        on: audio is collected.
        hands_free: voice activity starts and ends turns.
        end_silence_ms: pause that ends a turn.
        threshold: speech probability from which a window counts as speech.
        preroll_ms: hands-free, audio kept from before speech begins.
        speaking: hands-free, the user is in a turn.
        truncated: the question was longer than ``max_seconds``; its beginning is lost.
    """

    def __init__(self, max_seconds: float, activity: VoiceActivity | None) -> None:
        self.on = True
        self.hands_free = False
        self.end_silence_ms = 600
        self.threshold = 0.5
        self.preroll_ms = PREROLL_MS
        self.speaking = False
        self.echo = EchoDetector()
        self._activity = activity
        self._max_samples = int(max_seconds * INPUT_RATE_HZ)
        self._pushed = self._cleared_at = 0
        self.clear()

    def clear(self) -> None:
        """Discard the audio collected so far."""
        self._chunks: deque[np.ndarray] = deque()
        self._cleared_at += self._pushed
        self._samples = self._pushed = 0
        self.truncated = False
        self.speaking = False
        self._run_windows = 0
        self._silent_ms = 0.0
        # Where speech begins and ends, counted in examined samples.
        self._examined = self._speech_end = 0
        self._speech_begin: int | None = None
        self._loud_windows = 0
        if self._activity is not None:
            self._activity.reset()

    def push(self, samples: np.ndarray) -> list[SpeechEvent]:
        """Take 16 kHz samples [S] and return what was detected, in order."""
        if not self.on or not len(samples):
            return []
        self._chunks.append(samples)
        self._samples += len(samples)
        self._pushed += len(samples)
        found = self._detect(samples)
        if self.hands_free and not self.speaking and SpeechEvent.SPEECH_END not in found:
            self._keep_last(self.preroll_ms * INPUT_RATE_HZ // 1000)
        elif self._samples > self._max_samples:
            self._keep_last(self._max_samples)
            self.truncated = True
            if self.hands_free and SpeechEvent.SPEECH_END not in found:
                found.append(SpeechEvent.SPEECH_END)
        return found

    def put_back(self, samples: np.ndarray) -> None:
        """Prepend earlier samples [S] to the question: the user had only paused."""
        self._chunks.appendleft(samples)
        self._samples += len(samples)
        self._speech_begin = -len(samples)

    @property
    def position(self) -> int:
        """Samples pushed since the first one."""
        return self._cleared_at + self._pushed

    @property
    def speech_position(self) -> int:
        """:attr:`position` at which the speech of the question begins."""
        return self._cleared_at + (self._speech_begin or 0)

    @property
    def nothing_heard(self) -> bool:
        """Whether neither speech nor loud audio was collected; False without voice detection."""
        if self._activity is None:
            return False
        return self._speech_begin is None and self._loud_windows < LOUD_WINDOWS

    def take(self) -> np.ndarray:
        """Return the question so far [S], and begin the next one.

        Hands-free it includes the silence that ended it; otherwise silence around speech is cut.
        """
        samples = np.concatenate([*self._chunks, np.zeros(0, np.float32)])
        if self._speech_begin is not None and not self.hands_free:
            first = self._pushed - len(samples)  # put-back audio came before all that was pushed
            begin = max(0, self._speech_begin - MARGIN_SAMPLES - first)
            samples = samples[begin : self._speech_end + MARGIN_SAMPLES - first]
        self.clear()
        return samples

    def _detect(self, samples: np.ndarray) -> list[SpeechEvent]:
        """Detect speech; hands-free, it starts and ends turns."""
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
            continues = probability >= self.threshold - HYSTERESIS
            if continues:
                self._speech_end = self._examined
            if not self.hands_free:
                continue
            if not self.speaking:
                if begins:
                    self.speaking, self._run_windows, self._silent_ms = True, 0, 0.0
                    found.append(SpeechEvent.SPEECH_START)
            elif continues:
                self._silent_ms = 0.0
            else:
                self._silent_ms += _WINDOW_MS
                if self._silent_ms >= self.end_silence_ms:
                    self.speaking = False
                    found.append(SpeechEvent.SPEECH_END)
        return found

    def _begins(self, probability: float) -> bool:
        """Return whether this window confirms that a person has begun to speak."""
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
