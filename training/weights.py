# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Read checkpoint folders: the configuration, and the tensors of the weight files."""

import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from funaudiochat.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files a loader reads; the folder may hold others beside them.

    Raises:
        CheckpointError: there are none, or a file named by the index is missing.
    """
    index, single = folder / INDEX, folder / "model.safetensors"
    if index.is_file():
        files = [folder / name for name in sorted(set(_weight_map(index).values()))]
    else:
        files = [single]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}; give a whole checkpoint folder with "
            "safetensors weights"
        )
    return files


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{index} is damaged ({error}); download the folder again") from error


def config_of(folder: Path, *kinds: str) -> PretrainedConfig:
    """Read the configuration of a folder that must hold a model of one of these types.

    Raises:
        CheckpointError: the configuration is missing or of another model type.
    """
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no readable config.json: {error}") from error
    if config.model_type not in kinds:
        raise CheckpointError(
            f"{folder} holds a {config.model_type} model; this part must be {' or '.join(kinds)}"
        )
    return config


def tensors_of(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield names and tensors of a folder, one at a time."""
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                yield key, file.get_tensor(key)
