# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What the model's parts share: their base class, and packed rows.

A packed row holds several samples; its mask carries sample numbers from 1, and 0 for padding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig


class FunAudioChatPreTrainedModel(PreTrainedModel):
    """What the parts share: configuration class, attention back ends, initialisation."""

    config_class: type[PretrainedConfig] = FunAudioChatConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FunAudioChatAudioEncoderLayer", "FunAudioChatDecoder"]
    _supports_sdpa = True
    _supports_flash_attn = True


def sample_ids(attention_mask: Tensor) -> Tensor:
    """Sample numbers [B, L], 0 for padding, of a mask [B, L] or block-diagonal one [B, 1, L, L].

    In the latter, which LLaMA-Factory makes of packed rows, 0 stands for visible.
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
    return bool((attention_mask > 1).any())
