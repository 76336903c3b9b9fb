# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Draw the learning curves of all runs.

    python -m training.nano.curves                     # to training/nano/curves

Copies every ``*_curve.json`` of the work folder and plots it over CPU minutes: training losses on
the left, metrics on held-out data on the right. The losses of the joint model come from the
``trainer_state.json`` of its stages.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from training.nano.data import WORK

FOLDER = Path(__file__).with_name("curves")
JOINT_STAGES = ("text", "prealign", "stage1", "stage2")
Lines = dict[str, list[tuple[float, float]]]  # name -> its points
_NOT_DRAWN = {"step", "cpu_s", "utterances", "codes_used", "reconstruction_l1", "regression"}


def series(curve: list[dict[str, Any]]) -> Lines:
    """Group a curve by value: name, ``group/name`` if nested -> (CPU minutes, value) points."""
    found: Lines = {}

    def add(name: str, value: Any, minutes: float) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key not in _NOT_DRAWN:
                    add(f"{name}/{key}" if name else key, inner, minutes)
        else:
            found.setdefault(name, []).append((minutes, value))

    for point in curve:
        add("", point, point["cpu_s"] / 60)
    return found


def draw(curve: list[dict[str, Any]], title: str, path: Path) -> None:
    """Plot one run."""
    panels: dict[str, Lines] = {f"{title}, training": {}, f"{title}, held out": {}}
    training, held_out = panels.values()
    for name, points in series(curve).items():
        (held_out if "/" in name else training)[name] = points
    _write_picture(panels, "CPU minutes", path)


def joint_curve(models: Path) -> list[dict[str, Any]]:
    """Read the logged losses of the trained stages, with ``step`` counted across stages."""
    curve: list[dict[str, Any]] = []
    for stage in JOINT_STAGES:
        begun = curve[-1]["step"] if curve else 0
        path = models / stage / "trainer_state.json"
        for entry in json.loads(path.read_text())["log_history"] if path.exists() else []:
            losses = {key: entry[key] for key in ("text_loss", "speech_loss") if key in entry}
            if losses:
                curve.append({"stage": stage, "step": begun + entry["step"], **losses})
    return curve


def draw_joint(curve: list[dict[str, Any]], path: Path) -> None:
    """Plot the stages of the joint model."""
    panels: dict[str, Lines] = {"text loss": {}, "speech loss": {}}
    for loss, lines in zip(("text_loss", "speech_loss"), panels.values(), strict=True):
        for point in curve:
            if loss in point:
                lines.setdefault(point["stage"], []).append((point["step"], point[loss]))
    _write_picture(panels, "step", path)


def _write_picture(panels: dict[str, Lines], along: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(11, 4))
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, points in lines.items():
            axis.plot(*zip(*points, strict=True), marker="." if "/" in name else None, label=name)
        axis.set(xlabel=along, yscale="log", title=title)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Draw the learning curves.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(args.work.glob("*_curve.json")):
        name = path.stem.removesuffix("_curve")
        (args.output / f"{name}.json").write_text(path.read_text())
        draw(json.loads(path.read_text()), name, args.output / f"{name}.png")
    if joint := joint_curve(args.work / "models"):
        (args.output / "joint.json").write_text(json.dumps(joint))
        draw_joint(joint, args.output / "joint.png")


if __name__ == "__main__":
    main()
