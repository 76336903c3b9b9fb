# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Flow matching from speech tokens to mel: conditioning, Euler solver, streaming, training loss.

Shapes: ``B`` rows, ``T`` speech tokens (25 Hz), ``L`` mel frames (50 Hz), ``M`` mel bins (80).
Module names are those of the checkpoint's keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import ChunkSchedule, FlowConfig
from funaudiochat.cosyvoice3.dit import DiT, StepCache


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
    modulations: list[Tensor]


@dataclass
class FlowState:
    """Caches of one running reply, made by :meth:`Flow.new_state`."""

    steps: list[StepCache] = field(default_factory=list)
    lookahead_context: Tensor | None = None
    frames: int = 0


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
        self.decoder.estimator.drop_time_layers()
        return self.eval().requires_grad_(False)

    @torch.no_grad()
    def solver_steps(self) -> list[SolverStep]:
        """Compute the widths and modulations of the Euler steps, on the weights' device."""
        times, widths = self.times()
        device = self.spk_embed_affine_layer.weight.device
        tables = self.decoder.estimator.modulations(times.to(device))
        return [
            SolverStep(width, [table[index : index + 1] for table in tables])
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
        state: FlowState | None = None,
    ) -> Tensor:
        """Integrate from noise to mel with classifier-free guidance.

        Args:
            mu: condition by the speech tokens [1, L, M].
            speaker: projected speaker vector [1, M].
            noise: [1, L, M].
            cond: mel of a prompt, zero elsewhere [1, L, M]; None without a prompt.
            mask: bool [L, L]; None for full attention.
            state: state of the preceding frames, whose caches are extended; None for a whole reply.

        Returns:
            mel [1, L, M].
        """
        rate = self.config.cfg_scale
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
        return FlowState([StepCache(frames) for _ in range(self.config.solver_steps)])

    @torch.no_grad()
    def next_chunk(
        self, state: FlowState, tokens: Tensor, speaker: Tensor, noise: Tensor
    ) -> Tensor:
        """Compute the mel [1, M, L] of the next chunk of a running reply.

        Equal to the frames of :meth:`one_shot` under the mask of the state's schedule.

        Args:
            state: state of the reply, updated in place.
            tokens: [1, T + lookahead], the chunk's tokens and the three that follow; fewer only at
                the end of the reply.
            speaker: [1, M], from :meth:`speaker`.
            noise: [1, M, L = 2T] of the chunk's frames.
        """
        count = noise.shape[2] // self.config.frames_per_token
        mu, state.lookahead_context = self.condition(tokens, state.lookahead_context, count)
        mel = self.solve(mu, speaker, noise.transpose(1, 2), state=state)
        state.frames += mu.shape[1]
        return mel.transpose(1, 2)

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
    """Warp times so that steps are smaller near the noise and larger near the mel."""
    return 1 - torch.cos(t * 0.5 * torch.pi)
