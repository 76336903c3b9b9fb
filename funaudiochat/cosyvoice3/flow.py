# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Flow matching from speech tokens to mel: conditioning, Euler solver, streaming, training loss.

Shapes: ``B`` rows, ``T`` speech tokens (25 Hz), ``L`` mel frames (50 Hz), ``M`` mel bins (80).
Module names are those of the checkpoint's keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import ChunkSchedule, FlowConfig
from funaudiochat.cosyvoice3.dit import DiT, FrameCache, Modulation


class PreLookahead(nn.Module):
    """Mixes every speech token with the three after it."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.lookahead = config.lookahead_tokens
        self.conv1 = nn.Conv1d(config.mel_bins, config.lookahead_channels, self.lookahead + 1)
        self.conv2 = nn.Conv1d(config.lookahead_channels, config.mel_bins, 3)

    def forward(self, tokens: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mix embedded tokens with their lookahead on the right.

        Args:
            tokens: [B, T + 3, M]; zeros stand for the lookahead at the end of a reply.
            context: [B, channels, 2], the previous inputs of the second convolution; None at the
                start.

        Returns:
            [B, T, M] and the next context [B, channels, 2].
        """
        hidden = F.leaky_relu(self.conv1(tokens.transpose(1, 2)), 0.01)
        if context is None:
            context = hidden.new_zeros(*hidden.shape[:2], 2)
        hidden = torch.cat([context, hidden], dim=2)
        out = self.conv2(hidden).transpose(1, 2) + tokens[:, : tokens.shape[1] - self.lookahead]
        return out, hidden[:, :, -2:]


class _Decoder(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = DiT(config)


@dataclass(frozen=True)
class SolverStep:
    """One Euler step: its width and the estimator's modulation at its time."""

    width: float
    modulations: list[Modulation]


@dataclass
class FlowState:
    """Caches of one running reply, made by :meth:`Flow.new_state`."""

    cache: FrameCache
    lookahead_context: Tensor | None = None
    frames: int = 0


@dataclass
class FlowChunk:
    """A chunk of a running reply on its way from noise to mel; see :meth:`Flow.begin_chunk`."""

    state: FlowState
    conditions: Tensor  # [branches, L, D]
    rotary: Tensor
    x: Tensor  # [1, L, M], mel once it is solved
    steps_taken: int = 0


class Flow(nn.Module):
    """Maps speech tokens and a speaker vector to mel by an Euler solver with guidance."""

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
        """Prepare for inference: the solver's times are fixed, so the time layers are dropped.

        Call it after the weights are loaded and on their device. A frozen flow cannot be trained
        or saved.
        """
        self._frozen_steps = self.solver_steps()
        self.decoder.estimator.freeze()
        return self.eval().requires_grad_(False)

    @torch.no_grad()
    def solver_steps(self) -> list[SolverStep]:
        """Compute the widths and modulations of the Euler steps, on the weights' device."""
        times, widths = self.times()
        device = self.spk_embed_affine_layer.weight.device
        tables = self.decoder.estimator.modulations(times.to(device))
        return [
            SolverStep(width, [[part[index, 0] for part in table] for table in tables])
            for index, width in enumerate(widths.tolist())
        ]

    def times(self) -> tuple[Tensor, Tensor]:
        """Compute the times and widths of the steps, float32 [steps].

        The times are sums of the widths, not entries of the table: the last digits differ.
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
        self, tokens: Tensor, context: Tensor | None, count: int, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map the first ``count`` of tokens [B, T] to mu [B, 2 * count, M] and the next context.

        The tokens after them are lookahead, which is zero past the end of the reply.

        Args:
            tokens: [B, T].
            context: context returned for the preceding tokens; None at the start.
            count: number of tokens to map.
            valid: bool [B, T], false where a row is padded; None if no row is.
        """
        embedded = self.input_embedding(tokens.clamp(min=0))
        if valid is not None:
            embedded = embedded * valid[..., None]
        needed = count + self.config.lookahead_tokens
        embedded = F.pad(embedded, (0, 0, 0, needed - embedded.shape[1]))
        mixed, context = self.pre_lookahead_layer(embedded, context)
        return mixed.repeat_interleave(self.config.frames_per_token, dim=1), context

    def speaker(self, embedding: Tensor) -> Tensor:
        """Project a speaker vector [B, 192] to [B, M]."""
        return self.spk_embed_affine_layer(F.normalize(embedding, dim=1))

    @torch.no_grad()
    def solve(
        self,
        mu: Tensor,
        speaker: Tensor,
        noise: Tensor,
        cond: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Integrate from noise to mel with classifier-free guidance.

        Args:
            mu: condition by the speech tokens [1, L, M].
            speaker: projected speaker vector [1, M].
            noise: [1, L, M].
            cond: mel of a prompt, zero elsewhere [1, L, M]; None without a prompt.
            mask: bool [L, L]; None for full attention.

        Returns:
            mel [1, L, M].
        """
        conditions = self._conditions(mu, speaker, cond)
        x = noise.to(mu) * self.config.temperature
        for step in self._frozen_steps or self.solver_steps():
            x = self._moved(x, step, self.decoder.estimator(x, conditions, step.modulations, mask))
        return x

    def _conditions(self, mu: Tensor, speaker: Tensor, cond: Tensor | None = None) -> Tensor:
        """Project the conditions [1, L, M] of a reply to [branches, L, D]: guided, then free."""
        cond = torch.zeros_like(mu) if cond is None else cond
        if self.config.cfg_scale:
            mu, cond, speaker = (torch.cat([v, torch.zeros_like(v)]) for v in (mu, cond, speaker))
        return self.decoder.estimator.conditions(cond, mu, speaker)

    def _moved(self, x: Tensor, step: SolverStep, velocity: Tensor) -> Tensor:
        """Take one Euler step from x [R, L, M] with the velocity of all branches."""
        rate = self.config.cfg_scale
        if rate:
            guided, free = velocity.chunk(2)
            velocity = (1 + rate) * guided - rate * free
        return x + step.width * velocity

    @torch.no_grad()
    def one_shot(
        self,
        tokens: Tensor,
        embedding: Tensor,
        noise: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        schedule: ChunkSchedule | None = None,
        final: bool = True,
    ) -> Tensor:
        """Compute the mel of a whole reply: tokens [1, T] -> mel [1, M, L].

        Args:
            tokens: [1, T].
            embedding: speaker vector [1, 192].
            noise: [1, M, at least L], indexed by frame from the start of the prompt.
            prompt_tokens: tokens [1, P] of a recording to continue.
            prompt_mel: its mel [1, 2P, M].
            schedule: the chunk mask; None for full attention.
            final: false if the last three tokens are lookahead only.
        """
        if prompt_tokens is not None:
            tokens = torch.cat([prompt_tokens, tokens], dim=1)
        count = tokens.shape[1] - (0 if final else self.config.lookahead_tokens)
        mu, _ = self.condition(tokens, None, count)
        cond = torch.zeros_like(mu)
        prompt_frames = 0
        if prompt_mel is not None:
            prompt_frames = prompt_mel.shape[1]
            cond[:, :prompt_frames] = prompt_mel
        mask = None
        if schedule is not None:
            mask = schedule.mask(mu.shape[1], self.config.frames_per_token)
            # Attention without a mask takes faster kernels.
            mask = None if bool(mask.all()) else mask.to(mu.device)
        start = noise[:, :, : mu.shape[1]].transpose(1, 2)
        mel = self.solve(mu, self.speaker(embedding), start, cond, mask)
        return mel[:, prompt_frames:].transpose(1, 2)

    def new_state(self, schedule: ChunkSchedule) -> FlowState:
        """Return the state of a reply that has not begun."""
        limit = schedule.left_limit_tokens
        frames = None if limit is None else limit * self.config.frames_per_token
        return FlowState(FrameCache(self.config, frames, self.decoder.estimator.proj_out.weight))

    @torch.no_grad()
    def begin_chunk(
        self, state: FlowState, tokens: Tensor, speaker: Tensor, noise: Tensor
    ) -> FlowChunk:
        """Begin the next chunk of a running reply; :meth:`solve_step` then solves it.

        Its mel equals the frames of :meth:`one_shot` under the mask of the state's schedule.

        Args:
            state: state of the reply, updated in place. It has one chunk at a time.
            tokens: [1, T + lookahead], the chunk's tokens and the three that follow; fewer only at
                the end of the reply.
            speaker: [1, M], from :meth:`speaker`.
            noise: [1, M, L = 2T] of the chunk's frames.
        """
        frames = noise.shape[2]
        count = frames // self.config.frames_per_token
        mu, state.lookahead_context = self.condition(tokens, state.lookahead_context, count)
        state.cache.make_room(frames)
        return FlowChunk(
            state,
            self._conditions(mu, speaker),
            self.decoder.estimator.rotary(state.frames, frames),
            noise.transpose(1, 2).to(mu) * self.config.temperature,
        )

    @torch.no_grad()
    def solve_step(self, chunks: Sequence[FlowChunk]) -> bool:
        """Take one solver step of chunks of different replies, each as it would be taken alone.

        Args:
            chunks: of equal length, with equally many steps taken.

        Returns:
            Whether they are solved: their ``x`` is then mel.
        """
        index, frames = chunks[0].steps_taken, chunks[0].x.shape[1]
        steps = self._frozen_steps or self.solver_steps()
        step, caches = steps[index], [chunk.state.cache for chunk in chunks]
        x, conditions, rotary = chunks[0].x, chunks[0].conditions, chunks[0].rotary
        if len(chunks) > 1:
            x = torch.cat([chunk.x for chunk in chunks])
            conditions = torch.stack([c.conditions for c in chunks], dim=1).flatten(0, 1)
            rotary = torch.stack([c.rotary for c in chunks])
            rotary = rotary.repeat(len(conditions) // len(chunks), 1, 1, 1)
        velocity = self.decoder.estimator(
            x, conditions, step.modulations, rotary=rotary, caches=caches, step=index
        )
        moved = self._moved(x, step, velocity)
        solved = index + 1 == len(steps)
        for chunk, row in zip(chunks, moved.split(1), strict=True):
            chunk.x, chunk.steps_taken = row, index + 1
            if solved:
                chunk.state.cache.keep(frames)
                chunk.state.frames += frames
        return solved

    def loss(
        self,
        tokens: Tensor,
        mel: Tensor,
        embedding: Tensor,
        token_counts: Tensor | None = None,
        schedules: Sequence[ChunkSchedule | None] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Compute the conditional flow matching loss on straight paths (arXiv 2210.02747).

        Per row: t is drawn uniformly and warped as the solver's times are, 1 - cos(t * pi / 2);
        half of the rows get a prompt of up to 30 % of the mel; all conditions are dropped
        together with probability ``cfg_dropout``. Per batch, one schedule is drawn.

        Args:
            tokens: [B, T].
            mel: [B, 2T, M].
            embedding: speaker vectors [B, 192].
            token_counts: [B], number of tokens before the padding; None if no row is padded.
            schedules: masks to draw from, None for full attention; by default full attention and
                the checkpoint's chunks, each for half of the batches.
            generator: source of the random numbers, on the device of the tokens.

        Returns:
            Mean squared error of the velocity over valid frames and bins.
        """
        rows, total = mel.shape[:2]
        ratio = self.config.frames_per_token
        if total != ratio * tokens.shape[1]:
            raise ValueError(
                f"{tokens.shape[1]} speech tokens need {ratio * tokens.shape[1]} mel frames, "
                f"but the mel has {total}"
            )

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=mel.device)

        valid = valid_tokens = None
        frames = torch.full((rows,), total, device=mel.device)
        if token_counts is not None:
            frames = token_counts * ratio
            valid = torch.arange(total, device=mel.device) < frames[:, None]
            valid_tokens = valid[:, ::ratio]
        mu, _ = self.condition(tokens, None, tokens.shape[1], valid_tokens)
        prompt_frames = frames * 0.3 * uniform(rows) * (uniform(rows) < 0.5)
        prompted = torch.arange(total, device=mel.device) < prompt_frames[:, None].floor()
        kept = (uniform(rows, 1) >= self.config.cfg_dropout).to(mel.dtype)
        if schedules is None:
            chunk = self.config.chunk_frames // ratio
            schedules = (None, ChunkSchedule(chunk, 1.0, chunk, None))
        drawn = torch.randint(len(schedules), (1,), generator=generator, device=mel.device).item()
        schedule = schedules[int(drawn)]
        t = _cosine_time(uniform(rows))
        noise = torch.randn(mel.shape, generator=generator, device=mel.device, dtype=mel.dtype)
        at, rest = t[:, None, None], (1 - self.config.sigma_min) * noise
        estimator = self.decoder.estimator
        velocity = estimator(
            noise - at * rest + at * mel,
            estimator.conditions(
                mel * prompted[..., None] * kept[..., None],
                mu * kept[..., None],
                self.speaker(embedding) * kept,
            ),
            estimator.modulations(t),
            mask=None if schedule is None else schedule.mask(total, ratio).to(mel.device),
            valid=valid,
        )
        error = (velocity - (mel - rest)).square().mean(dim=2)
        return error.mean() if valid is None else error[valid].mean()


def _cosine_time(t: Tensor) -> Tensor:
    """Warp times so that steps are smaller near the noise and larger near the mel."""
    return 1 - torch.cos(t * 0.5 * torch.pi)
