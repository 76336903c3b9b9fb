# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Base class of the model's parts, and packed rows.

A packed row holds several samples; its mask carries sample numbers from 1, and 0 for padding.
"""

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig


class FunAudioChatPreTrainedModel(PreTrainedModel):
    """Base of the model's parts: configuration class, attention back ends, initialisation."""

    config_class: type[PretrainedConfig] = FunAudioChatConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FunAudioChatAudioEncoderLayer", "FunAudioChatDecoder"]
    _supports_sdpa = True
    _supports_flash_attn = True


def cache_argument(transformer: Any, cache: Any) -> dict[str, Any]:
    """Return a cache under its argument's name, which transformers 5.24 changed."""
    kind: Any = type(transformer)
    return {_cache_name(kind): cache}


@functools.cache
def _cache_name(kind: Any) -> str:
    taken = inspect.signature(kind.forward).parameters
    return "cache" if "cache" in taken else "past_key_values"


def sample_ids(attention_mask: Tensor) -> Tensor:
    """Return sample numbers [B, L], 0 for padding, of a mask [B, L] or [B, 1, L, L].

    The latter is the block-diagonal mask that LLaMA-Factory makes for packed rows; 0 means visible.
    """
    if attention_mask.dim() == 2:
        return attention_mask
    visible = attention_mask[:, 0] == 0
    real = visible.diagonal(dim1=1, dim2=2)
    joined = F.pad(visible.diagonal(offset=-1, dim1=1, dim2=2), (1, 0))
    return (real & ~joined).cumsum(1) * real


def run_packed(transformer: Any, hidden: Tensor, sample_ids: Tensor) -> Any:
    """Run a causal transformer over packed rows [B, L, D] so that every sample sees itself only.

    All rows are laid end to end without padding: positions that restart are how transformers'
    attention back ends, flash included, tell samples apart.

    Returns:
        The transformer's output, ``last_hidden_state`` [B, L, D] with zeros for padding.
    """
    index = torch.arange(hidden.shape[1], device=hidden.device).expand_as(sample_ids)
    starts = F.pad(sample_ids[:, 1:] != sample_ids[:, :-1], (1, 0), value=True)
    positions = index - index.masked_fill(~starts, 0).cummax(1).values
    real = sample_ids > 0
    output = transformer(
        inputs_embeds=hidden[real][None], position_ids=positions[real][None], use_cache=False
    )
    states = output.last_hidden_state[0].to(hidden.dtype)
    output.last_hidden_state = hidden.new_zeros(hidden.shape).index_put((real,), states)
    return output


def is_packed(attention_mask: Tensor) -> bool:
    """Return whether a mask [B, L] holds sample numbers beyond 1."""
    return bool((attention_mask > 1).any())
