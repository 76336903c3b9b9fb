# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Read and write the official folder: ``cosyvoice3.yaml``, ``flow.pt``, ``hift.pt``.

This module owns the checkpoint's key names. Weights are loaded without executing pickles, and
every key must fit. Other files of the folder (the unused language model) are not read.
"""

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import FlowConfig, HiftConfig
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.hift import Hift
from funaudiochat.cosyvoice3.settings import read_settings, write_settings
from funaudiochat.errors import CheckpointError

__all__ = ["fold_weight_norm", "load_flow", "load_hift", "read_settings", "save", "stored_state"]

_Model = TypeVar("_Model", Flow, Hift)

# Key endings of magnitude and direction: the current ones, and the older ones.
_WEIGHT_NORM_ENDINGS = (
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
    (".weight_g", ".weight_v"),
)
_NAMED_AT_MOST = 10


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of weight-norm tensors by the weight that they represent.

    A tensor without its counterpart is kept, so that the strict check names it.
    """
    folded = dict(state)
    for key in state:
        for magnitude, direction in _WEIGHT_NORM_ENDINGS:
            base = key.removesuffix(magnitude)
            g, v = state[key], state.get(base + direction)
            if base == key or v is None or v.dim() < 2 or g.numel() != len(v):
                continue
            ones = [1] * (v.dim() - 1)
            norm = v.flatten(1).norm(dim=1)
            folded[base + ".weight"] = g.view(-1, *ones) * v / norm.view(-1, *ones)
            del folded[key], folded[base + direction]
    return folded


def stored_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict under the official names, with weight norm on the vocoder's layers."""
    normed = {
        name
        for name, module in model.named_modules()
        if isinstance(model, Hift)
        and isinstance(module, nn.Conv1d)
        and not name.startswith("source_downs")
    }
    magnitude, direction = _WEIGHT_NORM_ENDINGS[0]
    stored = {}
    for key, value in model.state_dict().items():
        name, _, leaf = key.rpartition(".")
        if leaf == "weight" and name in normed:
            norm = value.flatten(1).norm(dim=1)[:, None, None]
            stored[name + magnitude] = norm
            # Zeros have no direction: any will do, as the magnitude is zero.
            stored[name + direction] = torch.where(norm > 0, value, 1.0)
        else:
            stored[key] = value
    return stored


def load_flow(folder: str | Path, config: FlowConfig) -> Flow:
    """Build the flow and fill it from ``flow.pt``, on the CPU in float32.

    Raises:
        CheckpointError: the file is missing or damaged, or its tensors are missing,
            unknown, of another shape, not floating point or not finite; the message names them.
    """
    return _load(Flow, config, Path(folder) / "flow.pt")


def load_hift(folder: str | Path, config: HiftConfig) -> Hift:
    """Build the vocoder and fill it from ``hift.pt``, weight norm folded; see :func:`load_flow`."""
    return _load(Hift, config, Path(folder) / "hift.pt")


def _load(kind: type[_Model], config: FlowConfig | HiftConfig, path: Path) -> _Model:
    state = fold_weight_norm(_read(path))
    with torch.device("meta"):
        model = kind(config)  # type: ignore[arg-type]
    _check(model.state_dict(), state, path)
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    """Read the file's tensors; drop training counters and the prefixes that training adds."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("not a state dict")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; fetch the folder with `funaudiochat download`"
        ) from error
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise CheckpointError(
            f"{path} is damaged or not a weights file ({type(error).__name__}); fetch it again "
            "with `funaudiochat download`"
        ) from error
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in ("epoch", "step"):
            continue
        # Parallel training prefixes names with `module.`; adversarial training stores the
        # vocoder as `generator`.
        name = str(key).removeprefix("module.").replace("generator.", "")
        if not isinstance(value, Tensor) or name in found:
            raise CheckpointError(
                f"{path} contains {key!r}, "
                f"which is {'a duplicate' if name in found else 'not a tensor'}; "
                "only named tensors are expected. Use the files of one released folder"
            )
        found[name] = value
    return found


def _check(wanted: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> None:
    both = wanted.keys() & state.keys()
    problems = {
        "missing": wanted.keys() - state.keys(),
        "unknown": state.keys() - wanted.keys(),
        "of another shape": {key for key in both if wanted[key].shape != state[key].shape},
        "not floating point": {key for key in both if not state[key].is_floating_point()},
        "with NaN or infinity": {key for key in both if not bool(state[key].isfinite().all())},
    }
    found = [
        f"{len(keys)} {kind}: {', '.join(sorted(keys)[:_NAMED_AT_MOST])}"
        f"{', ...' if len(keys) > _NAMED_AT_MOST else ''}"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        raise CheckpointError(
            f"{path} does not fit its cosyvoice3.yaml. Tensors {'; '.join(found)}. Check that "
            "all files come from the same folder, and that flow.pt and hift.pt are not swapped"
        )


def save(folder: str | Path, flow: Flow, hift: Hift) -> None:
    """Write both models as a folder in the official layout, which the original reads too.

    Raises:
        ValueError: the flow is frozen for inference and has no time layers.
    """
    if flow.frozen:
        raise ValueError("a frozen flow cannot be saved; save the one that load_flow returned")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for model, name in ((flow, "flow.pt"), (hift, "hift.pt")):
        state = stored_state(model)
        # Clones: a tensor that shares memory would drag all of it into the file.
        torch.save({k: v.detach().cpu().clone() for k, v in state.items()}, folder / name)
    write_settings(folder, flow.config, hift.config)
