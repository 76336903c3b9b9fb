# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Learning curves."""

from pathlib import Path

from training.nano.curves import draw, series

CURVE = [
    {"step": 100, "cpu_s": 60, "loss": 2.0},
    {"step": 200, "cpu_s": 120, "loss": 1.0, "held_out": {"mel_l1": 0.5, "utterances": 9}},
]


def test_values_are_sorted_into_series_over_minutes() -> None:
    assert series(CURVE) == {"loss": [(1.0, 2.0), (2.0, 1.0)], "held_out/mel_l1": [(2.0, 0.5)]}


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    draw(CURVE, "flow", tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes()[:4] == b"\x89PNG"
