# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Read ``cosyvoice3.yaml`` as plain data, and write it so that the original reads it too.

Its tags name classes to build. Here they are only text: nothing they name is imported.
"""

import ast
import logging
import operator
import re
from pathlib import Path
from typing import Any

import yaml

from funaudiochat.cosyvoice3.config import FlowConfig, HiftConfig
from funaudiochat.errors import CheckpointError

logger = logging.getLogger(__name__)

FILE_NAME = "cosyvoice3.yaml"
_TOKEN_RATE_PATHS = ("token_frame_rate", "flow.input_frame_rate")
# Far above any checkpoint: a larger number means damage, and would be slow to refuse later.
_LARGEST_INTEGER = 1_000_000

_ESTIMATOR = "flow.decoder.estimator"
_SOLVER = "flow.decoder.cfm_params.content"
# Field of our config -> its paths in the yaml, which must agree.
_FLOW_PATHS = {
    "vocab_size": ("flow.vocab_size",),
    "mel_bins": (
        "flow.output_size",
        "flow.input_size",
        "flow.pre_lookahead_layer.in_channels",
        "flow.decoder.spk_emb_dim",
        f"{_ESTIMATOR}.mel_dim",
        f"{_ESTIMATOR}.mu_dim",
        f"{_ESTIMATOR}.spk_dim",
        f"{_ESTIMATOR}.out_channels",
    ),
    "speaker_dim": ("flow.spk_embed_dim", "spk_embed_dim"),
    "frames_per_token": ("flow.token_mel_ratio", "token_mel_ratio"),
    "lookahead_tokens": ("flow.pre_lookahead_len", "flow.pre_lookahead_layer.pre_lookahead_len"),
    "lookahead_channels": ("flow.pre_lookahead_layer.channels",),
    "dim": (f"{_ESTIMATOR}.dim",),
    "depth": (f"{_ESTIMATOR}.depth",),
    "heads": (f"{_ESTIMATOR}.heads",),
    "dim_head": (f"{_ESTIMATOR}.dim_head",),
    "ff_mult": (f"{_ESTIMATOR}.ff_mult",),
    "chunk_frames": (f"{_ESTIMATOR}.static_chunk_size",),
    "cfg_scale": (f"{_SOLVER}.inference_cfg_rate",),
    "cfg_dropout": (f"{_SOLVER}.training_cfg_rate",),
    "sigma_min": (f"{_SOLVER}.sigma_min",),
    "solver_steps": (f"{_SOLVER}.n_timesteps",),
    "temperature": (f"{_SOLVER}.temperature",),
}
_HIFT_PATHS = {
    "mel_bins": ("hift.in_channels", "hift.f0_predictor.in_channels"),
    "base_channels": ("hift.base_channels",),
    "sample_rate_hz": ("hift.sampling_rate", "sample_rate"),
    "harmonics": ("hift.nb_harmonics",),
    "sine_amplitude": ("hift.nsf_alpha",),
    "noise_amplitude": ("hift.nsf_sigma",),
    "voiced_threshold_hz": ("hift.nsf_voiced_threshold",),
    "upsample_rates": ("hift.upsample_rates",),
    "upsample_kernels": ("hift.upsample_kernel_sizes",),
    "n_fft": ("hift.istft_params.n_fft",),
    "hop_samples": ("hift.istft_params.hop_len",),
    "resblock_kernels": ("hift.resblock_kernel_sizes",),
    "resblock_dilations": ("hift.resblock_dilation_sizes",),
    "source_resblock_kernels": ("hift.source_resblock_kernel_sizes",),
    "source_resblock_dilations": ("hift.source_resblock_dilation_sizes",),
    "lrelu_slope": ("hift.lrelu_slope",),
    "audio_limit": ("hift.audio_limit",),
    "conv_lookahead_frames": ("hift.conv_pre_look_right",),
    "f0_channels": ("hift.f0_predictor.cond_channels",),
    "phase_range": ("hift.phase_range",),
    "sample_accurate_source": ("hift.sample_accurate_source",),
}
# Additions of this toolkit: absent in the official file, written only if not the default.
_OPTIONAL = {"solver_steps", "temperature", "phase_range", "sample_accurate_source"}

# What the original's constructors need besides the fields above.
_SKELETON = """
sample_rate: 24000
spk_embed_dim: 192
token_frame_rate: 25
token_mel_ratio: 2
flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT
  output_type: mel
  input_frame_rate: 25
  only_mask_loss: true
  pre_lookahead_layer: !new:cosyvoice.transformer.upsample_encoder.PreLookaheadLayer {}
  decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
    in_channels: 240
    n_spks: 1
    cfm_params: !new:omegaconf.DictConfig
      content:
        solver: euler
        t_scheduler: cosine
        reg_loss_type: l1
    estimator: !new:cosyvoice.flow.DiT.dit.DiT
      num_decoding_left_chunks: -1
hift: !new:cosyvoice.hifigan.generator.CausalHiFTGenerator
  istft_params: {}
  f0_predictor: !new:cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor
    num_class: 1
"""


class _Tagged(dict[str, Any]):
    """A mapping and its tag."""

    tag = ""


class _Reference(str):
    """The expression after ``!ref``, resolved on access."""


class _Loader(yaml.SafeLoader):
    """Loads custom tags as data."""


class _Dumper(yaml.SafeDumper):
    """Writes the tags back."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        fields: dict[Any, Any] = loader.construct_mapping(node, deep=True)
        found = _Tagged(fields)
        found.tag = node.tag
        return found
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return suffix


_Loader.add_multi_constructor("!", _tagged)
_Loader.add_constructor("!ref", lambda loader, node: _Reference(node.value))
_Dumper.add_representer(
    _Tagged, lambda dumper, value: dumper.represent_mapping(value.tag, value.items())
)

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _resolve(reference: _Reference, top: dict[str, Any]) -> Any:
    """Evaluate ``<key>``, or arithmetic on numbers and keys whose values are numbers."""

    def value(key: str) -> Any:
        found = top[key]
        return _resolve(found, top) if isinstance(found, _Reference) else found

    whole = re.fullmatch(r"\s*<([^<>]+)>\s*", reference)
    if whole:
        return value(whole[1])

    def number(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](number(node.left), number(node.right))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        raise ValueError(f"!ref {reference} must be a key or arithmetic on numbers")

    text = re.sub(r"<([^<>]+)>", lambda match: repr(value(match[1])), reference)
    return number(ast.parse(text.strip(), mode="eval").body)


def read_settings(folder: str | Path) -> tuple[FlowConfig, HiftConfig]:
    """Read the sizes and settings in a folder's ``cosyvoice3.yaml``.

    A missing field falls back to the official value, with a warning.

    Raises:
        CheckpointError: the file is missing, or is not the yaml of a CosyVoice3 detokenizer.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} does not contain {FILE_NAME}; give the folder of a CosyVoice3 detokenizer, "
            "or fetch it with `funaudiochat download`. Are the two model folders swapped?"
        )
    try:
        top = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if not isinstance(top, dict) or not all(
            isinstance(top.get(part), dict) for part in ("flow", "hift")
        ):
            raise TypeError("flow and hift must be mappings")
        flow = FlowConfig(**_fields(FlowConfig(), _FLOW_PATHS, top))
        hift = HiftConfig(**_fields(HiftConfig(), _HIFT_PATHS, top))
        _check_agreement(flow, hift, top)
        return flow, hift
    except (
        yaml.YAMLError,
        SyntaxError,
        RecursionError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be read as the settings of a CosyVoice3 detokenizer ({error}); "
            "download the folder again with `funaudiochat download`"
        ) from error


def _fields(
    official: FlowConfig | HiftConfig, table: dict[str, tuple[str, ...]], top: dict[str, Any]
) -> dict[str, Any]:
    found = {}
    for name, (first, *others) in table.items():
        default = getattr(official, name)
        value = _look_up(top, first)
        if value is None:
            if name not in _OPTIONAL:
                logger.warning(
                    "%s lacks %s; the official value %s is used", FILE_NAME, first, default
                )
            value = default
        found[name] = _converted(value, default, first)
        for other in others:
            again = _look_up(top, other)
            if again is not None and _converted(again, default, other) != found[name]:
                raise ValueError(f"{first} is {found[name]}, but {other} is {again}")
    return found


def _check_agreement(flow: FlowConfig, hift: HiftConfig, top: dict[str, Any]) -> None:
    if flow.mel_bins != hift.mel_bins:
        raise ValueError(f"the flow has {flow.mel_bins} mel bins, but hift takes {hift.mel_bins}")
    tokens_hz = hift.sample_rate_hz / (hift.frame_samples * flow.frames_per_token)
    for path in _TOKEN_RATE_PATHS:
        given = _look_up(top, path)
        if given is not None and given != tokens_hz:
            raise ValueError(f"{path} is {given}, but hift's rates give {tokens_hz} tokens/s")
    for path, known in ((f"{_SOLVER}.solver", "euler"), (f"{_SOLVER}.t_scheduler", "cosine")):
        given = _look_up(top, path)
        if given not in (None, known):
            raise ValueError(f"{path} is {given!r}; only {known!r} is supported")


def _look_up(top: dict[str, Any], path: str) -> Any:
    value: Any = top
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return _resolve(value, top) if isinstance(value, _Reference) else value


def _converted(value: Any, default: Any, path: str) -> Any:
    """Convert a value to the type of the default; YAML 1.1 reads ``1e-6`` as text."""
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(_converted(item, default[0], path) for item in value)
    if isinstance(default, bool) == isinstance(value, bool):
        if isinstance(default, bool):
            return value
        if isinstance(default, float) and isinstance(value, int | float | str):
            number = float(value)
            if abs(number) < float("inf"):
                return number
        if isinstance(default, int) and isinstance(value, int | float):
            if value == int(value) and abs(value) <= _LARGEST_INTEGER:
                return int(value)
    raise TypeError(f"{path} is {value!r}; expected a value like the official {default!r}")


def write_settings(folder: Path, flow: FlowConfig, hift: HiftConfig) -> None:
    """Write ``cosyvoice3.yaml`` with the tags from which the original builds flow and vocoder."""
    top = yaml.load(_SKELETON, _Loader)
    for config, table in ((flow, _FLOW_PATHS), (hift, _HIFT_PATHS)):
        official = type(config)()
        for name, paths in table.items():
            value = getattr(config, name)
            if name in _OPTIONAL and value == getattr(official, name):
                continue
            for path in paths:
                _put(top, path, value)
    tokens_hz = hift.sample_rate_hz // (hift.frame_samples * flow.frames_per_token)
    for path in _TOKEN_RATE_PATHS:
        _put(top, path, tokens_hz)
    text = yaml.dump(top, Dumper=_Dumper, sort_keys=False)
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def _put(top: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    parent = top
    for key in parents:
        parent = parent[key]
    parent[leaf] = _lists(value)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
