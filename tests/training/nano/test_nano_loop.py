# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Runs that are stopped and resumed, and the shape of their schedule."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.nano.loop import Run


class Line(Run):
    """Fits y = 3 x, in epochs of four batches."""

    peak_rate = 0.1
    warm_up_steps = 2
    save_every = 2
    evaluate_every = 4

    def __init__(self, path: Path, steps: int, stop_at: int = -1) -> None:
        torch.manual_seed(0)
        model = nn.Linear(1, 1)
        super().__init__(path, model, torch.optim.AdamW(model.parameters()), steps)
        self.stop_at = stop_at

    def batches(self, epoch: int) -> list[Tensor]:
        return list(torch.randn(4, 8, 1, generator=torch.Generator().manual_seed(epoch)))

    def losses(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.state["step"] == self.stop_at:
            raise KeyboardInterrupt
        error = (self.model(batch) - 3 * batch).square().mean()
        return error, {"error": error}

    def evaluate(self) -> dict[str, float]:
        assert not self.model.training and not torch.is_grad_enabled()
        return {"slope": self.model.weight.item()}


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(tmp_path):
    whole = Line(tmp_path / "whole.pt", 150)
    whole.train()
    assert whole.model.weight.item() == pytest.approx(3, abs=0.1)
    with pytest.raises(KeyboardInterrupt):
        Line(tmp_path / "parts.pt", 150, stop_at=21).train()
    resumed = Line(tmp_path / "parts.pt", 999)
    assert (resumed.state["step"], resumed.state["batch"]) == (20, 4)
    resumed.train()
    assert resumed.state["step"] == 150
    assert torch.equal(resumed.model.weight, whole.model.weight)
    curve, wanted = (
        [{k: v for k, v in point.items() if k != "cpu_s"} for point in json.loads(path.read_text())]
        for path in sorted(tmp_path.glob("*_curve.json"))
    )
    assert curve == wanted
    assert [point["step"] for point in curve if "held_out" in point] == [*range(4, 149, 4), 150]


def test_time_alone_makes_a_checkpoint_too(tmp_path):
    run = Line(tmp_path / "run.pt", 50, stop_at=3)
    run.save_every, run.save_seconds = 40, 0.0
    with pytest.raises(KeyboardInterrupt):
        run.train()
    resumed = Line(tmp_path / "run.pt", 50)
    assert (resumed.state["step"], resumed.state["curve"]) == (3, [])


def test_a_group_has_its_share_of_the_rate(tmp_path):
    run = Line(tmp_path / "run.pt", 10)
    run.optimizer.param_groups[0]["share"] = 0.25
    run.state["step"] = 2
    run.train_step(torch.ones(8, 1))
    assert run.optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * 0.1 * 0.8)


def test_the_rate_rises_stays_and_falls(tmp_path):
    run = Line(tmp_path / "run.pt", 10)
    run.hold, run.last_rate = 0.5, 0.3
    rates = []
    for run.state["step"] in range(10):
        run.train_step(torch.ones(8, 1))
        rates.append(run.optimizer.param_groups[0]["lr"])
    wanted = [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.08, 0.06, 0.04, 0.03]
    assert rates == pytest.approx(wanted)


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path):
    run = Line(tmp_path / "run.pt", 10)
    before = run.model.weight.clone()
    run.train_step(torch.full((8, 1), float("inf")))
    assert torch.equal(run.model.weight, before)
