# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoints of a run are whole: a kill or a full disk in mid-save leaves torn ones."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

_NAME = re.compile(r"checkpoint-(\d+)")


def is_whole(folder: Path, weights_only: bool = False) -> bool:
    """Return whether every file of a checkpoint that resuming reads is complete.

    Args:
        folder: the checkpoint.
        weights_only: whether it is from a run with ``save_only_model``, which keeps no optimizer.
    """
    try:
        json.loads((folder / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    weights = list(folder.glob("*.safetensors"))
    # ZeRO and FSDP keep weights and optimizer in folders of their own.
    sharded = any(path.is_dir() for path in folder.glob("global_step*")) or bool(
        list(folder.glob("pytorch_model_fsdp_*"))
    )
    if not weights and not sharded:
        return False
    states = [folder / "optimizer.pt", folder / "scheduler.pt"]
    if not sharded and not weights_only and not all(path.is_file() for path in states):
        return False
    return all(map(_safetensors_complete, weights)) and all(
        map(zipfile.is_zipfile, folder.glob("*.pt"))
    )


def _safetensors_complete(path: Path) -> bool:
    """Compare a file's size with what its header says lies in it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def set_torn_aside(config: dict[str, Any]) -> list[Path]:
    """Rename the torn checkpoints of a run's ``output_dir``, so that none is resumed from.

    Returns:
        Their new paths.
    """
    output = Path(str(config.get("output_dir", "")))
    if config.get("overwrite_output_dir") or not output.is_dir():
        return []
    weights_only, moved = bool(config.get("save_only_model")), []
    for folder in sorted(output.iterdir()):
        if _NAME.fullmatch(folder.name) and folder.is_dir() and not is_whole(folder, weights_only):
            aside = folder.with_name(f"torn-{folder.name}")
            for number in range(2, 1000):
                if not aside.exists():
                    break
                aside = folder.with_name(f"torn-{folder.name}-{number}")
            moved.append(folder.rename(aside))
    return moved
