# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Reading and writing the official folder: ``cosyvoice3.yaml``, ``flow.pt``, ``hift.pt``.

This module owns the checkpoint's key names. The yaml is data: its tags name classes, which are
never imported. Weights are loaded without executing pickles, and every key must fit.
"""

import logging
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from funaudiochat.cosyvoice3.flow import Flow, FlowConfig
from funaudiochat.cosyvoice3.hift import Hift, HiftConfig
from funaudiochat.errors import CheckpointError

logger = logging.getLogger(__name__)

# Field of our config -> its path in the yaml.
_FLOW_FIELDS = {
    "vocab_size": "flow.vocab_size",
    "mel_bins": "flow.output_size",
    "speaker_dim": "flow.spk_embed_dim",
    "frames_per_code": "flow.token_mel_ratio",
    "lookahead_codes": "flow.pre_lookahead_len",
    "lookahead_channels": "flow.pre_lookahead_layer.channels",
    "dim": "flow.decoder.estimator.dim",
    "depth": "flow.decoder.estimator.depth",
    "heads": "flow.decoder.estimator.heads",
    "dim_head": "flow.decoder.estimator.dim_head",
    "ff_mult": "flow.decoder.estimator.ff_mult",
    "chunk_frames": "flow.decoder.estimator.static_chunk_size",
    "guidance_rate": "flow.decoder.cfm_params.content.inference_cfg_rate",
}
_HIFT_FIELDS = {
    "mel_bins": "hift.in_channels",
    "base_channels": "hift.base_channels",
    "sample_rate_hz": "hift.sampling_rate",
    "harmonics": "hift.nb_harmonics",
    "sine_amplitude": "hift.nsf_alpha",
    "noise_amplitude": "hift.nsf_sigma",
    "voiced_threshold_hz": "hift.nsf_voiced_threshold",
    "upsample_rates": "hift.upsample_rates",
    "upsample_kernels": "hift.upsample_kernel_sizes",
    "n_fft": "hift.istft_params.n_fft",
    "hop_samples": "hift.istft_params.hop_len",
    "resblock_kernels": "hift.resblock_kernel_sizes",
    "resblock_dilations": "hift.resblock_dilation_sizes",
    "source_resblock_kernels": "hift.source_resblock_kernel_sizes",
    "source_resblock_dilations": "hift.source_resblock_dilation_sizes",
    "lrelu_slope": "hift.lrelu_slope",
    "audio_limit": "hift.audio_limit",
    "lookahead_frames": "hift.conv_pre_look_right",
    "f0_channels": "hift.f0_predictor.cond_channels",
}
# Ours: absent in the official file, and then the official behaviour.
_OPTIONAL_FIELDS = {
    "solver_steps": "flow.decoder.cfm_params.content.n_timesteps",
    "phase_range": "hift.phase_range",
}


class _Loader(yaml.SafeLoader):
    """YAML with tags as data."""


def _plain(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return suffix


class _Reference(str):
    """The expression after ``!ref``, resolved once the file is read."""


for _tag in ("!new:", "!name:", "!apply:"):
    _Loader.add_multi_constructor(_tag, _plain)
_Loader.add_constructor("!ref", lambda loader, node: _Reference(node.value))


def _resolve(reference: _Reference, top: dict[str, Any]) -> Any:
    """``<key>`` and products, sums, ... of keys and numbers, from left to right."""
    tokens = re.findall(r"<[^<>]+>|[-+*/]|\d+(?:\.\d+)?", reference)

    def value(token: str) -> Any:
        if not token.startswith("<"):
            return float(token) if "." in token else int(token)
        found = top[token[1:-1]]
        return _resolve(found, top) if isinstance(found, _Reference) else found

    result = value(tokens[0])
    for operator, token in zip(tokens[1::2], tokens[2::2], strict=True):
        other = value(token)
        result = {
            "+": lambda a, b: a + b,
            "-": lambda a, b: a - b,
            "*": lambda a, b: a * b,
            "/": lambda a, b: a / b,
        }[operator](result, other)
    return result


def read_settings(folder: Path) -> tuple[FlowConfig, HiftConfig]:
    """Sizes and settings of a folder's ``cosyvoice3.yaml``.

    A missing field falls back to the official value, with a warning.

    Raises:
        CheckpointError: no such file, or it is not the yaml of a CosyVoice3 detokenizer.
    """
    path = Path(folder) / "cosyvoice3.yaml"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no cosyvoice3.yaml; give the folder of a CosyVoice3 detokenizer, or "
            "fetch it with `funaudiochat download`. Are the two model folders swapped?"
        )
    try:
        top = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        flow, hift = top["flow"], top["hift"]
        if not isinstance(flow, dict) or not isinstance(hift, dict):
            raise TypeError("flow and hift must be mappings")
        return (
            FlowConfig(**_fields(_FLOW_FIELDS, top, "flow")),
            HiftConfig(**_fields(_HIFT_FIELDS, top, "hift")),
        )
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as the settings of a CosyVoice3 detokenizer ({error}); "
            "download the folder again with `funaudiochat download`"
        ) from error


def _fields(table: dict[str, str], top: dict[str, Any], part: str) -> dict[str, Any]:
    optional = {k: v for k, v in _OPTIONAL_FIELDS.items() if v.startswith(part)}
    found = {}
    for name, path in {**table, **optional}.items():
        value: Any = top
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, _Reference):
            value = _resolve(value, top)
        if value is None:
            if name not in optional:
                logger.warning("cosyvoice3.yaml lacks %s; the official value is used", path)
            continue
        found[name] = _tuples(value)
    return found


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return float(value) if isinstance(value, str) else value


def fold_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of weight norm tensors by the weight they stand for.

    Both the parametrization names and the older ``weight_g`` / ``weight_v`` are known.
    """
    folded = {}
    for key, value in state.items():
        for ending, other in (
            (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
            (".weight_g", ".weight_v"),
        ):
            if key.endswith(other):
                break
            if key.endswith(ending):
                base = key.removesuffix(ending)
                direction = state[base + other]
                norm = direction.flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1))
                folded[base + ".weight"] = value * direction / norm
                break
        else:
            folded[key] = value
    return folded


def stored_shapes(model: nn.Module) -> dict[str, list[int]]:
    """Keys and shapes of the model's official file."""
    return {key: list(value.shape) for key, value in _stored(model).items()}


def _stored(model: nn.Module) -> dict[str, Tensor]:
    """State dict under the official names: vocoder convolutions carry weight norm."""
    normed = {
        name
        for name, module in model.named_modules()
        if isinstance(model, Hift)
        and isinstance(module, nn.Conv1d)
        and not name.startswith("source_downs")
    }
    stored = {}
    for key, value in model.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if leaf == "weight" and module in normed:
            norm = value.flatten(1).norm(dim=1).view(-1, 1, 1)
            stored[f"{module}.parametrizations.weight.original0"] = norm
            stored[f"{module}.parametrizations.weight.original1"] = value
        else:
            stored[key] = value
    return stored


def load_flow(folder: Path, config: FlowConfig) -> Flow:
    """Build the flow and fill it from ``flow.pt``; see :func:`load_hift` for errors."""
    flow = Flow(config)
    _fill(flow, _read(Path(folder) / "flow.pt"), Path(folder) / "flow.pt")
    return flow.eval().requires_grad_(False)


def load_hift(folder: Path, config: HiftConfig) -> Hift:
    """Build the vocoder and fill it from ``hift.pt``, weight norm folded.

    Raises:
        CheckpointError: the file is missing or damaged, or tensors are missing, too many or of
            another shape; the message names them.
    """
    path = Path(folder) / "hift.pt"
    # A checkpoint of adversarial training keeps the vocoder under this name.
    state = {key.replace("generator.", ""): value for key, value in _read(path).items()}
    hift = Hift(config)
    _fill(hift, fold_weight_norm(state), path)
    return hift.eval().requires_grad_(False)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(state, dict):
            raise TypeError("not a state dict")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; fetch the folder with `funaudiochat download`"
        ) from error
    except Exception as error:  # torch.load raises many kinds for damaged files
        raise CheckpointError(
            f"{path} is damaged or no file of weights ({type(error).__name__}); fetch it again "
            "with `funaudiochat download`"
        ) from error
    return {
        key.removeprefix("module."): value
        for key, value in state.items()
        if isinstance(value, Tensor) and key not in ("epoch", "step")
    }


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    wanted = model.state_dict()
    problems = {
        "missing": sorted(wanted.keys() - state.keys()),
        "not known": sorted(state.keys() - wanted.keys()),
        "of another shape": sorted(
            key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape
        ),
    }
    found = [
        f"{len(keys)} {kind}: {', '.join(keys[:5])}{', ...' if len(keys) > 5 else ''}"
        for kind, keys in problems.items()
        if keys
    ]
    if found:
        raise CheckpointError(
            f"{path} does not fit its cosyvoice3.yaml. Tensors {'; '.join(found)}. "
            "Check that both come from the same folder"
        )
    model.load_state_dict(state)


def save(folder: Path, flow: Flow, hift: Hift) -> None:
    """Write both models as an official folder that the reference reads too."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for model, name in ((flow, "flow.pt"), (hift, "hift.pt")):
        torch.save({k: v.detach().cpu().clone() for k, v in _stored(model).items()}, folder / name)
    top: dict[str, Any] = {
        "sample_rate": hift.config.sample_rate_hz,
        "token_frame_rate": 25,
        "token_mel_ratio": flow.config.frames_per_code,
        "spk_embed_dim": flow.config.speaker_dim,
    }
    for config, table in ((flow.config, _FLOW_FIELDS), (hift.config, _HIFT_FIELDS)):
        for name, path in {**table, **_OPTIONAL_FIELDS}.items():
            if not hasattr(config, name):
                continue
            *parents, leaf = path.split(".")
            place = top
            for key in parents:
                place = place.setdefault(key, {})
            value = getattr(config, name)
            place[leaf] = [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(
                value, tuple
            ) else value
    text = yaml.safe_dump(top, sort_keys=False)
    for key, tag in _TAGS.items():
        text = re.sub(rf"^( *){key}:$", rf"\1{key}: {tag}", text, flags=re.MULTILINE)
    (folder / "cosyvoice3.yaml").write_text(text)


_TAGS = {
    "flow": "!new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT",
    "pre_lookahead_layer": "!new:cosyvoice.transformer.upsample_encoder.PreLookaheadLayer",
    "decoder": "!new:cosyvoice.flow.flow_matching.CausalConditionalCFM",
    "cfm_params": "!new:omegaconf.DictConfig",
    "estimator": "!new:cosyvoice.flow.DiT.dit.DiT",
    "hift": "!new:cosyvoice.hifigan.generator.CausalHiFTGenerator",
    "f0_predictor": "!new:cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor",
}
