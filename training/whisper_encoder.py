# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Load Whisper's encoder as the mel encoder, from a Transformers or CTranslate2 folder."""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import sinusoids

from funaudiochat.errors import CheckpointError
from training.weights import config_of, tensors_of

TOWER = "continuous_audio_tower."
_SIZES = (
    "num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "d_model",
    "max_source_positions",
)  # fmt: skip
# CTranslate2's numbers of element types.
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_CT2_VERSION = 6


@dataclass(frozen=True)
class WhisperEncoder:
    """The parts of a Whisper folder that a joint model takes.

    Attributes:
        sizes: fields of the mel encoder's configuration.
        weights: tensors of the mel encoder by their names in a joint checkpoint.
        extractor: of its spectrogram, with as many mel bins as the encoder takes.
    """

    sizes: dict[str, int]
    weights: dict[str, Tensor]
    extractor: WhisperFeatureExtractor


def read_whisper(folder: Path) -> WhisperEncoder:
    """Read the encoder of a Whisper folder, as Transformers or as CTranslate2 writes it.

    Raises:
        CheckpointError: the folder holds something else, or the encoder has learned positions.
    """
    return _from_ct2(folder) if (folder / "model.bin").is_file() else _from_transformers(folder)


def _require_sinusoids(table: Tensor, folder: Path) -> None:
    """Require sinusoidal positions: the mel encoder computes its table and does not load one."""
    # Half precision files round the table.
    if not torch.allclose(table.float(), sinusoids(*table.shape), atol=1e-2):
        raise CheckpointError(
            f"the encoder in {folder} has a position table of its own; the mel encoder "
            "takes only Whisper's sinusoids"
        )


def _from_transformers(folder: Path) -> WhisperEncoder:
    config = config_of(folder, "whisper")
    weights = {}
    for key, tensor in tensors_of(folder):
        name = re.sub(r"^(model\.)?encoder\.", TOWER, key)
        name = name.replace("tower.layer_norm.", "tower.ln_post.")
        if name == f"{TOWER}embed_positions.weight":
            _require_sinusoids(tensor, folder)
        elif name.startswith(TOWER):
            weights[name] = tensor
    sizes = {name: getattr(config, name) for name in _SIZES}
    return WhisperEncoder(sizes, weights, WhisperFeatureExtractor.from_pretrained(folder))


class _Ct2File:
    """Reads a CTranslate2 model file: little-endian numbers, and strings that end in a zero."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise struct.error(f"{size} bytes are needed, {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def text(self) -> str:
        return self.take(self.number("H")).rstrip(b"\0").decode()

    def array(self) -> np.ndarray:
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind = np.dtype(_TYPES[self.number("B")])
        return np.frombuffer(self.take(self.number("I")), kind).reshape(shape)


def _read_ct2(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of a Whisper model file by name.

    Raises:
        CheckpointError: the file is truncated, or of another version or model.
    """
    file = _Ct2File(path.read_bytes())
    try:
        version, model, _ = file.number("I"), file.text(), file.number("I")
        if version != _CT2_VERSION or model != "WhisperSpec":
            raise CheckpointError(
                f"{path} is not a Whisper model in CTranslate2's format {_CT2_VERSION}"
            )
        return {file.text(): file.array() for _ in range(file.number("I"))}
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a complete CTranslate2 model: {error}") from error


def _from_ct2(folder: Path) -> WhisperEncoder:
    arrays = _read_ct2(folder / "model.bin")

    def tensor(name: str) -> Tensor:
        if (array := arrays.get(f"encoder/{name}")) is None:
            raise CheckpointError(f"{folder}/model.bin does not contain encoder/{name}")
        if not np.issubdtype(array.dtype, np.floating):
            raise CheckpointError(
                f"{folder}/model.bin holds quantized weights; convert it with "
                "--quantization float16 or float32"
            )
        return torch.from_numpy(array.copy())

    _require_sinusoids(tensor("position_encodings/encodings"), folder)
    places = {f"conv{i}": f"conv{i}" for i in (1, 2)} | {"ln_post": "layer_norm"}
    layers = sum(bool(re.fullmatch(r"encoder/layer_\d+/ffn/linear_0/bias", k)) for k in arrays)
    for layer in range(layers):
        ours, theirs = f"layers.{layer}.", f"layer_{layer}/"
        places |= {
            f"{ours}self_attn_layer_norm": f"{theirs}self_attention/layer_norm",
            f"{ours}self_attn.qkv": f"{theirs}self_attention/linear_0",
            f"{ours}self_attn.out_proj": f"{theirs}self_attention/linear_1",
            f"{ours}final_layer_norm": f"{theirs}ffn/layer_norm",
            f"{ours}fc1": f"{theirs}ffn/linear_0",
            f"{ours}fc2": f"{theirs}ffn/linear_1",
        }
    weights = {}
    for ours, theirs in places.items():
        names = ("gamma", "beta") if "norm" in theirs else ("weight", "bias")
        for part, name in zip(("weight", "bias"), names, strict=True):
            value = tensor(f"{theirs}/{name}")
            if not ours.endswith("qkv"):
                weights[f"{TOWER}{ours}.{part}"] = value
                continue
            # Queries, keys and values are one matrix there; Whisper's keys have no bias.
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                if (letter, part) != ("k", "bias"):
                    key = f"{TOWER}{ours.removesuffix('qkv')}{letter}_proj.{part}"
                    weights[key] = third.clone()
    width, mels, _ = weights[f"{TOWER}conv1.weight"].shape
    sizes = {
        "num_mel_bins": mels,
        "encoder_layers": layers,
        "encoder_attention_heads": int(arrays["encoder/num_heads"]),
        "encoder_ffn_dim": len(weights[f"{TOWER}layers.0.fc1.bias"]),
        "d_model": width,
        "max_source_positions": len(arrays["encoder/position_encodings/encodings"]),
    }
    return WhisperEncoder(sizes, weights, WhisperFeatureExtractor(feature_size=mels))
