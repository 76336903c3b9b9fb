# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Flow matching from speech codes to mel: conditioning, Euler solver, chunk by chunk, training.

Shapes: ``B`` rows, ``T`` codes (25 Hz), ``L`` mel frames (50 Hz), ``M`` mel bins (80). Module
names are those of the checkpoint's keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.cosyvoice3.dit import CONV_GROUPS, DiT, StepCache


@dataclass(frozen=True)
class FlowConfig:
    """Sizes and settings; the defaults are those of the official checkpoint.

    ``solver_steps`` and ``temperature`` (scale of the start noise) are ours: the official yaml
    lacks them, and their defaults are what the original does.
    """

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
    dropped_condition_rate: float = 0.2
    sigma_min: float = 1e-6
    solver_steps: int = 10
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}, not a positive number")
        if self.dim % CONV_GROUPS:
            raise ValueError(f"the estimator's dim {self.dim} is no multiple of {CONV_GROUPS}")
        if self.dim_head % 2:
            raise ValueError(f"dim_head {self.dim_head} is odd; rotation needs pairs of channels")


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
    max_codes: int = 50
    left_limit_codes: int | None = 100

    def __post_init__(self) -> None:
        if min(self.first_codes, self.max_codes) < 1 or not 1 <= self.growth < float("inf"):
            raise ValueError("chunks need at least one code and a finite growth of at least 1")
        if self.left_limit_codes is not None and self.left_limit_codes < 0:
            raise ValueError("left_limit_codes must be None or at least 0")

    def chunk_codes(self, index: int) -> int:
        """Length of the chunk with this index."""
        growing = 0.0
        if self.growth > 1 and self.max_codes > self.first_codes:
            growing = math.log(self.max_codes / self.first_codes) / math.log(self.growth)
        # The exponent is bounded so that long replies cannot overflow the power.
        grown = self.first_codes * self.growth ** min(index, math.ceil(growing))
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


@dataclass(frozen=True)
class SolverStep:
    """One Euler step: its width, and the estimator's modulation at its time."""

    width: float
    modulations: list[Tensor]


@dataclass
class FlowState:
    """Caches of one running reply, made by :meth:`Flow.new_state`."""

    steps: list[StepCache] = field(default_factory=list)
    lookahead_context: Tensor | None = None
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
        self._frozen_steps: list[SolverStep] | None = None

    @property
    def frozen(self) -> bool:
        """Whether :meth:`freeze` was called."""
        return self._frozen_steps is not None

    def freeze(self) -> Flow:
        """Make ready for use only: the solver's times are fixed, so the time layers are dropped.

        Call it once the weights are in and on their device. Such a flow cannot be trained or
        saved.
        """
        self._frozen_steps = self.solver_steps()
        self.decoder.estimator.drop_time_layers()
        return self.eval().requires_grad_(False)

    @torch.no_grad()
    def solver_steps(self) -> list[SolverStep]:
        """Widths and modulations of the Euler steps, on the weights' device."""
        times, widths = self.times()
        device = self.spk_embed_affine_layer.weight.device
        tables = self.decoder.estimator.modulations(times.to(device))
        return [
            SolverStep(width, [table[index : index + 1] for table in tables])
            for index, width in enumerate(widths.tolist())
        ]

    def times(self) -> tuple[Tensor, Tensor]:
        """Times and widths of the steps, float32 [steps].

        The estimator is fed sums of the widths, not the table: they differ in the last digits.
        """
        steps = self.config.solver_steps
        table = _cosine_time(torch.linspace(0, 1, steps + 1))
        t = table[0]
        times, widths = [], []
        for index in range(steps):
            times.append(t)
            widths.append(table[index + 1] - t)
            t = t + widths[-1]
        return torch.stack(times), torch.stack(widths)

    def condition(
        self, codes: Tensor, context: Tensor | None, count: int, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The first ``count`` of codes [B, T] -> mu [B, 2 * count, M] and the next context.

        The codes after them are lookahead; past the reply's end it is zero.

        Args:
            valid: bool [B, T], false where a row is padded; None for nowhere.
        """
        embedded = self.input_embedding(codes.clamp(min=0))
        if valid is not None:
            embedded = embedded * valid[..., None]
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
        state: FlowState | None = None,
    ) -> Tensor:
        """Integrate from noise to mel with classifier-free guidance.

        Args:
            mu, noise, cond: [1, L, M]; speaker: [1, M]; cond holds a prompt's mel or zeros.
            mask: bool [L, L]; None for full attention.
            state: of the frames before, whose caches are extended; None at the start.

        Returns:
            mel [1, L, M].
        """
        rate = self.config.guidance_rate
        cond = torch.zeros_like(mu) if cond is None else cond
        if rate:
            mu, cond, speaker = (torch.cat([v, torch.zeros_like(v)]) for v in (mu, cond, speaker))
        x = noise.to(mu) * self.config.temperature
        for index, step in enumerate(self._frozen_steps or self.solver_steps()):
            velocity = self.decoder.estimator(
                x.expand(len(mu), -1, -1),
                cond,
                mu,
                speaker,
                step.modulations,
                mask=mask,
                cache=None if state is None else state.steps[index],
                offset_frames=0 if state is None else state.frames,
            )
            if rate:
                guided, free = velocity.chunk(2)
                velocity = (1 + rate) * guided - rate * free
            x = x + step.width * velocity
        return x

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
        mask = None
        if schedule is not None:
            mask = schedule.mask(mu.shape[1], self.config.frames_per_code)
            # Attention without a mask takes faster kernels.
            mask = None if bool(mask.all()) else mask.to(mu.device)
        start = noise[:, :, : mu.shape[1]].transpose(1, 2)
        mel = self.solve(mu, self.speaker(embedding), start, cond, mask)
        return mel[:, prompt_frames:].transpose(1, 2)

    def new_state(self, schedule: ChunkSchedule) -> FlowState:
        """State of a reply that has not begun."""
        limit = schedule.left_limit_codes
        frames = None if limit is None else limit * self.config.frames_per_code
        return FlowState([StepCache(frames) for _ in range(self.config.solver_steps)])

    @torch.no_grad()
    def next_chunk(self, state: FlowState, codes: Tensor, speaker: Tensor, noise: Tensor) -> Tensor:
        """The next chunk of a running reply -> mel [1, M, L].

        Equal to the frames of :meth:`one_shot` under the mask of the state's schedule.

        Args:
            codes: [1, T + lookahead] the chunk's codes and up to three that follow; fewer only
                at the end of the reply.
            speaker: [1, M], of :meth:`speaker`.
            noise: [1, M, L = 2T] of the chunk's frames.
        """
        count = noise.shape[2] // self.config.frames_per_code
        mu, state.lookahead_context = self.condition(codes, state.lookahead_context, count)
        mel = self.solve(mu, speaker, noise.transpose(1, 2), state=state)
        state.frames += mu.shape[1]
        return mel.transpose(1, 2)

    def loss(
        self,
        codes: Tensor,
        mel: Tensor,
        embedding: Tensor,
        code_counts: Tensor | None = None,
        schedules: Sequence[ChunkSchedule | None] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Conditional flow matching loss (arXiv 2210.02747) on straight paths from noise to mel.

        Per row: t is drawn uniformly and bent as the solver's times are, 1 - cos(t * pi / 2); a
        prompt of up to 30 % of the mel is given in half of the rows; all conditions are dropped
        together in ``dropped_condition_rate`` of them. Per batch, one schedule is drawn.

        Args:
            codes: [B, T]; mel: [B, 2T, M]; embedding: [B, 192].
            code_counts: [B], codes before the padding; None for all.
            schedules: masks to draw from; by default full attention and the checkpoint's chunks,
                half of the batches each.
            generator: of the random numbers, on the device of the codes.

        Returns:
            Mean squared error of the velocity over valid frames and bins.
        """
        rows, total = mel.shape[:2]
        ratio = self.config.frames_per_code
        if total != ratio * codes.shape[1]:
            raise ValueError(f"{codes.shape[1]} codes need {ratio * codes.shape[1]} mel frames")

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=mel.device)

        valid = valid_codes = None
        frames = torch.full((rows,), total, device=mel.device)
        if code_counts is not None:
            frames = code_counts * ratio
            valid = torch.arange(total, device=mel.device) < frames[:, None]
            valid_codes = valid[:, ::ratio]
        mu, _ = self.condition(codes, None, codes.shape[1], valid_codes)
        prompt_frames = frames * 0.3 * uniform(rows) * (uniform(rows) < 0.5)
        prompted = torch.arange(total, device=mel.device) < prompt_frames[:, None].floor()
        kept = (uniform(rows, 1) >= self.config.dropped_condition_rate).to(mel.dtype)
        if schedules is None:
            chunk = self.config.chunk_frames // ratio
            schedules = (None, ChunkSchedule(chunk, 1.0, chunk, None))
        drawn = torch.randint(len(schedules), (1,), generator=generator, device=mel.device).item()
        schedule = schedules[int(drawn)]
        t = _cosine_time(uniform(rows))
        noise = torch.randn(mel.shape, generator=generator, device=mel.device, dtype=mel.dtype)
        at, rest = t[:, None, None], (1 - self.config.sigma_min) * noise
        velocity = self.decoder.estimator(
            noise - at * rest + at * mel,
            mel * prompted[..., None] * kept[..., None],
            mu * kept[..., None],
            self.speaker(embedding) * kept,
            self.decoder.estimator.modulations(t),
            mask=None if schedule is None else schedule.mask(total, ratio).to(mel.device),
            valid=valid,
        )
        error = (velocity - (mel - rest)).square().mean(dim=2)
        return error.mean() if valid is None else error[valid].mean()


def _cosine_time(t: Tensor) -> Tensor:
    """More steps near the noise, fewer near the mel."""
    return 1 - torch.cos(t * 0.5 * torch.pi)
