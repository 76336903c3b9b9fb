# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speech tokens of spoken answers, as training rows hold them: spelled, in whole groups of five.

In a partial last group the missing tokens have no label and the refined head hears padding there,
which never happens when it answers: it does not learn where speech ends.
"""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from funaudiochat.constants import AUDIO_BOS_TOKEN, GROUP_SIZE, INPUT_RATE_HZ

SPELLED_TOKEN = re.compile(r"\[AU(\d+)\]")
_TOKEN_SAMPLES = 640
_FRAME_SAMPLES = 160
# An end this far below the loudest 10 ms (40 dB) is silence; so is what 16 bits cannot hold.
_SILENCE_RATIO, _SILENCE_RMS = 0.01, 1e-4


def spelled_answer(tokens: Iterable[int], delay: int) -> str:
    """Spell a spoken answer as a row's audio entry has it: start tokens, then speech tokens."""
    return AUDIO_BOS_TOKEN * delay + "".join(f"[AU{token:04d}]" for token in tokens)


def whole_groups(
    tokens: Sequence[int] | np.ndarray,
    waveform: np.ndarray,
    encode: Callable[[np.ndarray], Sequence[int] | np.ndarray],
    delay: int = 0,
) -> list[int]:
    """Cut or fill the last group of an answer's speech tokens, so that none is partial.

    A remainder (up to 160 ms) that is silence is cut; otherwise tokens of silence fill the group.

    Args:
        tokens: of the waveform, 25 a second.
        waveform: [samples] at 16 kHz.
        encode: the speech tokenizer, [samples] -> tokens.
        delay: start tokens that stand before them.
    """
    remainder = (delay + len(tokens)) % GROUP_SIZE
    if not remainder:
        return [int(token) for token in tokens]
    kept = len(tokens) - remainder
    if kept > 0 and _is_silent_from(waveform, kept * _TOKEN_SAMPLES):
        return [int(token) for token in tokens[:kept]]
    silence = encode(np.zeros(INPUT_RATE_HZ, np.float32))[: GROUP_SIZE - remainder]
    return [int(token) for token in (*tokens, *silence)]


def _is_silent_from(waveform: np.ndarray, start: int) -> bool:
    """Tell whether nothing is heard from a sample on, compared with the rest."""

    def loudest(samples: np.ndarray) -> float:
        """Return the largest RMS of 10 ms frames."""
        padded = np.pad(samples, (0, -len(samples) % _FRAME_SAMPLES)).astype(np.float64)
        frames = padded.reshape(-1, _FRAME_SAMPLES)
        return float(np.sqrt((frames**2).mean(axis=1)).max(initial=0.0))

    return loudest(waveform[start:]) <= max(_SILENCE_RMS, _SILENCE_RATIO * loudest(waveform))
