# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tiny folders in the official layout, from the recorded weights."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from funaudiochat.cosyvoice3.config import ChunkSchedule
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden" / "cosyvoice3"
CASES = json.loads((GOLDEN / "cases.json").read_text())["cases"]
RECORDED_MASK = ChunkSchedule(25, 1.0, 25, None)


def close(actual: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    """Assert that two tensors are equal within an absolute tolerance."""
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def build_cosyvoice3_folder(folder: Path) -> Path:
    """Write cosyvoice3.yaml, flow.pt and hift.pt."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(GOLDEN / "cosyvoice3_tiny.yaml", folder / "cosyvoice3.yaml")
    for name in ("flow", "hift"):
        torch.save(load_file(GOLDEN / f"{name}_tiny.safetensors"), folder / f"{name}.pt")
    return folder
