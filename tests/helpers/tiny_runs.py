# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Training runs on tiny folders, and what is read of their results."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from tests.helpers import ROOT

TINY = ROOT / "training" / "configs" / "tiny"

needs_llamafactory = pytest.mark.skipif(
    importlib.util.find_spec("llamafactory") is None,
    reason="needs llamafactory: `make train-setup`",
)


def run_script(script: str, folder: Path, *fields: str, **environment: str) -> str:
    """Run a shell script of training/ and return its output; its logs go to the folder."""
    done = subprocess.run(
        ["bash", ROOT / "training" / "run_shell" / script, *fields],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHON": sys.executable, "LOG_DIR": str(folder / "logs"),
             "MASTER_PORT": "29541", "OMP_NUM_THREADS": "1",
             # Convert the rows again: with the cache of an earlier run, nothing would be printed.
             "HF_DATASETS_CACHE": str(folder / "datasets"), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert list((folder / "logs").iterdir())
    return done.stdout


def train_here(data: Path, start: Path, out: Path, **fields) -> Path:
    """Train in this process, as a worker does; two steps unless the fields say otherwise."""
    from training.launch import train

    config = yaml.safe_load((TINY / "sft.yaml").read_text())
    config |= {"model_name_or_path": str(start), "dataset_dir": str(data)}
    config |= {"output_dir": str(out), "max_steps": 2, "logging_steps": 1, "plot_loss": False}
    train(config | fields)
    return out


def log_of(folder: Path) -> list[dict]:
    """Return the records of training steps."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint."""
    return FunAudioChatForConditionalGeneration.from_pretrained(folder).state_dict()


def changed(before: Path, after: Path) -> set[str]:
    """Return the names of the tensors in which two checkpoints differ."""
    first, second = weights_of(before), weights_of(after)
    assert first.keys() == second.keys()
    return {key for key in first if not torch.equal(first[key], second[key])}
