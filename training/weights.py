# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Which files of a checkpoint folder hold its weights."""

import json
from pathlib import Path

from funaudiochat.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files a loader reads; others, say of another precision, may lie beside them.

    Raises:
        CheckpointError: there are none, or one that the index names is missing.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        files = [folder / name for name in sorted(set(_weight_map(index).values()))]
    else:
        files = [single]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} holds no {', '.join(missing)}; give a whole checkpoint folder with "
            "safetensors weights"
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{index} is damaged ({error}); download the folder again") from error
