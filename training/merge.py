# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Core-Cocktail merging: alpha * trained + (1 - alpha) * base over the shared language model.

Paper: arXiv 2512.20156, section 2.4. Tensors are read and written one shard at a time.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from funaudiochat.errors import CheckpointError
from training.weights import weight_files

PREFIX = "language_model."
# Files that a training run leaves beside the checkpoint.
_LOGS = {"trainer_state.json", "train_results.json", "all_results.json"}


@dataclass
class MergeReport:
    """The merged tensors, those kept from the trained checkpoint, and the largest change."""

    merged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    largest_change: float = 0.0
    largest_change_in: str = ""


def _base_tensors(folder: Path) -> dict[str, tuple[Path, str]]:
    """Map keys of a joint checkpoint to file and key in the base, a joint or a text-only folder."""
    found = {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                found[key] = (path, key)
    if any(key.startswith(PREFIX) for key in found):
        return {key: place for key, place in found.items() if key.startswith(PREFIX)}
    if "lm_head.weight" not in found and "model.embed_tokens.weight" in found:
        found["lm_head.weight"] = found["model.embed_tokens.weight"]  # tied
    return {PREFIX + key: place for key, place in found.items()}


def _check_folders(trained: Path, base: Path, out: Path, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
    if len({trained.resolve(), base.resolve(), out.resolve()}) < 3:
        raise CheckpointError("trained, base and output folder must be three different folders")
    vocabularies = [folder / "vocab.json" for folder in (trained, base)]
    if all(path.is_file() for path in vocabularies):
        first, second = (json.loads(path.read_text()) for path in vocabularies)
        if first != second:
            raise CheckpointError(
                f"{trained} and {base} have different vocabularies ({len(first)} and "
                f"{len(second)} entries); merge only models of one tokenizer"
            )


def merge(trained: Path, base: Path, out: Path, alpha: float = 0.5) -> MergeReport:
    """Write ``out``: the trained joint checkpoint with its language model mixed with the base's.

    Args:
        trained: joint checkpoint M1.
        base: joint checkpoint or plain text model M0.
        out: folder to write.
        alpha: weight of the trained one; 0 and 1 copy exactly.

    Raises:
        CheckpointError: same folders or weights, other vocabularies or shapes, nothing in common.
    """
    _check_folders(trained, base, out, alpha)
    places, report = _base_tensors(base), MergeReport()
    with_shapes = []
    for shard in weight_files(trained):
        with safe_open(shard, "pt") as file:
            with_shapes += [(k, file.get_slice(k).get_shape()) for k in file.keys()]
    for key, shape in with_shapes:
        if key in places:
            path, name = places[key]
            with safe_open(path, "pt") as file:
                other = file.get_slice(name).get_shape()
            if other != shape:
                raise CheckpointError(f"{key} has shape {shape} in {trained}, {other} in {base}")
    if not any(key in places for key, _ in with_shapes):
        raise CheckpointError(f"{trained} and {base} share no language model weights")
    if not any(_differs(shard, places) for shard in weight_files(trained)):
        raise CheckpointError(
            f"{trained} and {base} hold the same language model; there is nothing to mix: give the "
            "checkpoint from before that training as base"
        )
    out.mkdir(parents=True, exist_ok=True)
    for shard in weight_files(trained):
        _merge_shard(shard, out / shard.name, places, alpha, report)
    for path in trained.iterdir():
        if path.suffix in (".json", ".txt", ".jinja") and path.name not in _LOGS:
            shutil.copy(path, out / path.name)
    shutil.copytree(trained / "speech_tokenizer", out / "speech_tokenizer", dirs_exist_ok=True)
    return report


def _differs(shard: Path, places: dict[str, tuple[Path, str]]) -> bool:
    """Check whether any tensor of a shard differs from the base; stop at the first that does."""
    with safe_open(shard, "pt") as file:
        for key in file.keys():
            if key in places:
                path, name = places[key]
                with safe_open(path, "pt") as base_file:
                    tensor, other = file.get_tensor(key), base_file.get_tensor(name)
                if not torch.equal(tensor, other.to(tensor.dtype)):
                    return True
    return False


def _merge_shard(
    shard: Path,
    target: Path,
    places: dict[str, tuple[Path, str]],
    alpha: float,
    report: MergeReport,
) -> None:
    tensors = {}
    with safe_open(shard, "pt") as file:
        for key in file.keys():
            tensor = file.get_tensor(key)
            if key not in places:
                report.kept.append(key)
                tensors[key] = tensor
                continue
            path, name = places[key]
            with safe_open(path, "pt") as base_file:
                other = base_file.get_tensor(name)
            if alpha == 1:
                mixed = tensor
            elif alpha == 0:
                mixed = other.to(tensor.dtype)
            else:
                mixed = torch.lerp(other.float(), tensor.float(), alpha).to(tensor.dtype)
            change = float((mixed.float() - tensor.float()).abs().max())
            if change > report.largest_change:
                report.largest_change, report.largest_change_in = change, key
            report.merged.append(key)
            tensors[key] = mixed
    save_file(tensors, target, metadata={"format": "pt"})
