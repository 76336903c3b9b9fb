# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The flow's velocity estimator: a diffusion transformer with adaptive layer norm.

Shapes: ``B`` rows, ``L`` mel frames (50 Hz), ``M`` mel bins (80), ``D`` width. Module names are
those of the checkpoint's keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import CONV_GROUPS, FlowConfig

_CONV_CONTEXT_FRAMES = 30
_TIME_CHANNELS = 256


# Keys and values of one layer, [branches, capacity, 2, heads, dim_head], and how many of its frames
# a chunk sees before its own.
Store = tuple[Tensor, int]
# Vectors [D] that modulate a block, or [B, 1, D] if the rows' times differ: shift, scale plus one
# and gate of the attention, then those of the feed-forward layers. The output has no gate.
Modulation = Sequence[Tensor]


class FrameCache:
    """What the next chunk of a reply needs of its earlier frames, for all solver steps and layers.

    Keys and values are written in place. Once ``limit_frames`` are held, new frames overwrite the
    oldest: keys carry their positions, so attention does not depend on their order.

    Args:
        sizes: sizes of the flow.
        limit_frames: how many frames a chunk sees to the left of its start; None for all.
        like: a weight, for device and dtype.

    Attributes:
        conv_inputs: [steps, 2, branches, D, 30], the last inputs of both position convolutions.
        keys_values: [steps, depth, branches, capacity, 2, heads, dim_head].
        count: frames that the next chunk sees.
    """

    def __init__(self, sizes: FlowConfig, limit_frames: int | None, like: Tensor) -> None:
        branches = 2 if sizes.cfg_scale else 1
        self.limit_frames, self.count, self._oldest = limit_frames, 0, 0
        self.conv_inputs = like.new_zeros(
            sizes.solver_steps, 2, branches, sizes.dim, _CONV_CONTEXT_FRAMES
        )
        self.keys_values = like.new_empty(
            sizes.solver_steps, sizes.depth, branches, 0, 2, sizes.heads, sizes.dim_head
        )

    def make_room(self, frames: int) -> None:
        """Prepare for the keys and values of a chunk, which are written behind those held."""
        held, needed = self.keys_values, self.count + frames
        capacity = held.shape[3]
        if needed > capacity:
            doubled = 2 * capacity
            if self.limit_frames is not None:
                doubled = min(doubled, self.limit_frames)
            shape = (*held.shape[:3], max(needed, doubled), *held.shape[4:])
            self.keys_values = held.new_empty(shape)
            self.keys_values[:, :, :, : self.count] = held[:, :, :, : self.count]

    def store(self, step: int, layer: int) -> Store:
        """Return where a layer writes and reads in a solver step."""
        return self.keys_values[step, layer], self.count

    def keep(self, frames: int) -> None:
        """Count the frames of a chunk that all steps have written, and drop those out of reach."""
        self.count += frames
        limit = self.limit_frames
        if limit is None or self.count <= limit:
            return
        held, end = self.keys_values, self.count
        self.count, moved = limit, min(end - limit, limit)
        first = min(moved, limit - self._oldest)
        # The newest frames stand behind the limit, unless there are more of them than it admits.
        for to, start, size in (
            (self._oldest, end - moved, first),
            (0, end - moved + first, moved - first),
        ):
            if size:
                held[:, :, :, to : to + size] = held[:, :, :, start : start + size]
        self._oldest = (self._oldest + moved) % limit if limit else 0


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

    def forward(self, hidden: Tensor, caches: Sequence[FrameCache], step: int) -> Tensor:
        """Map [B, L, D] to [B, L, D]."""
        hidden = hidden.transpose(1, 2)
        for index, conv in enumerate((self.conv1, self.conv2)):
            before = [cache.conv_inputs[step, index] for cache in caches]
            if before:
                hidden = torch.cat([_rows(before), hidden], dim=2)
                last = hidden[:, :, -_CONV_CONTEXT_FRAMES:]
                for held, new in zip(before, _replies(last, len(caches)), strict=True):
                    held.copy_(new)
            else:
                hidden = F.pad(hidden, (_CONV_CONTEXT_FRAMES, 0))
            hidden = conv(hidden)
        return hidden.transpose(1, 2)


def _rows(replies: list[Tensor]) -> Tensor:
    """Lay the branches [branches, ...] of replies out as rows: first all guided, then all free."""
    return replies[0] if len(replies) == 1 else torch.stack(replies, dim=1).flatten(0, 1)


def _replies(rows: Tensor, count: int) -> Sequence[Tensor]:
    """Divide rows into the branches of ``count`` replies; the inverse of :func:`_rows`."""
    return [rows] if count == 1 else rows.unflatten(0, (-1, count)).unbind(1)


class _InputEmbedding(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(4 * config.mel_bins, config.dim)
        self.conv_pos_embed = _ConvPosition(config.dim)

    def conditions(self, cond: Tensor, mu: Tensor, speaker: Tensor) -> Tensor:
        """Project what does not change between solver steps to [B, L, D]; see :class:`DiT`."""
        bins = mu.shape[-1]
        weight = self.proj.weight[:, bins:]
        frames = torch.cat([cond, mu], dim=-1).to(weight)
        projected = F.linear(frames, weight[:, : 2 * bins], self.proj.bias)
        return projected + F.linear(speaker.to(weight), weight[:, 2 * bins :])[:, None]

    def forward(
        self, x: Tensor, conditions: Tensor, caches: Sequence[FrameCache], step: int
    ) -> Tensor:
        """Map the noisy mel [B, L, M] and the projected conditions [B, L, D] to [B, L, D]."""
        weight = self.proj.weight
        hidden = F.linear(x.to(weight), weight[:, : x.shape[-1]])
        if len(conditions) > len(hidden):
            hidden = hidden.repeat(len(conditions) // len(hidden), 1, 1)
        hidden = hidden + conditions
        return hidden + self.conv_pos_embed(hidden, caches, step)


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
        self.joined: nn.Linear | None = None

    def join(self) -> None:
        """Replace the three projections by one."""
        parts = [self.to_q, self.to_k, self.to_v]
        self.joined = nn.Linear(self.to_q.in_features, 3 * self.to_q.out_features, device="meta")
        self.joined.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        del self.to_q, self.to_k, self.to_v

    def forward(
        self, hidden: Tensor, rotary: Tensor, mask: Tensor | None, stores: Sequence[Store]
    ) -> Tensor:
        """Map [B, L, D] to [B, L, D]; the replies' stored frames are attended to as well."""
        if self.joined is None:
            joined = torch.cat([self.to_q(hidden), self.to_k(hidden), self.to_v(hidden)], dim=-1)
        else:
            joined = self.joined(hidden)
        joined = joined.unflatten(-1, (3, self.heads, self.dim_head))
        _rotate(joined, rotary)
        if not stores:
            return self.to_out(_attend(joined, joined[:, :, 1:], mask))
        outputs = []
        for own, (store, count) in zip(_replies(joined, len(stores)), stores, strict=True):
            end = count + own.shape[1]
            store[:, count:end] = own[:, :, 1:]
            outputs.append(_attend(own, store[:, :end], mask))
        return self.to_out(_rows(outputs))


def _attend(joined: Tensor, keys_values: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with queries, [B, L, 3, heads, dim_head] with keys and values of the same frames."""
    query, key, value = (
        x.transpose(1, 2) for x in (joined[:, :, 0], keys_values[:, :, 0], keys_values[:, :, 1])
    )
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def _rotate(joined: Tensor, rotary: Tensor) -> None:
    """Rotate channels 2k and 2k+1 of the first head of queries and keys, in place.

    The original rotates the vectors before it splits them into heads, so the other heads get no
    positions; the checkpoint was trained with that.
    """
    first = joined[:, :, :2, 0]
    pairs = torch.view_as_complex(first.float().unflatten(-1, (-1, 2)))
    first.copy_(torch.view_as_real(pairs * rotary).flatten(-2))


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
        modulation: Modulation,
        rotary: Tensor,
        mask: Tensor | None,
        valid: Tensor | None,
        stores: Sequence[Store],
    ) -> Tensor:
        """Map hidden [B, L, D] to [B, L, D]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation
        attended = self.attn(_norm(hidden, shift_a, scale_a), rotary, mask, stores)
        if valid is not None:
            attended = attended.masked_fill(~valid[..., None], 0)
        hidden = torch.addcmul(hidden, gate_a, attended)
        return torch.addcmul(hidden, gate_f, self.ff.ff(_norm(hidden, shift_f, scale_f)))


def _norm(hidden: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    if scale.dim() == 1:
        return F.layer_norm(hidden, scale.shape, scale, shift, 1e-6)
    return F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * scale + shift


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

    def modulations(self, t: Tensor) -> list[Modulation]:
        """Compute the modulation of every block and, last, of the output at times t [B].

        They depend on the times only, so for fixed times they are computed once.
        """
        time = F.silu(self.time_embed(t))[:, None]
        found = []
        for block in self.transformer_blocks:
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = block.attn_norm.linear(time).chunk(
                6, dim=-1
            )
            found.append((shift_a, 1 + scale_a, gate_a, shift_f, 1 + scale_f, gate_f))
        scale, shift = self.norm_out.linear(time).chunk(2, dim=-1)
        return [*found, (shift, 1 + scale)]

    def freeze(self) -> None:
        """Prepare for inference: join projections, and free the layers that make modulations.

        The latter are 43 % of the official flow's weights.
        """
        del self.time_embed, self.norm_out
        for block in self.transformer_blocks:
            del block.attn_norm
            block.attn.join()

    def conditions(self, cond: Tensor, mu: Tensor, speaker: Tensor) -> Tensor:
        """Project what a velocity depends on besides x and the time to [B, L, D].

        Args:
            cond: mel of the prompt, zero elsewhere [B, L, M].
            mu: condition by the speech tokens [B, L, M].
            speaker: projected speaker vector [B, M].
        """
        return self.input_embed.conditions(cond, mu, speaker)

    def forward(
        self,
        x: Tensor,
        conditions: Tensor,
        modulations: Sequence[Modulation],
        mask: Tensor | None = None,
        valid: Tensor | None = None,
        rotary: Tensor | None = None,
        caches: Sequence[FrameCache] = (),
        step: int = 0,
    ) -> Tensor:
        """Estimate the velocity.

        Args:
            x: noisy mel [B, L, M], or [R, L, M] of R replies whose branches share it.
            conditions: [B, L, D], from :meth:`conditions`.
            modulations: from :meth:`modulations`.
            mask: bool [L, L], true where a row attends to a column; None for full attention.
            valid: bool [B, L], false where a row is padded; None if no row is.
            rotary: rotations of the frames, from :meth:`rotary`; None if they begin at 0.
            caches: earlier frames of the R replies, extended by this chunk. The rows are then all
                guided branches before all free ones.
            step: index of the solver step, for the caches.

        Returns:
            [B, L, M] in the precision of x.
        """
        if valid is not None:
            keys = valid[:, None, None, :]
            # Padded frames attend to themselves, so that no row of the mask is empty.
            itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            mask = keys if mask is None else mask & keys | itself
        hidden = self.input_embed(x, conditions, caches, step)
        if rotary is None:
            rotary = self.rotary(0, x.shape[1])
        for index, block in enumerate(self.transformer_blocks):
            stores = [cache.store(step, index) for cache in caches]
            hidden = block(hidden, modulations[index], rotary, mask, valid, stores)
        return self.proj_out(_norm(hidden, *modulations[-1])).to(x.dtype)

    def rotary(self, start: int, count: int) -> Tensor:
        """Compute rotations from frame ``start`` on: complex [count, 1, dim_head / 2]."""
        frequencies = self.rotary_embed.inv_freq.float()
        positions = torch.arange(start, start + count, device=frequencies.device)
        angles = (positions[:, None] * frequencies)[:, None]
        return torch.complex(angles.cos(), angles.sin())
