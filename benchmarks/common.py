# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Mid-size random models, interleaved timing and the report, shared by the benchmarks."""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.constants import CODEBOOK_SIZE
from funaudiochat.cosyvoice3.config import FlowConfig, HiftConfig
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.hift import Hift
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration

PAIRS = 7
THREADS = 2


@dataclass
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str
    aim: float | None = None


@dataclass
class Report:
    """Results of a benchmark, printed as text, Markdown or JSON."""

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, aim: float | None = None) -> None:
        self.figures.append(Figure(name, value, unit, aim))

    def show(self, style: str) -> None:
        self.add("peak memory", peak_memory_gib(), "GiB")
        if style == "json":
            figures = [asdict(figure) for figure in self.figures]
            print(json.dumps({"title": self.title, "machine": machine(), "figures": figures}))
            return
        print(f"{self.title}; {machine()}")
        if style == "markdown":
            print("\n| figure | value | aim |\n| --- | --- | --- |")
        for figure in self.figures:
            value = f"{figure.value:.3g} {figure.unit}".strip()
            aim = "" if figure.aim is None else f"at most {figure.aim:g}"
            if style == "markdown":
                print(f"| {figure.name} | {value} | {aim} |")
            else:
                print(f"{figure.name}: {value}" + (f" ({aim})" if aim else ""))


def command_line(description: str) -> argparse.ArgumentParser:
    """Build a parser with the options shared by all benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--style", choices=("text", "markdown", "json"), default="text")
    return parser


def style_of_report(description: str) -> str:
    return command_line(description).parse_args().style


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}"
    )


def peak_memory_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def parameters(*models: torch.nn.Module) -> int:
    return sum(p.numel() for model in models for p in model.parameters())


def chat_model() -> FunAudioChatForConditionalGeneration:
    """Build a model of about 75 M parameters in the official shape."""
    torch.manual_seed(0)
    attention = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    head = {
        "model_type": "qwen3",
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "intermediate_size": 1152,
        "vocab_size": 8,
        **attention,
    }
    config = FunAudioChatConfig(
        audio_config={
            "d_model": 384,
            "encoder_layers": 6,
            "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1536,
            "output_dim": 640,
            "codebook_size": 6565,
            "bos_token_id": CODEBOOK_SIZE,
            "eos_token_id": 6562,
            "pad_token_id": 6563,
            "crq_transformer_config": head,
        },
        text_config={
            "model_type": "qwen3",
            "hidden_size": 640,
            "num_hidden_layers": 8,
            "intermediate_size": 1920,
            "vocab_size": 4096,
            "audio_bos_index": 4001,
            "audio_eos_index": 4002,
            "sil_index": 4003,
            "eos_token_id": 4004,
            "max_position_embeddings": 8192,
            **attention,
        },
        audio_token_index=4000,
    )
    return FunAudioChatForConditionalGeneration(config).eval().requires_grad_(False)


def detokenizer() -> tuple[CosyVoice3Detokenizer, int]:
    """Build a detokenizer of the official architecture; return its parameters in use (50 M) too.

    The time layers, a third more, are evaluated once and dropped.
    """
    torch.manual_seed(0)
    flow = Flow(FlowConfig(dim=640, depth=13, heads=10, lookahead_channels=512))
    hift = Hift(HiftConfig(base_channels=256, f0_channels=256))
    for model in (flow, hift):
        model.eval().requires_grad_(False)
    estimator = flow.decoder.estimator
    dropped = parameters(
        estimator.time_embed,
        estimator.norm_out,
        *(block.attn_norm for block in estimator.transformer_blocks),
    )
    used = parameters(flow, hift) - dropped
    return CosyVoice3Detokenizer(flow, hift), used


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Ratio:
    """Median seconds of both runs and the median of their ratios."""

    first_s: float
    second_s: float
    share: float


def ratio(first: Callable[[], float], second: Callable[[], float], pairs: int = PAIRS) -> Ratio:
    """Compare two runs, each of which returns its own seconds, over interleaved pairs."""
    first(), second()
    taken = [(first(), second()) for _ in range(pairs)]
    return Ratio(
        statistics.median(a for a, _ in taken),
        statistics.median(b for _, b in taken),
        statistics.median(a / b for a, b in taken),
    )
