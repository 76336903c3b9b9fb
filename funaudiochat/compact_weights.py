# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Weights stored as bfloat16 or int8 for decoding on a CPU, or as 8 or 4 bits on a GPU.

On a CPU all arithmetic stays float32. A decoding step of a few rows takes as long as its weights
take to be read, so that half or a quarter of the bytes is half or a quarter of the time. Only what
every step reads is stored so: the linear layers of backbone and refined head, and the tables of
embeddings that are tied to one. On a GPU bitsandbytes stores the layers of the backbone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from funaudiochat import decoder_kernel
from funaudiochat.constants import WEIGHTS
from funaudiochat.errors import FunAudioChatError

log = logging.getLogger(__name__)
_AT_ONCE = 1 << 22  # weights that are float32 at the same time where PyTorch multiplies
_STEP_PARTS = ("language_model.", "audio_invert_tower.", "audio_tower.output_matching")


def check_weights(weights: str | None, device: torch.device, config: Any, options: Any) -> None:
    """Refuse weights that a model cannot be loaded with, before it is loaded.

    Args:
        weights: one of ``WEIGHTS``, or None to store them in the model's dtype.
        device: of the language model.
        config: a ``FunAudioChatConfig``.
        options: of ``from_pretrained``, without those that are None.

    Raises:
        FunAudioChatError: the value is unknown, or device, backbone or another option excludes it.
    """
    if weights is None:
        return
    if weights not in WEIGHTS:
        raise FunAudioChatError(f"weights is {weights!r}; use one of {', '.join(WEIGHTS)}")
    if weights in ("int8", "int4") and device.type == "cuda":
        _exclude_loading(weights, options)
        return
    if weights == "int4":
        raise FunAudioChatError(
            f"weights='int4' needs a CUDA GPU and the device is {device}; on a CPU use 'int8'"
        )
    if options.get("dtype", torch.float32) not in ("float32", torch.float32):
        raise FunAudioChatError(
            f"weights={weights!r} computes in float32 and dtype is {options['dtype']}; give one "
            "of them"
        )
    if weights == "fp32":
        return
    if device.type != "cpu":
        raise FunAudioChatError(
            f"weights={weights!r} is for decoding on a CPU and the device is {device}; on a GPU "
            "use dtype='bfloat16', or weights='int8' or 'int4' with CUDA"
        )
    _exclude_loading(weights, options)
    if getattr(config.text_config, "num_experts", None):
        raise FunAudioChatError(
            f"weights={weights!r} does not apply to the experts of a "
            f"{config.text_config.model_type} backbone; leave it out"
        )


def _exclude_loading(weights: str, options: Any) -> None:
    for name in ("quantization_config", "device_map"):
        if name in options:
            raise FunAudioChatError(f"weights={weights!r} excludes {name}; give one of them")


def gpu_quantization(weights: str, dtype: str | torch.dtype) -> BitsAndBytesConfig:
    """Return the ``quantization_config`` of a backbone on a GPU with little memory.

    The audio parts stay as they are (``FunAudioChatForConditionalGeneration.from_pretrained``).

    Args:
        weights: "int8" (LLM.int8) or "int4" (4-bit normal floats).
        dtype: of the arithmetic of "int4".
    """
    if weights == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def compact(model: nn.Module, weights: str) -> None:
    """Store what every decoding step of a model reads as bfloat16 or int8, layer by layer.

    The float weights are released. The model can then neither be trained nor saved.

    Args:
        model: a ``FunAudioChatForConditionalGeneration`` on a CPU, in any float dtype.
        weights: "bf16" or "int8".
    """
    if decoder_kernel.kernel() is None:
        log.warning("without a C++ compiler %s weights save memory but make decoding slower",
                    weights)  # fmt: skip
    parts = dict(model.named_modules())
    tables = {x.weight.data_ptr(): name for name, x in parts.items() if type(x) is nn.Embedding}
    names = [n for n, x in parts.items() if type(x) is nn.Linear and n.startswith(_STEP_PARTS)]
    del parts  # or every layer would keep its float weights until the last is stored
    for name in names:
        linear: Any = model.get_submodule(name)
        table = tables.get(linear.weight.data_ptr())
        made = CompactLinear(*_stored(linear.weight, weights), linear.bias)
        _replace(model, name, made)
        if table is not None:
            _replace(model, table, CompactEmbedding(made))


def _replace(model: nn.Module, name: str, made: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, made.eval())


def _blocks(rows: int, size: int) -> Iterator[slice]:
    count = max(1, _AT_ONCE // size)
    return (slice(start, start + count) for start in range(0, rows, count))


@torch.no_grad()
def _stored(weight: Tensor, weights: str) -> tuple[Tensor, Tensor | None]:
    """Return weights [rows, size] in their stored form, and the scales [rows] of int8 ones."""
    if weights == "bf16":
        # As integers, which a change of the model's dtype leaves as they are.
        return weight.bfloat16().view(torch.int16), None
    stored = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(len(weight))
    for block in _blocks(*weight.shape):
        rows = weight[block].float()
        scale[block] = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        stored[block] = (rows / scale[block, None]).round()
    return stored, scale


class CompactLinear(nn.Module):
    """Linear layer with stored weights, for decoding.

    Args:
        weight: [out, in] int8, or the bits of bfloat16 as int16.
        scale: [out] factor of each row of int8 weights, else None.
        bias: [out] or None.
    """

    weight: Tensor
    scale: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Any = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = bias

    def rows(self, index: Any) -> Tensor:
        """Return rows [*, in] of the weights as float32."""
        stored = self.weight[index]
        if self.scale is None:
            return stored.view(torch.bfloat16).float()
        return stored.float() * self.scale[index][..., None]

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, self.in_features)
        out = flat.new_empty(len(flat), self.out_features)
        kernel = None
        if len(flat) <= decoder_kernel.ROWS and flat.dtype == torch.float32:
            kernel = decoder_kernel.kernel()
        if kernel is not None:
            matrix, given = decoder_kernel.Matrix.of(self), flat.contiguous()
            kernel.multiply(
                matrix, given.data_ptr(), out.data_ptr(), len(flat), torch.get_num_threads()
            )
        else:
            for block in _blocks(*self.weight.shape):
                out[:, block] = F.linear(flat, self.rows(block).to(flat.dtype))
        if self.bias is not None:
            out = out + self.bias
        return out.unflatten(0, hidden.shape[:-1])

    def train(self, mode: bool = True) -> CompactLinear:
        """Refuse training, which needs float weights."""
        if mode:
            self._refuse("trained")
        return super().train(False)

    def _save_to_state_dict(self, *_: Any) -> NoReturn:
        self._refuse("saved")

    def _refuse(self, what: str) -> NoReturn:
        kind = "bf16" if self.scale is None else "int8"
        raise FunAudioChatError(
            f"a model loaded with weights={kind!r} cannot be {what}; load it without `weights`"
        )


class CompactEmbedding(nn.Module):
    """Table of embeddings that is also a projection's weights."""

    def __init__(self, projection: CompactLinear) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, ids: Tensor) -> Tensor:
        return self.projection.rows(ids)
