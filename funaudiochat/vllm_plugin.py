# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""vLLM plug-in: let vLLM serve the folders of this package.

vLLM brings its own speech-to-text model of this family and calls :func:`register` in every one
of its processes, through the entry point group ``vllm.general_plugins``. Nothing else imports
this module, and it imports vLLM only inside that call.
"""

import logging
import re
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

# A child of vLLM's logger, for its format. A warning, because some of vLLM's processes load
# plug-ins before they set up logging and would not show lower levels.
logger = logging.getLogger("vllm.plugins.funaudiochat")


def register() -> None:
    """Register config and processor, and repair vLLM's audio attention where it cannot load.

    Safe to call again; without vLLM it does nothing.
    """
    if find_spec("vllm") is None:
        return
    from funaudiochat.register import register_funaudiochat

    register_funaudiochat()
    try:
        from vllm.model_executor.models.funaudiochat import FunAudioChatAudioAttention
    except ImportError:  # a vLLM without this model: nothing to repair
        return
    if loads_attention(FunAudioChatAudioAttention):
        return
    try:
        repair_attention(FunAudioChatAudioAttention)
        repaired = loads_attention(FunAudioChatAudioAttention)
    except Exception:  # an unknown release of vLLM, which must still serve its other models
        repaired = False
    logger.warning(
        "this vLLM cannot load the q, k and v weights of the mel encoder; %s",
        "repaired in this process" if repaired
        else "the repair that vLLM 0.32 and 0.33 need does not fit it: serve with one of these",
    )  # fmt: skip


def loads_attention(attention_class: Any) -> bool:
    """Return whether the class loads q, k and v under their names in a checkpoint.

    Tries it on a stand-in that holds nothing but the joined weight: the version alone does not
    tell the broken releases (0.32, 0.33) apart.
    """
    stand_in = attention_class.__new__(attention_class)
    nn.Module.__init__(stand_in)
    weight: Any = nn.Parameter(torch.empty(0), requires_grad=False)
    loaded: list[torch.Tensor] = []
    weight.weight_loader = lambda parameter, tensor, *shard: loaded.append(tensor)
    stand_in.qkv_proj = nn.Module()
    stand_in.qkv_proj.weight = weight
    names = [f"{part}_proj.weight" for part in "qkv"]
    try:
        stand_in.load_weights((name, torch.empty(0)) for name in names)
    except Exception:  # of any kind; vLLM would fail in the same way with the real weights
        return False
    return len(loaded) == len(names)


def repair_attention(attention_class: Any) -> None:
    """Let the class's name mapper see the names its loader really gets.

    It looks for ``.q_proj``, but the recursive loader has cut off everything before ``q_proj``:
    give such names their dot for the mapper's search, and take it off what the search yields.
    """
    from vllm.model_executor.models.utils import WeightsMapper

    attention_class.hf_to_vllm_mapper |= WeightsMapper(
        orig_to_new_regex={re.compile(r"^(?=[qkv]_proj\.)"): "."},
        orig_to_new_prefix={".": ""},
    )
