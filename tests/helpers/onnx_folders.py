# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tiny ONNX files with the official signatures."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from tests.helpers.cosyvoice3_folders import GOLDEN


class TinyTokenizer(nn.Module):
    """The v3 tokenizer at the recorded size: one block of two heads."""

    def __init__(self):
        super().__init__()
        for key, value in load_file(GOLDEN / "s3v3_tiny.safetensors").items():
            self.register_buffer(key.replace(".", "_"), value)

    def weights(self, name):
        prefix = name.replace(".", "_")
        return getattr(self, prefix + "_weight"), getattr(self, prefix + "_bias", None)

    def forward(self, features, length):
        mask = (torch.arange(features.shape[2]) < length.long()).float()[None]
        x = features
        for name in ("encoder.conv1", "encoder.conv2"):
            weight, bias = self.weights(name)
            x = F.gelu(F.conv1d(x * mask[:, None], weight, bias, stride=2, padding=1))
            mask = mask[:, ::2]
        x = x.transpose(1, 2)
        block = "encoder.blocks.0."
        x = x + self.attention(self.norm(x, block + "attn_ln"), block + "attn.", mask)
        hidden = F.linear(self.norm(x, block + "mlp_ln"), *self.weights(block + "mlp.0"))
        x = x + F.linear(F.gelu(hidden), *self.weights(block + "mlp.2"))
        digits = torch.tanh(F.linear(x, *self.weights("quantizer._codebook.project_down")))
        digits = torch.round(digits * 0.9990000128746033) + 1
        return (digits * 3.0 ** torch.arange(8)).sum(-1).int()

    def norm(self, x, name):
        weight, bias = self.weights(name)
        return F.layer_norm(x, weight.shape, weight, bias)

    def attention(self, x, name, mask):
        query = self.rotate(F.linear(x, *self.weights(name + "query")))
        key = self.rotate(F.linear(x, *self.weights(name + "key")))
        value = F.linear(x, *self.weights(name + "value"))
        kept = (value * mask[..., None]).transpose(1, 2)
        kernel, _ = self.weights(name + "fsmn_block")
        memory = F.conv1d(kept, kernel, padding=15, groups=kernel.shape[0])
        memory = (memory + kept).transpose(1, 2) * mask[..., None]
        query, key, value = (v.unflatten(-1, (-1, 64)).transpose(1, 2) for v in (query, key, value))
        scores = query @ key.transpose(2, 3) / 8 + (1 - mask[:, None, None]) * -1e10
        out = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        return F.linear(out, *self.weights(name + "out")) + memory

    def rotate(self, x):
        heads = x.unflatten(-1, (-1, 64))
        rates = torch.exp(-math.log(10000) * torch.arange(32) / 32)
        angles = torch.arange(x.shape[1])[:, None] * rates
        cos, sin = (torch.cat([f, f], -1)[:, None] for f in (angles.cos(), angles.sin()))
        first, second = heads.chunk(2, -1)
        return (heads * cos + torch.cat([-second, first], -1) * sin).flatten(2)


class TinyCampplus(nn.Module):
    """Filter banks [1, T, 80] -> [1, 192], depending on all of them."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("matrix", torch.randn(80, 192, generator=generator))

    def forward(self, features):
        return features.abs().mean(1) @ self.matrix


def export(model: nn.Module, inputs: tuple, names: list[str], axis: int, path: Path) -> Path:
    torch.onnx.export(
        model,
        inputs,
        str(path),
        input_names=names,
        output_names=["out"],
        dynamic_axes={names[0]: {axis: "T"}},
        dynamo=False,
    )
    return path


def build_speech_tokenizer(path: Path) -> Path:
    inputs = (torch.zeros(1, 128, 60), torch.tensor([60], dtype=torch.int32))
    return export(TinyTokenizer(), inputs, ["feats", "feats_length"], 2, path)


def build_campplus(path: Path) -> Path:
    return export(TinyCampplus(), (torch.zeros(1, 50, 80),), ["input"], 1, path)
