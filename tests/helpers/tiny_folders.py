# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Folders of the official formats with tiny random weights.

    python -m tests.helpers.tiny_folders DIR

What such a model says means nothing, but every command runs on it.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.helpers.cosyvoice3_folders import build_cosyvoice3_folder
from tests.helpers.golden import TINY_A


def build(folder: Path) -> tuple[Path, Path]:
    """Make `folder`/Fun-Audio-Chat-Tiny and `folder`/Fun-CosyVoice3-Tiny with one voice."""
    model, tts = folder / "Fun-Audio-Chat-Tiny", folder / "Fun-CosyVoice3-Tiny"
    shutil.copytree(TINY_A, model, dirs_exist_ok=True)
    build_cosyvoice3_folder(tts)
    save_file({"anna": torch.linspace(-1, 1, 192)}, tts / "voices.safetensors")
    return model, tts


if __name__ == "__main__":
    print(*build(Path(sys.argv[1])), sep="\n")
