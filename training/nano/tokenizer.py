# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A small speech tokenizer of the S3 v3 family: 16 kHz log-mel in, 25 tokens a second out.

Two strided convolutions, transformer blocks with rotary positions and a depthwise memory on the
values, and a finite scalar quantizer with eight ternary digits. Module names follow the graph of
the official ``speech_tokenizer_v3.onnx``, so that a reader of its weights can read ours.

Shapes: ``B`` batch, ``M`` mel frames (100 Hz), ``T`` speech tokens (25 Hz), ``D`` width.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD_DIM = 64
MEMORY_KERNEL = 31
DIGITS = 8
_BOUND = 0.9990000128746033  # keeps tanh off the rounding edge at 1


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of the tokenizer; the official one has width 1280 and 12 blocks."""

    width: int = 128
    blocks: int = 4
    mels: int = 128


def token_length(mel_frames: Tensor) -> Tensor:
    """Convert mel frames to tokens: two convolutions of stride 2, rounding up."""
    return (mel_frames + 3) // 4


def digits_of(tokens: Tensor) -> Tensor:
    """Split tokens [...] into quantizer digits -1, 0, 1, float [..., 8]."""
    return (tokens[..., None] // 3 ** torch.arange(DIGITS, device=tokens.device) % 3 - 1).float()


def tokens_of(digits: Tensor) -> Tensor:
    """Combine quantizer digits -1, 0, 1 [..., 8] into tokens [...]."""
    powers = 3.0 ** torch.arange(DIGITS, device=digits.device)
    return ((digits + 1) * powers).sum(-1).long()


def _rotate(x: Tensor) -> Tensor:
    """Apply rotary positions, half-split layout, to x [B, heads, T, 64]."""
    position = torch.arange(x.shape[2], dtype=torch.float32, device=x.device)
    frequency = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2, device=x.device) / HEAD_DIM)
    angle = position[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    left, right = x[..., : HEAD_DIM // 2], x[..., HEAD_DIM // 2 :]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class MemoryAttention(nn.Module):
    """Self-attention plus a depthwise convolution over the values, added after the projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        pad = MEMORY_KERNEL // 2
        self.fsmn_block = nn.Conv1d(
            width, width, MEMORY_KERNEL, padding=pad, groups=width, bias=False
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x [B, T, D] to [B, T, D], with a mask [B, T, 1] of ones and zeros."""
        batch, length, width = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        valid = value * mask
        memory = (self.fsmn_block(valid.transpose(1, 2)).transpose(1, 2) + valid) * mask

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, length, -1, HEAD_DIM).transpose(1, 2)

        scores = _rotate(heads(query)) @ _rotate(heads(key)).transpose(2, 3) * HEAD_DIM**-0.5
        scores = scores + (1 - mask.transpose(1, 2)[:, None]) * -1e10
        mixed = (scores.softmax(-1) @ heads(value)).transpose(1, 2).reshape(batch, length, width)
        return self.out(mixed) + memory


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = MemoryAttention(width)
        self.attn_ln = nn.LayerNorm(width)
        inner = 4 * width
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map x [B, T, D] to [B, T, D], with a mask [B, T, 1]."""
        x = x + self.attn(self.attn_ln(x), mask)
        return x + self.mlp(self.mlp_ln(x))


class Quantizer(nn.Module):
    """Finite scalar quantizer with eight ternary digits -1, 0, 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, DIGITS)

    def forward(self, x: Tensor) -> Tensor:
        """Quantise x [B, T, D] to digits [B, T, 8]; gradients pass the rounding unchanged."""
        bounded = torch.tanh(self.project_in(x)) * _BOUND
        return bounded + (bounded.round() - bounded).detach()


class SpeechTokenizer(nn.Module):
    """Log-mel to digits and speech tokens."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.mels, config.width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.quantizer = Quantizer(config.width)

    def digits(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute digits [B, T, 8] and mask [B, T, 1] of mel [B, 128, M] with lengths [B]."""

        def mask(count: int, valid: Tensor) -> Tensor:
            return (torch.arange(count, device=mel.device) < valid[:, None]).to(mel.dtype)

        x = F.gelu(self.conv1(mel * mask(mel.shape[2], lengths)[:, None]))
        x = F.gelu(self.conv2(x * mask(x.shape[2], (lengths + 1) // 2)[:, None])).transpose(1, 2)
        valid = mask(x.shape[1], token_length(lengths))[..., None]
        for block in self.blocks:
            x = block(x, valid)
        return self.quantizer(x), valid

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Compute the speech tokens [B, T] of mel [B, 128, M] with lengths [B] in mel frames."""
        return tokens_of(self.digits(mel, lengths)[0])


def export_onnx(model: SpeechTokenizer, path: Path) -> None:
    """Export as ONNX: features [1, 128, M] and length int32 [1] to tokens [1, T]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    example = (torch.zeros(1, model.conv1.in_channels, 96), torch.tensor([96], dtype=torch.int32))
    torch.onnx.export(
        model.eval(),
        example,
        str(path),
        input_names=["feats", "feats_length"],
        output_names=["indices"],
        dynamic_axes={"feats": {2: "frames"}, "indices": {1: "codes"}},
        opset_version=16,  # from opset 17, LayerNorm is one node and its weights lose their names
        dynamo=False,
    )
