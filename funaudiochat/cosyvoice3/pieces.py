# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""How long sound is cut, on its way to codes and back."""

PIECE_S = 30


def pieces(count: int, rate_hz: int, shortest_last_s: int) -> list[tuple[int, int]]:
    """Bounds of the 30 s pieces of ``count`` samples or codes.

    A last piece under ``shortest_last_s`` is joined with the one before, and both are cut in half.
    """
    longest = PIECE_S * rate_hz
    bounds = [(start, min(start + longest, count)) for start in range(0, count, longest)]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < shortest_last_s * rate_hz:
        start = bounds[-2][0]
        middle = start + (count - start) // 2
        bounds[-2:] = [(start, middle), (middle, count)]
    return bounds
