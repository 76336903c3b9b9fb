# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""How long audio is split for the speech tokenizer and the detokenizer."""

SEGMENT_S = 30


def segment_bounds(count: int, rate_hz: int, shortest_last_s: int) -> list[tuple[int, int]]:
    """Split ``count`` samples or speech tokens into segments of 30 s; return their bounds.

    If the last segment is shorter than ``shortest_last_s``, the last two are evened out.
    """
    longest = SEGMENT_S * rate_hz
    bounds = [(start, min(start + longest, count)) for start in range(0, count, longest)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < shortest_last_s * rate_hz:
        start = bounds[-2][0]
        middle = start + (count - start) // 2
        bounds[-2:] = [(start, middle), (middle, count)]
    return bounds
