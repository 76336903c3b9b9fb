# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The flow's velocity estimator: a diffusion transformer with adaptive layer norm.

Shapes: ``B`` rows, ``L`` mel frames (50 Hz), ``M`` mel bins (80), ``D`` width. Module names are
those of the checkpoint's keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import CONV_GROUPS, FlowConfig

_CONV_CONTEXT_FRAMES = 30
_TIME_CHANNELS = 256


@dataclass
class LayerCache:
    """Keys and values [B, L, heads * dim_head] of the frames the next chunk may see.

    Once full, new frames overwrite the oldest: keys carry their positions, so attention does not
    depend on their order.
    """

    key: Tensor
    value: Tensor
    limit_frames: int | None
    oldest: int = 0

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append a chunk to the cached frames; return all frames that this chunk attends to."""
        seen = torch.cat([self.key, key], dim=1), torch.cat([self.value, value], dim=1)
        limit = self.limit_frames
        if limit is None or seen[0].shape[1] <= limit:
            self.key, self.value = seen
        elif self.key.shape[1] < limit:
            # Copies: views would keep the frames before them in memory.
            self.key, self.value = (x[:, x.shape[1] - limit :].clone() for x in seen)
        elif limit:
            count = min(key.shape[1], limit)
            slots = torch.arange(self.oldest, self.oldest + count, device=key.device) % limit
            self.key[:, slots] = key[:, key.shape[1] - count :]
            self.value[:, slots] = value[:, value.shape[1] - count :]
            self.oldest = (self.oldest + count) % limit
        return seen


@dataclass
class StepCache:
    """Caches that one solver step keeps between chunks."""

    limit_frames: int | None = None
    conv_inputs: list[Tensor] = field(default_factory=list)  # [B, D, 30] of both convolutions
    layers: list[LayerCache] = field(default_factory=list)


class _TimeEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp: Any = nn.Sequential(
            nn.Linear(_TIME_CHANNELS, dim), nn.SiLU(), nn.Linear(dim, dim)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed times [B] in 0..1 as [B, D]."""
        half = _TIME_CHANNELS // 2
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
        angles = 1000 * t[:, None] * torch.exp(-math.log(10000) * exponent)
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.time_mlp(table.to(self.time_mlp[0].weight))


class _ConvPosition(nn.Module):
    """Two causal grouped convolutions that encode the frames' positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        kernel = _CONV_CONTEXT_FRAMES + 1
        self.conv1 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=CONV_GROUPS), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=CONV_GROUPS), nn.Mish())

    def forward(self, hidden: Tensor, cache: StepCache | None) -> Tensor:
        """Map [B, L, D] to [B, L, D]."""
        hidden = hidden.transpose(1, 2)
        kept = []
        for index, conv in enumerate((self.conv1, self.conv2)):
            if cache is not None and cache.conv_inputs:
                hidden = torch.cat([cache.conv_inputs[index], hidden], dim=2)
            else:
                hidden = F.pad(hidden, (_CONV_CONTEXT_FRAMES, 0))
            kept.append(hidden[:, :, -_CONV_CONTEXT_FRAMES:])
            hidden = conv(hidden)
        if cache is not None:
            cache.conv_inputs = kept
        return hidden.transpose(1, 2)


class _InputEmbedding(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(4 * config.mel_bins, config.dim)
        self.conv_pos_embed = _ConvPosition(config.dim)

    def forward(self, inputs: Tensor, cache: StepCache | None) -> Tensor:
        """Map [B, L, 4 * M] to [B, L, D]."""
        hidden = self.proj(inputs)
        return hidden + self.conv_pos_embed(hidden, cache)


class _Modulation(nn.Module):
    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, parts * dim)


class _Attention(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        inner = config.heads * config.dim_head
        self.heads, self.dim_head = config.heads, config.dim_head
        self.to_q = nn.Linear(config.dim, inner)
        self.to_k = nn.Linear(config.dim, inner)
        self.to_v = nn.Linear(config.dim, inner)
        self.to_out = nn.Sequential(nn.Linear(inner, config.dim))

    def forward(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        """Map [B, L, D] to [B, L, D], attending to the cached frames too."""
        query = _rotate(self.to_q(hidden), rotary, self.dim_head)
        key = _rotate(self.to_k(hidden), rotary, self.dim_head)
        value = self.to_v(hidden)
        if cache is not None:
            key, value = cache.extend(key, value)
        query, key, value = (
            x.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)
            for x in (query, key, value)
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor], width: int) -> Tensor:
    """Rotate channels 2k and 2k+1 of the first head only, as the checkpoint was trained.

    The original rotates the vectors before it splits them into heads, so the other heads get no
    positions.
    """
    cos, sin = rotary
    first = x[..., :width]
    rotated = torch.stack([-first[..., 1::2], first[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([(first * cos + rotated * sin).to(x.dtype), x[..., width:]], dim=-1)


class _Block(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.dim * config.ff_mult
        self.attn_norm = _Modulation(dim, 6)
        self.attn = _Attention(config)
        self.ff: Any = nn.Module()
        self.ff.ff = nn.Sequential(
            nn.Sequential(nn.Linear(dim, inner), nn.GELU("tanh")),
            nn.Identity(),  # takes the index of the original's dropout
            nn.Linear(inner, dim),
        )

    def forward(
        self,
        hidden: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        valid: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        """Map hidden [B, L, D] to [B, L, D] under a modulation [B or 1, 1, 6*D]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        attended = self.attn(_norm(hidden) * (1 + scale_a) + shift_a, rotary, mask, cache)
        if valid is not None:
            attended = attended.masked_fill(~valid[..., None], 0)
        hidden = hidden + gate_a * attended
        return hidden + gate_f * self.ff.ff(_norm(hidden) * (1 + scale_f) + shift_f)


def _norm(hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)


class DiT(nn.Module):
    """Estimates the velocity at time t on the path from noise to mel."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.time_embed = _TimeEmbedding(config.dim)
        self.input_embed = _InputEmbedding(config)
        self.rotary_embed: Any = nn.Module()
        exponent = torch.arange(0, config.dim_head, 2).float() / config.dim_head
        self.rotary_embed.register_buffer("inv_freq", 10000.0**-exponent)
        self.transformer_blocks: Any = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm_out = _Modulation(config.dim, 2)
        self.proj_out = nn.Linear(config.dim, config.mel_bins)

    def modulations(self, t: Tensor) -> list[Tensor]:
        """Compute the modulations of every block [B, 1, 6*D] and, last, of the output [B, 1, 2*D].

        They depend on the times t [B] only, so for fixed times they are computed once.
        """
        time = F.silu(self.time_embed(t))[:, None]
        return [b.attn_norm.linear(time) for b in self.transformer_blocks] + [
            self.norm_out.linear(time)
        ]

    def drop_time_layers(self) -> None:
        """Free the layers that :meth:`modulations` needs: 43 % of the official flow's weights."""
        del self.time_embed, self.norm_out
        for block in self.transformer_blocks:
            del block.attn_norm

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        mu: Tensor,
        speaker: Tensor,
        modulations: list[Tensor],
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        cache: StepCache | None = None,
        offset_frames: int = 0,
    ) -> Tensor:
        """Estimate the velocity.

        Args:
            x: noisy mel [B, L, M].
            cond: mel of the prompt, zero elsewhere [B, L, M].
            mu: condition by the speech tokens [B, L, M].
            speaker: projected speaker vector [B, M].
            modulations: from :meth:`modulations`.
            mask: bool [L, L], true where a row attends to a column; None for full attention.
            valid: bool [B, L], false where a row is padded; None if no row is.
            cache: keys and values of the preceding frames, extended in place.
            offset_frames: position of the first frame.

        Returns:
            [B, L, M] in the precision of x.
        """
        if valid is not None:
            keys = valid[:, None, None, :]
            # Padded frames attend to themselves, so that no row of the mask is empty.
            itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            mask = keys if mask is None else mask & keys | itself
        speakers = speaker[:, None].expand(-1, x.shape[1], -1)
        inputs = torch.cat([x, cond, mu, speakers], dim=-1).to(self.proj_out.weight.dtype)
        hidden = self.input_embed(inputs, cache)
        rotary = self._rotary(offset_frames, x.shape[1], x.device)
        if cache is not None and not cache.layers:
            inner = self.transformer_blocks[0].attn.to_k.out_features
            empty = hidden.new_zeros(len(hidden), 0, inner)
            cache.layers = [
                LayerCache(empty, empty, cache.limit_frames) for _ in self.transformer_blocks
            ]
        for index, block in enumerate(self.transformer_blocks):
            layer = None if cache is None else cache.layers[index]
            hidden = block(hidden, modulations[index], rotary, mask, valid, layer)
        scale, shift = modulations[-1].chunk(2, dim=-1)
        return self.proj_out(_norm(hidden) * (1 + scale) + shift).to(x.dtype)

    def _rotary(self, start: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines [count, dim_head] of the frames from ``start`` on."""
        positions = torch.arange(start, start + count, device=device)
        angles = positions[:, None] * self.rotary_embed.inv_freq.float()
        angles = angles.repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()
