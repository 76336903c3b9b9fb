# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn taking: whether a duplex model is silent while the user speaks, and then answers.

The paper does not state its criterion; this one was chosen for the toolkit.
"""

from dataclasses import dataclass

import numpy as np

_FRAME_S = 0.02
_MIN_PAUSE_S = 0.2  # shorter gaps are within one stretch of speech
_VOICED_LEVEL = 10 ** (-40 / 20)  # RMS of a frame, relative to full scale


@dataclass(frozen=True)
class TurnLimits:
    """Tolerances for overlap and delay."""

    overlap_s: float = 0.5
    delay_s: float = 5.0


def voiced_stretches(samples: np.ndarray, rate_hz: int) -> list[tuple[float, float]]:
    """Return start and end in seconds of every voiced stretch of ``samples`` [S]."""
    size = round(_FRAME_S * rate_hz)
    count = len(samples) // size
    frames = samples[: count * size].astype(np.float64).reshape(count, size)
    loud = np.flatnonzero(np.sqrt((frames**2).mean(axis=1)) > _VOICED_LEVEL)
    stretches: list[tuple[float, float]] = []
    for start in loud * _FRAME_S:
        if stretches and start - stretches[-1][1] < _MIN_PAUSE_S:
            stretches[-1] = (stretches[-1][0], start + _FRAME_S)
        else:
            stretches.append((start, start + _FRAME_S))
    return stretches


def turn_is_taken(
    user_end_s: float, reply: list[tuple[float, float]], limits: TurnLimits
) -> tuple[bool, str]:
    """Check one interaction; return success and what went wrong.

    Args:
        user_end_s: time at which the user stopped speaking.
        reply: voiced stretches of the model on the same time axis.
        limits: tolerances.
    """
    for start, end in reply:
        overlap = min(end, user_end_s) - start
        if overlap > limits.overlap_s:
            return False, f"speaks for {overlap:.2f} s before the user ends"
    # Speech that starts within the tolerated overlap and continues is an answer, too.
    starts = [max(start, user_end_s) for start, end in reply if end > user_end_s]
    if not starts:
        return False, "does not answer"
    delay = starts[0] - user_end_s
    if delay > limits.delay_s:
        return False, f"answers after {delay:.2f} s"
    return True, ""
