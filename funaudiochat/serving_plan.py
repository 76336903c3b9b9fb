# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Plan serving: memory per GPU, and the number of positions that fit.

Parameters are counted on the real modules, on torch's meta device. For ``vllm serve``, the division
between GPUs follows vLLM's own model: the backbone, and of the mel encoder the attention; the rest
of both audio encoders is on every GPU, the refined head on none.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.constants import STEPS_PER_SECOND
from funaudiochat.cosyvoice3.config import FlowConfig, HiftConfig
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.hift import Hift
from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration

_VALUE_BYTES = 2  # bfloat16
_FLOAT32_BYTES = 4
_GIB = 1 << 30
ACTIVATION_BYTES = _GIB  # vLLM's share of this model's activations, about
# Bytes of a backbone weight by its form; "int4" has a float32 scale for every 64 weights.
_BACKBONE_BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + 4 / 64}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as ``80GiB``, ``80GB`` or plain ``80`` (GiB).

    Raises:
        FunAudioChatError: the text is not a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|GB|MiB|MB)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise FunAudioChatError(f"{text!r} is not a size; write for example 80GiB")
    units = {"gib": _GIB, "gb": 10**9, "mib": 1 << 20, "mb": 10**6}
    return int(float(match[1]) * units[(match[2] or "GiB").lower()])


@dataclass(frozen=True)
class ServingPlan:
    """Bytes on one GPU.

    Attributes:
        weights: of what is loaded.
        position: cache of one position of a conversation.
        positions: of all conversations together, that fit into the cache; 0 if nothing fits.
    """

    weights: int
    position: int
    positions: int


def plan_serving(
    config: FunAudioChatConfig,
    gpu_memory: int,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    utilization: float = 0.85,
) -> ServingPlan:
    """Plan bfloat16 serving.

    Args:
        config: of the model.
        gpu_memory: bytes of one GPU.
        tensor_parallel: vLLM's option of that name.
        pipeline_parallel: vLLM's option; the model takes the product of both in GPUs.
        utilization: vLLM's ``--gpu-memory-utilization``.

    Raises:
        FunAudioChatError: vLLM cannot serve this model, or not on that many GPUs.
    """
    text, audio = config.text_config, config.audio_config
    if text.model_type != "qwen3":
        raise FunAudioChatError(
            f"vLLM's model has a dense Qwen3 as backbone, this one is {text.model_type}"
        )
    heads = {
        "heads of the backbone": text.num_attention_heads,
        "key-value heads": text.num_key_value_heads,
        "heads of the mel encoder": audio.encoder_attention_heads,
    }
    for what, count in heads.items():
        if count % tensor_parallel:
            raise FunAudioChatError(
                f"{tensor_parallel} GPUs cannot divide the {count} {what}; use pipeline or data "
                "parallelism for the rest"
            )
    with torch.device("meta"):
        model = FunAudioChatForConditionalGeneration(config)
    backbone, tower = model.language_model, model.continuous_audio_tower
    attention = audio.encoder_layers * _count(tower.layers[0].self_attn)
    encoders = _count(tower) + _count(model.audio_tower)
    # The fullest stage of the pipeline, which holds one of the two tables if there are two.
    layers = -(-text.num_hidden_layers // pipeline_parallel)
    stage = _count(backbone) - (text.num_hidden_layers - layers) * _count(backbone.model.layers[0])
    if pipeline_parallel > 1 and not text.tie_word_embeddings:
        stage -= text.vocab_size * text.hidden_size
    weights = _VALUE_BYTES * (encoders - attention + (attention + stage) // tensor_parallel)
    kv_heads = text.num_key_value_heads // tensor_parallel
    position = _VALUE_BYTES * 2 * layers * kv_heads * text.head_dim
    room = int(utilization * gpu_memory) - ACTIVATION_BYTES - weights
    return ServingPlan(weights, position, max(0, room // position))


def plan_own(
    config: FunAudioChatConfig, gpu_memory: int, weights: str, utilization: float = 0.85
) -> ServingPlan:
    """Plan a process of this toolkit that speaks, on one GPU, with the official detokenizer.

    A position is one step of a conversation, in the backbone's cache and in the refined head's,
    which holds every speech token. The detokenizer is float32.

    Args:
        config: of the model.
        gpu_memory: bytes of the GPU.
        weights: of the backbone's layers: "bf16", "int8" or "int4".
        utilization: share of the memory to plan with.

    Raises:
        FunAudioChatError: the backbone's experts cannot be quantized.
    """
    text, audio = config.text_config, config.audio_config
    if weights != "bf16" and getattr(text, "num_experts", None):
        raise FunAudioChatError(
            f"weights={weights!r} does not reach the experts of a {text.model_type} backbone"
        )
    with torch.device("meta"):
        model = FunAudioChatForConditionalGeneration(config)
        detokenizer = _count(Flow(FlowConfig())) + _count(Hift(HiftConfig()))
    quantized = sum(
        m.weight.numel() for m in model.language_model.model.modules() if type(m) is nn.Linear
    )
    held = _VALUE_BYTES * (_count(model) - quantized) + round(_BACKBONE_BYTES[weights] * quantized)
    held += _FLOAT32_BYTES * detokenizer
    head = model.audio_invert_tower.crq_transformer.config
    position = sum(
        _VALUE_BYTES * 2 * tokens * c.num_hidden_layers * c.num_key_value_heads * c.head_dim
        for c, tokens in ((text, 1), (head, audio.group_size))
    )
    room = int(utilization * gpu_memory) - ACTIVATION_BYTES - held
    return ServingPlan(held, position, max(0, room // position))


def plan_lines(
    model: Path,
    gpu_memory: int,
    tensor_parallel: int,
    pipeline_parallel: int,
    utilization: float,
    weights: str | None = None,
) -> tuple[list[str], bool]:
    """Report the plan for a folder or its ``config.json``.

    With ``weights`` it is :func:`plan_own`, without it :func:`plan_serving`.

    Returns:
        The lines of the report, and whether the model fits.

    Raises:
        CheckpointError, FunAudioChatError: see these functions.
    """
    config = FunAudioChatConfig.from_pretrained(model)
    gpus = tensor_parallel * pipeline_parallel
    if weights is None:
        plan = plan_serving(config, gpu_memory, tensor_parallel, pipeline_parallel, utilization)
        form, held = "bfloat16", "weights without the refined head"
    elif gpus > 1:
        raise FunAudioChatError("--weights plans one GPU; leave out the parallel options")
    else:
        plan = plan_own(config, gpu_memory, weights, utilization)
        form, held = f"{weights} weights of the backbone", "all weights, and the detokenizer's"
    lines = [
        f"{form} on {gpus} GPUs of {gpu_memory / _GIB:.0f} GiB, on each:",
        f"  {held:32} {plan.weights / _GIB:7.2f} GiB",
        f"  cache of one position            {plan.position / 1024:8.1f} KiB",
        f"  cache of 8192 positions          {8192 * plan.position / _GIB:8.2f} GiB",
    ]
    if not plan.positions:
        return [*lines, "DOES NOT FIT"], False
    hours = plan.positions / STEPS_PER_SECOND / 3600
    return [*lines, f"{plan.positions} positions fit, {hours:.1f} hours of audio in total"], True


def _count(module: Any) -> int:
    return sum(int(p.numel()) for p in module.parameters())
