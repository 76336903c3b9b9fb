# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Mid-size random models and interleaved timing, shared by the benchmarks."""

import statistics
import time
from collections.abc import Callable

import torch

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.flow import Flow, FlowConfig
from funaudiochat.cosyvoice3.hift import Hift, HiftConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration

PAIRS = 7


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def chat_model() -> FunAudioChatForConditionalGeneration:
    """About 75 M parameters in the official shape."""
    torch.manual_seed(0)
    attention = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    head = {
        "model_type": "qwen3", "hidden_size": 384, "num_hidden_layers": 6,
        "intermediate_size": 1152, "vocab_size": 8, **attention,
    }
    config = FunAudioChatConfig(
        audio_config={
            "d_model": 384, "encoder_layers": 6, "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1536, "output_dim": 640, "codebook_size": 6565,
            "bos_token_id": 6561, "eos_token_id": 6562, "pad_token_id": 6563,
            "crq_transformer_config": head,
        },
        text_config={
            "model_type": "qwen3", "hidden_size": 640, "num_hidden_layers": 8,
            "intermediate_size": 1920, "vocab_size": 4096, "audio_bos_index": 4001,
            "audio_eos_index": 4002, "sil_index": 4003, "eos_token_id": 4004,
            "max_position_embeddings": 8192, **attention,
        },
        audio_token_index=4000,
    )
    return FunAudioChatForConditionalGeneration(config).eval().requires_grad_(False)


def detokenizer() -> CosyVoice3Detokenizer:
    """About 50 M parameters in the official shape."""
    torch.manual_seed(0)
    flow = Flow(FlowConfig(dim=512, depth=12, heads=8, lookahead_channels=512))
    hift = Hift(HiftConfig(base_channels=256, f0_channels=256))
    for model in (flow, hift):
        model.eval().requires_grad_(False)
    return CosyVoice3Detokenizer(flow, hift)


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float, float]:
    """Median seconds of both and the median of their ratios over interleaved pairs."""
    first(), second()
    pairs = [(seconds_of(first), seconds_of(second)) for _ in range(PAIRS)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(a / b for a, b in pairs),
    )
