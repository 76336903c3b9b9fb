# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Flow matching from speech codes to mel: conditioning, the DiT and its Euler solver.

Shapes: ``B`` rows, ``T`` codes (25 Hz), ``L`` mel frames (50 Hz), ``M`` mel bins (80), ``D`` width
of the DiT. Module names are those of the checkpoint's keys.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NOISE_FRAMES = 15000
_CONV_POSITION_CONTEXT_FRAMES = 30


@dataclass(frozen=True)
class FlowConfig:
    """Sizes and settings; the defaults are those of the official checkpoint."""

    vocab_size: int = 6561
    mel_bins: int = 80
    speaker_dim: int = 192
    frames_per_code: int = 2
    lookahead_codes: int = 3
    lookahead_channels: int = 1024
    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: int = 2
    chunk_frames: int = 50
    guidance_rate: float = 0.7
    solver_steps: int = 10


@dataclass(frozen=True)
class ChunkSchedule:
    """The chunk mask: a frame sees its own chunk and what is left of it.

    Attributes:
        first_codes: length of the first chunk.
        growth: each chunk is this many times as long as the one before ...
        max_codes: ... up to this length.
        left_limit_codes: what is visible before a chunk's start; None for all.
    """

    first_codes: int = 7
    growth: float = 2.0
    max_codes: int = 25
    left_limit_codes: int | None = 100

    def __post_init__(self) -> None:
        if min(self.first_codes, self.max_codes) < 1 or self.growth < 1:
            raise ValueError("chunks need at least one code and a growth of at least 1")
        if self.left_limit_codes is not None and self.left_limit_codes < 0:
            raise ValueError("left_limit_codes must be None or at least 0")

    def chunk_codes(self, index: int) -> int:
        """Length of the chunk with this index."""
        # The exponent is bounded so that long replies cannot overflow the power.
        grown = self.first_codes * self.growth ** min(index, 64)
        return int(min(grown, self.max_codes))

    def mask(self, frames: int, frames_per_code: int = 2) -> Tensor:
        """Boolean [frames, frames]: may frame i (row) see frame j (column)?"""
        allowed = torch.zeros(frames, frames, dtype=torch.bool)
        start, index = 0, 0
        while start < frames:
            stop = start + self.chunk_codes(index) * frames_per_code
            left = 0
            if self.left_limit_codes is not None:
                left = max(0, start - self.left_limit_codes * frames_per_code)
            allowed[start:stop, left:stop] = True
            start, index = stop, index + 1
        return allowed


@dataclass
class LayerCache:
    """Keys and values [B, L, D] of the frames a later chunk may see."""

    key: Tensor
    value: Tensor


@dataclass
class StepCache:
    """What one solver step keeps between chunks."""

    conv_inputs: list[Tensor] = field(default_factory=list)  # [B, D, 30] of both convolutions
    layers: list[LayerCache] = field(default_factory=list)


class _TimeEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp: Any = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """[B] in 0..1 -> [B, D]."""
        half = 128
        exponent = torch.arange(half, dtype=torch.float32, device=t.device) / (half - 1)
        angles = 1000 * t[:, None] * torch.exp(-math.log(10000) * exponent)
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.time_mlp(table.to(self.time_mlp[0].weight))


class _ConvPosition(nn.Module):
    """Two causal grouped convolutions that give the frames their order."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        kernel = _CONV_POSITION_CONTEXT_FRAMES + 1
        self.conv1 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=16), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=16), nn.Mish())

    def forward(self, hidden: Tensor, cache: StepCache | None) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        hidden = hidden.transpose(1, 2)
        kept = []
        for index, conv in enumerate((self.conv1, self.conv2)):
            if cache is not None and cache.conv_inputs:
                hidden = torch.cat([cache.conv_inputs[index], hidden], dim=2)
            else:
                hidden = F.pad(hidden, (_CONV_POSITION_CONTEXT_FRAMES, 0))
            kept.append(hidden[:, :, -_CONV_POSITION_CONTEXT_FRAMES:])
            hidden = conv(hidden)
        if cache is not None:
            cache.conv_inputs = kept
        return hidden.transpose(1, 2)


class _InputEmbedding(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(4 * config.mel_bins, config.dim)
        self.conv_pos_embed = _ConvPosition(config.dim)


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
        """[B, L, D] -> [B, L, D]; the cache's frames stand before those given."""
        query = _rotate(self.to_q(hidden), rotary, self.dim_head)
        key = _rotate(self.to_k(hidden), rotary, self.dim_head)
        value = self.to_v(hidden)
        if cache is not None:
            key = cache.key = torch.cat([cache.key, key], dim=1)
            value = cache.value = torch.cat([cache.value, value], dim=1)
        query, key, value = (
            x.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)
            for x in (query, key, value)
        )
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, rotary: tuple[Tensor, Tensor], width: int) -> Tensor:
    """Rotate channels 2k and 2k+1 of the first head only: the checkpoint was trained so.

    The original turns the rows before it splits them into heads, so the other heads know no
    positions.
    """
    cos, sin = rotary
    first = x[..., :width]
    turned = torch.stack([-first[..., 1::2], first[..., ::2]], dim=-1).flatten(-2)
    return torch.cat([(first * cos + turned * sin).to(x.dtype), x[..., width:]], dim=-1)


class _Block(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        dim, inner = config.dim, config.dim * config.ff_mult
        self.attn_norm = _Modulation(dim, 6)
        self.attn = _Attention(config)
        self.ff: Any = nn.Module()
        self.ff.ff = nn.Sequential(
            nn.Sequential(nn.Linear(dim, inner), nn.GELU("tanh")),
            nn.Identity(),
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
        """hidden [B, L, D], modulation [B or 1, 1, 6*D] -> [B, L, D]."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        attended = self.attn(_norm(hidden) * (1 + scale_a) + shift_a, rotary, mask, cache)
        if valid is not None:
            attended = attended.masked_fill(~valid[..., None], 0)
        hidden = hidden + gate_a * attended
        return hidden + gate_f * self.ff.ff(_norm(hidden) * (1 + scale_f) + shift_f)


def _norm(hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden, hidden.shape[-1:], eps=1e-6)


class DiT(nn.Module):
    """Velocity estimator: a diffusion transformer with adaptive layer norm."""

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
        """Modulation of every block [B, 1, 6*D] and, last, of the output [B, 1, 2*D] at times t.

        They depend on nothing else, so a solver with fixed times computes them once.
        """
        time = F.silu(self.time_embed(t))[:, None]
        return [b.attn_norm.linear(time) for b in self.transformer_blocks] + [
            self.norm_out.linear(time)
        ]

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
            x, cond, mu: [B, L, M]; speaker: [B, M].
            modulations: of :meth:`modulations`.
            mask: bool [L, L] or [B, 1, L, L], which frames see which; None for all.
            valid: bool [B, L], false where a row is padded.
            cache: of the frames before; extended in place.
            offset_frames: position of the first frame.

        Returns:
            [B, L, M].
        """
        if valid is not None:
            keys = valid[:, None, None, :]
            mask = keys if mask is None else mask & keys
        speakers = speaker[:, None].expand(-1, x.shape[1], -1)
        hidden = self.input_embed.proj(torch.cat([x, cond, mu, speakers], dim=-1))
        hidden = hidden + self.input_embed.conv_pos_embed(hidden, cache)
        positions = torch.arange(x.shape[1], device=x.device) + offset_frames
        angles = positions[:, None] * self.rotary_embed.inv_freq.float()
        angles = angles.repeat_interleave(2, dim=-1)
        rotary = (angles.cos(), angles.sin())
        if cache is not None and not cache.layers:
            inner = self.transformer_blocks[0].attn.to_k.out_features
            empty = hidden.new_zeros(len(hidden), 0, inner)
            cache.layers = [LayerCache(empty, empty) for _ in self.transformer_blocks]
        for index, block in enumerate(self.transformer_blocks):
            layer = None if cache is None else cache.layers[index]
            hidden = block(hidden, modulations[index], rotary, mask, valid, layer)
        scale, shift = modulations[-1].chunk(2, dim=-1)
        return self.proj_out(_norm(hidden) * (1 + scale) + shift)


class PreLookahead(nn.Module):
    """Mixes every code with the three after it."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.lookahead = config.lookahead_codes
        self.conv1 = nn.Conv1d(config.mel_bins, config.lookahead_channels, self.lookahead + 1)
        self.conv2 = nn.Conv1d(config.lookahead_channels, config.mel_bins, 3)

    def forward(self, codes: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embedded codes with their lookahead on the right -> output and the next context.

        Args:
            codes: [B, T + 3, M]; zeros stand for the lookahead at the end of a reply.
            context: [B, channels, 2], what the second convolution saw before; None at the start.

        Returns:
            [B, T, M] and the context [B, channels, 2].
        """
        hidden = F.leaky_relu(self.conv1(codes.transpose(1, 2)), 0.01)
        if context is None:
            context = hidden.new_zeros(*hidden.shape[:2], 2)
        hidden = torch.cat([context, hidden], dim=2)
        out = self.conv2(hidden).transpose(1, 2) + codes[:, : codes.shape[1] - self.lookahead]
        return out, hidden[:, :, -2:]


class _Decoder(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = DiT(config)


@dataclass
class FlowState:
    """Caches of one running reply."""

    lookahead_context: Tensor | None = None
    steps: list[StepCache] = field(default_factory=list)
    frames: int = 0


class Flow(nn.Module):
    """Codes and a speaker vector -> mel, by ten Euler steps with guidance."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.mel_bins)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.mel_bins)
        self.pre_lookahead_layer = PreLookahead(config)
        self.decoder = _Decoder(config)
        self._modulations: list[list[Tensor]] = []

    @torch.no_grad()
    def prepare(self) -> None:
        """Compute the modulation of the solver's fixed times; call it once the weights are in."""
        times, _ = self._schedule()
        weight = self.spk_embed_affine_layer.weight
        self._modulations = [
            self.decoder.estimator.modulations(t[None].to(weight.device)) for t in times
        ]

    def _schedule(self) -> tuple[list[Tensor], list[Tensor]]:
        """Times and step widths in float32; the times are sums of the widths, as in training."""
        steps = self.config.solver_steps
        table = 1 - torch.cos(torch.linspace(0, 1, steps + 1) * 0.5 * torch.pi)
        t, dt = table[0], table[1] - table[0]
        times, widths = [], []
        for index in range(1, steps + 1):
            times.append(t)
            widths.append(dt)
            t = t + dt
            if index < steps:
                dt = table[index + 1] - t
        return times, widths

    def condition(
        self, codes: Tensor, context: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor]:
        """The first ``count`` of codes [B, T] -> mu [B, 2 * count, M] and the next context.

        The codes after them are lookahead; past the reply's end it is zero.
        """
        embedded = self.input_embedding(codes.clamp(min=0))
        needed = count + self.config.lookahead_codes
        embedded = F.pad(embedded, (0, 0, 0, needed - embedded.shape[1]))
        mixed, context = self.pre_lookahead_layer(embedded, context)
        return mixed.repeat_interleave(self.config.frames_per_code, dim=1), context

    def speaker(self, embedding: Tensor) -> Tensor:
        """Speaker vector [B, 192] -> [B, M]."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))

    @torch.no_grad()
    def solve(
        self,
        mu: Tensor,
        speaker: Tensor,
        noise: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
        caches: list[StepCache] | None = None,
        offset_frames: int = 0,
    ) -> Tensor:
        """Integrate from noise to mel with classifier-free guidance.

        Args:
            mu, noise, cond: [1, L, M]; speaker: [1, M]; cond holds a prompt's mel or zeros.
            mask: bool [L, L]; None for full attention.
            caches: one per solver step, for frames that follow earlier ones.

        Returns:
            mel [1, L, M] in float32.
        """
        if not self._modulations:
            self.prepare()
        rate = self.config.guidance_rate
        cond = torch.zeros_like(mu) if cond is None else cond
        mu, cond, speaker = (torch.cat([v, torch.zeros_like(v)]) for v in (mu, cond, speaker))
        x = noise.to(mu.dtype)
        for index, width in enumerate(self._schedule()[1]):
            guided, free = self.decoder.estimator(
                x.expand(2, -1, -1), cond, mu, speaker, self._modulations[index],
                mask=mask,
                cache=None if caches is None else caches[index],
                offset_frames=offset_frames,
            ).chunk(2)
            x = x + float(width) * ((1 + rate) * guided - rate * free)
        return x.float()

    @torch.no_grad()
    def one_shot(
        self,
        codes: Tensor,
        embedding: Tensor,
        noise: Tensor,
        prompt_codes: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        schedule: ChunkSchedule | None = None,
        final: bool = True,
    ) -> Tensor:
        """A whole reply at once: codes [1, T] -> mel [1, M, L].

        Args:
            embedding: speaker vector [1, 192].
            noise: [1, M, >= frames], column = frame counted from the prompt's start.
            prompt_codes, prompt_mel: [1, P] and [1, 2P, M] of a voice to continue.
            schedule: the chunk mask; None for full attention.
            final: false if the last three codes are lookahead only.
        """
        if prompt_codes is not None:
            codes = torch.cat([prompt_codes, codes], dim=1)
        count = codes.shape[1] - (0 if final else self.config.lookahead_codes)
        mu, _ = self.condition(codes, None, count)
        cond = torch.zeros_like(mu)
        prompt_frames = 0
        if prompt_mel is not None:
            prompt_frames = prompt_mel.shape[1]
            cond[:, :prompt_frames] = prompt_mel
        mask = None if schedule is None else schedule.mask(
            mu.shape[1], self.config.frames_per_code
        ).to(mu.device)
        start = noise[:, :, : mu.shape[1]].transpose(1, 2).to(mu.device)
        mel = self.solve(mu, self.speaker(embedding), start, cond, mask)
        return mel[:, prompt_frames:].transpose(1, 2)

    @torch.no_grad()
    def next_chunk(
        self,
        state: FlowState,
        codes: Tensor,
        speaker: Tensor,
        noise: Tensor,
        schedule: ChunkSchedule,
    ) -> Tensor:
        """The next chunk of a running reply -> mel [1, M, L].

        Equal to the frames of :meth:`one_shot` under the schedule's mask.

        Args:
            codes: [1, T + lookahead] the chunk's codes and up to three that follow; fewer only
                at the end of the reply.
            noise: [1, M, L = 2T] of the chunk's frames.
        """
        count = noise.shape[2] // self.config.frames_per_code
        mu, state.lookahead_context = self.condition(codes, state.lookahead_context, count)
        if not state.steps:
            state.steps = [StepCache() for _ in range(self.config.solver_steps)]
        if schedule.left_limit_codes is not None:
            limit = schedule.left_limit_codes * self.config.frames_per_code
            for step in state.steps:
                for layer in step.layers:
                    start = max(0, layer.key.shape[1] - limit)
                    # A copy: a view would keep the frames before it in memory.
                    layer.key = layer.key[:, start:].clone()
                    layer.value = layer.value[:, start:].clone()
        mel = self.solve(
            mu, speaker, noise.transpose(1, 2), caches=state.steps, offset_frames=state.frames
        )
        state.frames += mu.shape[1]
        return mel.transpose(1, 2)
