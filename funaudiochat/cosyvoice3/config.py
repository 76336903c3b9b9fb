# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sizes and settings of the flow and the vocoder, and the chunk schedule of streaming."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from funaudiochat.constants import CODEBOOK_SIZE, OUTPUT_RATE_HZ

CONV_GROUPS = 16  # groups of the estimator's position convolutions
F0_LEFT_FRAMES = 8
F0_RIGHT_FRAMES = 3
POST_KERNEL = 7


@dataclass(frozen=True)
class FlowConfig:
    """Sizes and settings of the flow; the defaults are those of the official checkpoint.

    ``solver_steps`` and ``temperature`` (scale of the initial noise) are additions of this
    toolkit: the official yaml lacks them, and their defaults reproduce the original.
    """

    vocab_size: int = CODEBOOK_SIZE
    mel_bins: int = 80
    speaker_dim: int = 192
    frames_per_token: int = 2
    lookahead_tokens: int = 3
    lookahead_channels: int = 1024
    dim: int = 1024
    depth: int = 22
    heads: int = 16
    dim_head: int = 64
    ff_mult: int = 2
    chunk_frames: int = 50
    cfg_scale: float = 0.7
    cfg_dropout: float = 0.2
    sigma_min: float = 1e-6
    solver_steps: int = 10
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{name} is {value}, not a positive number")
        if self.dim % CONV_GROUPS:
            raise ValueError(f"the estimator's dim {self.dim} must be a multiple of {CONV_GROUPS}")
        if self.dim_head % 2:
            raise ValueError(f"dim_head {self.dim_head} is odd; rotation needs pairs of channels")


@dataclass(frozen=True)
class ChunkSchedule:
    """Chunk mask of streaming: a frame attends to its own chunk and to frames left of it.

    A chunk needs three tokens beyond its own, and the vocoder holds four back. So the default's
    first chunk is complete with two groups of five tokens, the fewest that give any audio, and the
    second with two more groups, while the first is being played.

    Attributes:
        first_tokens: length of the first chunk, in speech tokens.
        growth: ratio of the lengths of consecutive chunks.
        max_tokens: longest chunk.
        left_limit_tokens: how far a chunk attends to the left of its start; None for no limit.
    """

    first_tokens: int = 7
    growth: float = 1.5
    max_tokens: int = 50
    left_limit_tokens: int | None = 100

    def __post_init__(self) -> None:
        if min(self.first_tokens, self.max_tokens) < 1 or not 1 <= self.growth < float("inf"):
            raise ValueError("chunks need at least one token and a finite growth of at least 1")
        if self.left_limit_tokens is not None and self.left_limit_tokens < 0:
            raise ValueError("left_limit_tokens must be None or at least 0")

    def chunk_tokens(self, index: int) -> int:
        """Return the length of the chunk with this index."""
        growing = 0.0
        if self.growth > 1 and self.max_tokens > self.first_tokens:
            growing = math.log(self.max_tokens / self.first_tokens) / math.log(self.growth)
        # The exponent is bounded so that long replies cannot overflow the power.
        grown = self.first_tokens * self.growth ** min(index, math.ceil(growing))
        return int(min(grown, self.max_tokens))

    def mask(self, frames: int, frames_per_token: int = 2) -> Tensor:
        """Build the attention mask: bool [frames, frames], true where row i attends to column j."""
        allowed = torch.zeros(frames, frames, dtype=torch.bool)
        start, index = 0, 0
        while start < frames:
            stop = start + self.chunk_tokens(index) * frames_per_token
            left = 0
            if self.left_limit_tokens is not None:
                left = max(0, start - self.left_limit_tokens * frames_per_token)
            allowed[start:stop, left:stop] = True
            start, index = stop, index + 1
        return allowed


@dataclass(frozen=True)
class StageReceptiveField:
    """First frames of an up-sampling stage that mel frame 0 depends on; earlier ones are negative.

    Attributes:
        input: in frames of the stage's input.
        source_branch: of the source branch, in frames of the stage's output.
        stride: STFT frames of the source in one frame of the stage's output.
    """

    input: int
    source_branch: int
    stride: int

    @property
    def first_source_stft_frame(self) -> int:
        """First STFT frame of the source."""
        return self.source_branch * self.stride - (self.stride - 1)


@dataclass(frozen=True)
class HiftConfig:
    """Sizes and settings of the vocoder; the defaults are those of the official checkpoint.

    Two fields are additions of this toolkit: the official yaml lacks them, and their defaults
    reproduce the original. ``phase_range`` scales the sine that gives the iSTFT's phase; an iSTFT
    longer than the official one may need pi to reach every phase. ``sample_accurate_source``
    integrates the source's phase per sample instead of per frame.
    """

    mel_bins: int = 80
    base_channels: int = 512
    sample_rate_hz: int = OUTPUT_RATE_HZ
    harmonics: int = 8
    sine_amplitude: float = 0.1
    noise_amplitude: float = 0.003
    voiced_threshold_hz: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    n_fft: int = 16
    hop_samples: int = 4
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    source_resblock_kernels: tuple[int, ...] = (7, 7, 11)
    source_resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    lrelu_slope: float = 0.1
    audio_limit: float = 0.99
    conv_lookahead_frames: int = 4
    f0_channels: int = 512
    phase_range: float = 1.0
    sample_accurate_source: bool = False

    def __post_init__(self) -> None:
        if min(*self.upsample_rates, self.n_fft, self.hop_samples, self.conv_lookahead_frames) < 1:
            raise ValueError("up-sampling rates, n_fft, hop and lookahead must be positive")
        if self.base_channels % 2 ** len(self.upsample_rates):
            raise ValueError(
                f"base_channels {self.base_channels} cannot be halved in every up-sampling stage"
            )
        stages = len(self.upsample_rates)
        for given, wanted in (
            (self.upsample_kernels, stages),
            (self.source_resblock_kernels, stages),
            (self.source_resblock_dilations, stages),
            (self.resblock_dilations, len(self.resblock_kernels)),
        ):
            if len(given) != wanted:
                raise ValueError(f"a list of kernels or dilations has {len(given)}, not {wanted}")
        if self.n_fft % 2 or not 2 * self.hop_samples <= self.n_fft <= 2 * self.frame_samples:
            raise ValueError(
                f"n_fft {self.n_fft} must be even and between twice the hop and two mel frames"
            )

    @property
    def stft_frames_per_mel_frame(self) -> int:
        """STFT frames in one mel frame."""
        return math.prod(self.upsample_rates)

    @property
    def frame_samples(self) -> int:
        """Samples in one mel frame."""
        return self.stft_frames_per_mel_frame * self.hop_samples

    @property
    def lookahead_frames(self) -> int:
        """Frames at the right edge that wait for more mel: both lookaheads and the iSTFT's."""
        return F0_RIGHT_FRAMES + self.conv_lookahead_frames + 1

    @property
    def receptive_fields(self) -> list[StageReceptiveField]:
        """Receptive field of the first sample of mel frame 0 in every stage.

        Derived layer by layer, from the waveform back to mel and source.
        """

        def left_context(kernel: int, dilations: tuple[int, ...]) -> int:
            return sum((kernel - 1) * (d + 1) for d in dilations)

        blocks = zip(self.resblock_kernels, self.resblock_dilations, strict=True)
        blocks_context = max(left_context(kernel, dilations) for kernel, dilations in blocks)
        frame = -(self.n_fft // (2 * self.hop_samples)) - (POST_KERNEL - 1)
        stride = 1
        fields: list[StageReceptiveField] = []
        for index in reversed(range(len(self.upsample_rates))):
            frame -= blocks_context
            kernel = self.source_resblock_kernels[index]
            source_branch = frame - left_context(kernel, self.source_resblock_dilations[index])
            if stride == 1:
                frame -= 1  # the last stage is shifted by one frame
            frame = (frame - (self.upsample_kernels[index] - 1)) // self.upsample_rates[index]
            fields.insert(0, StageReceptiveField(frame, source_branch, stride))
            stride *= self.upsample_rates[index]
        return fields

    @property
    def context_frames(self) -> int:
        """Mel and source frames to the left that can affect a frame (29 at official sizes)."""
        fields = self.receptive_fields
        stft_frame = min(field.first_source_stft_frame for field in fields)
        sample = stft_frame * self.hop_samples - self.n_fft // 2
        return -min(sample // self.frame_samples, fields[0].input)
