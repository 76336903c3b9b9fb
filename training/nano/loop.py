# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The training loop of Nano's parts that are not trained through LLaMA-Factory."""

import argparse
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.nano.data import WORK

log = logging.getLogger(__name__)


class Run(ABC):
    """A training run that can stop at any step and is resumed by the same call.

    Subclasses define the batches, the losses and the metrics. Checkpoints are written atomically
    and loaded without executing pickles; ``NAME_curve.json`` is written beside ``NAME.pt``.

    Args:
        path: checkpoint file.
        model: the model to train.
        optimizer: over its parameters; a group's key ``share`` scales its learning rate.
        steps: length of the schedule; a resumed run keeps its original length.

    Attributes:
        state: ``step``, ``steps``, ``epoch``, ``batch`` (of the epoch), ``cpu_s`` and ``curve``.
        peak_rate, warm_up_steps, hold, last_rate: the learning rate rises to ``peak_rate`` over
            ``warm_up_steps``, stays there for the share ``hold`` of all steps, then falls linearly,
            but not below the share ``last_rate`` of its peak.
        largest_gradient: norm to which larger gradients are clipped.
        save_every, evaluate_every: interval in steps.
        save_seconds: longest time between checkpoints, for machines on which steps are slow.
    """

    peak_rate: float
    warm_up_steps = 200
    hold = 0.0
    last_rate = 0.02
    largest_gradient = 1.0
    save_every, evaluate_every = 250, 1000
    save_seconds = 150.0

    def __init__(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
    ) -> None:
        self.path, self.model, self.optimizer = path, model, optimizer
        self.state: dict[str, Any] = {
            "step": 0, "steps": steps, "epoch": 0, "batch": 0, "cpu_s": 0.0, "curve": []
        }  # fmt: skip
        if path.exists():
            self.state = torch.load(path, weights_only=True)
            model.load_state_dict(self.state.pop("model"))
            optimizer.load_state_dict(self.state.pop("optimizer"))
            log.info("resumed %s at step %d of %d", path, self.state["step"], self.state["steps"])

    @abstractmethod
    def batches(self, epoch: int) -> Iterable[Any]:
        """Return the batches of an epoch; equal epochs give equal batches."""

    @abstractmethod
    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss to minimise, and its parts to log."""

    @abstractmethod
    def evaluate(self) -> dict[str, Any]:
        """Measure the metrics on held-out data."""

    def train_step(self, batch: Any) -> dict[str, float]:
        """Make one update; skip it if the gradient is not finite (a value overflowed)."""
        step, steps = self.state["step"], self.state["steps"]
        falling = min(1.0, (1 - step / steps) / (1 - self.hold))
        rate = self.peak_rate * min(1, (step + 1) / self.warm_up_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * max(self.last_rate, falling) * group.get("share", 1.0)
        total, parts = self.losses(batch)
        self.optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.largest_gradient)
        if norm.isfinite():
            self.optimizer.step()
        return {name: float(value.detach()) for name, value in parts.items()}

    def train(self) -> None:
        """Train to the end of the schedule."""
        state, recent, saved = self.state, [], time.monotonic()
        while state["step"] < state["steps"]:
            for batch in islice(self.batches(state["epoch"]), state["batch"], None):
                started = time.process_time()
                recent.append(self.train_step(batch))
                state["step"], state["batch"] = state["step"] + 1, state["batch"] + 1
                state["cpu_s"] += time.process_time() - started
                last = state["step"] == state["steps"]
                if state["step"] % self.save_every == 0 or last:
                    point = {"step": state["step"], "cpu_s": round(state["cpu_s"])}
                    for name in recent[0]:
                        point[name] = round(sum(r[name] for r in recent) / len(recent), 4)
                    if state["step"] % self.evaluate_every == 0 or last:
                        self.model.eval()
                        with torch.no_grad():
                            point["held_out"] = self.evaluate()
                        self.model.train()
                    log.info("%s", point)
                    state["curve"].append(point)
                    recent = []
                if not recent or time.monotonic() - saved > self.save_seconds:
                    self.save()
                    saved = time.monotonic()
                if last:
                    return
            state["epoch"], state["batch"] = state["epoch"] + 1, 0

    def save(self) -> None:
        """Write checkpoint and curve; an interrupted write leaves the old checkpoint intact."""
        weights = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        partial = self.path.with_suffix(".partial")
        torch.save({**self.state, **weights}, partial)
        os.replace(partial, self.path)
        curve = self.path.with_name(f"{self.path.stem}_curve.json")
        curve.write_text(json.dumps(self.state["curve"], indent=1))


def parse(parser: argparse.ArgumentParser, steps: int) -> argparse.Namespace:
    """Parse the arguments of a training command; set up logging and threads of the process.

    Args:
        parser: parser with the command's own arguments.
        steps: default of ``--steps``.
    """
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    return args
