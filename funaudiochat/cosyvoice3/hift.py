# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""HiFT vocoder: mel -> F0 -> harmonic source -> 24 kHz sound.

Shapes: ``B`` rows, ``L`` mel frames (50 Hz), ``M`` mel bins (80), ``S`` samples, 480 per frame.
Module names are those of the checkpoint's keys, weight norm folded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

F0_LEFT_FRAMES = 8
F0_RIGHT_FRAMES = 3
POST_KERNEL = 7
# 30 s of 455 Hz in the ninth harmonic: within that, results are those of the plain sum.
_WRAP_TURNS = 256


def exact_dtype(device: torch.device) -> torch.dtype:
    """Double precision where the device has it: errors of F0 add up in the phase."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class HiftConfig:
    """Sizes and settings; the defaults are those of the official checkpoint.

    Two fields are ours: the official yaml lacks them, and their defaults are what the original
    does. ``phase_range`` scales the sine that gives the iSTFT's phase; an iSTFT longer than the
    official one may need pi to reach every phase. ``sample_accurate_source`` integrates the
    source's phase per sample, not per frame.
    """

    mel_bins: int = 80
    base_channels: int = 512
    sample_rate_hz: int = 24000
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
    lookahead_frames: int = 4
    f0_channels: int = 512
    phase_range: float = 1.0
    sample_accurate_source: bool = False

    def __post_init__(self) -> None:
        if min(*self.upsample_rates, self.n_fft, self.hop_samples, self.lookahead_frames) < 1:
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
    def columns_per_frame(self) -> int:
        """STFT columns in one mel frame."""
        return math.prod(self.upsample_rates)

    @property
    def frame_samples(self) -> int:
        return self.columns_per_frame * self.hop_samples

    @property
    def held_frames(self) -> int:
        """Frames at the right edge that wait for more mel: both lookaheads and the iSTFT's."""
        return F0_RIGHT_FRAMES + self.lookahead_frames + 1

    @property
    def stage_reaches(self) -> list[StageReach]:
        """What the first sample of frame 0 depends on in every stage.

        Followed layer by layer from the sound back to mel and source.
        """

        def reach(kernel: int, dilations: tuple[int, ...]) -> int:
            return sum((kernel - 1) * (d + 1) for d in dilations)

        blocks = zip(self.resblock_kernels, self.resblock_dilations, strict=True)
        blocks_reach = max(reach(kernel, dilations) for kernel, dilations in blocks)
        column = -(self.n_fft // (2 * self.hop_samples)) - (POST_KERNEL - 1)
        stride = 1
        reaches: list[StageReach] = []
        for index in reversed(range(len(self.upsample_rates))):
            column -= blocks_reach
            kernel = self.source_resblock_kernels[index]
            driven = column - reach(kernel, self.source_resblock_dilations[index])
            if stride == 1:
                column -= 1  # the last stage is moved by one column
            column = (column - (self.upsample_kernels[index] - 1)) // self.upsample_rates[index]
            reaches.insert(0, StageReach(column, driven, stride))
            stride *= self.upsample_rates[index]
        return reaches

    @property
    def context_frames(self) -> int:
        """Frames of mel and source before a frame that can reach it (29 at official sizes)."""
        reaches = self.stage_reaches
        columns = min(reach.first_source_column for reach in reaches)
        sample = columns * self.hop_samples - self.n_fft // 2
        return -min(sample // self.frame_samples, reaches[0].input)


@dataclass(frozen=True)
class StageReach:
    """First columns of an up-sampling stage that frame 0 depends on; those before are negative.

    Attributes:
        input: in columns of the stage's input.
        driven: of what the source adds, in columns of the stage's output.
        stride: columns of the source's STFT in one of the stage's output.
    """

    input: int
    driven: int
    stride: int

    @property
    def first_source_column(self) -> int:
        """Of the source's STFT."""
        return self.driven * self.stride - (self.stride - 1)


class _CausalConv(nn.Conv1d):
    """Convolution that looks left only; ``reach`` frames of zeros stand before the start."""

    def __init__(self, inner: int, outer: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(inner, outer, kernel, dilation=dilation)
        self.reach = (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.reach, 0)))


class _Snake(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x) ** 2 / (alpha + 1e-9)


class _ResBlock(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        count = len(dilations)
        self.convs1 = nn.ModuleList(_CausalConv(channels, channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(_CausalConv(channels, channels, kernel) for _ in range(count))
        self.activations1 = nn.ModuleList(_Snake(channels) for _ in range(count))
        self.activations2 = nn.ModuleList(_Snake(channels) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for conv1, conv2, snake1, snake2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(snake2(conv1(snake1(x))))
        return x


class _Source(nn.Module):
    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.l_linear = nn.Linear(config.harmonics + 1, 1)


class F0Predictor(nn.Module):
    """Mel -> fundamental frequency in Hz; looks three frames right."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        width = config.f0_channels
        layers: list[nn.Module] = [
            nn.Conv1d(config.mel_bins, width, F0_RIGHT_FRAMES + 1),
            nn.ELU(),
        ]
        for _ in range(4):
            layers += [_CausalConv(width, width, 3), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, 1)

    def forward(self, mel: Tensor, final: bool = True) -> Tensor:
        """[B, M, L] -> [B, L], or [B, L - 3] if the last frames are lookahead only."""
        if final:
            mel = F.pad(mel, (0, F0_RIGHT_FRAMES))
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class Hift(nn.Module):
    """The vocoder's parts; a running reply's state is its caller's."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        columns = config.n_fft + 2
        self.f0_predictor = F0Predictor(config)
        self.m_source = _Source(config)
        self.conv_pre = nn.Conv1d(
            config.mel_bins, config.base_channels, config.lookahead_frames + 1
        )
        self.ups: Any = nn.ModuleList()
        self.source_downs: Any = nn.ModuleList()
        self.source_resblocks: Any = nn.ModuleList()
        self.resblocks: Any = nn.ModuleList()
        channels, rate = config.base_channels, 1
        for index, factor in enumerate(config.upsample_rates):
            self.ups.append(_CausalConv(channels, channels // 2, config.upsample_kernels[index]))
            channels, rate = channels // 2, rate * factor
            stride = config.columns_per_frame // rate
            kernel = 1 if stride == 1 else 2 * stride
            self.source_downs.append(nn.Conv1d(columns, channels, kernel, stride=stride))
            self.source_resblocks.append(
                _ResBlock(
                    channels,
                    config.source_resblock_kernels[index],
                    config.source_resblock_dilations[index],
                )
            )
            for kernel, dilations in zip(
                config.resblock_kernels, config.resblock_dilations, strict=True
            ):
                self.resblocks.append(_ResBlock(channels, kernel, dilations))
        self.conv_post = _CausalConv(channels, columns, POST_KERNEL)

    def forward(
        self,
        mel: Tensor,
        f0: Tensor | None = None,
        noise: Tensor | None = None,
        final: bool = True,
    ) -> Tensor:
        """A batch of whole replies: mel [B, M, L] -> sound [B, S], also in training.

        Args:
            f0: [B, L] in Hz, [B, L - 3] if not final; None to predict it.
            noise: uniform numbers [B or 1, S, harmonics + 1]; None to draw them.
            final: false if the last eight frames are lookahead only; their sound is left out.
        """
        if f0 is None:
            f0 = self.f0_predictor(mel, final)
        size = self.config.frame_samples
        if noise is None:
            shape = (len(mel), f0.shape[1] * size, self.config.harmonics + 1)
            noise = torch.rand(shape, device=mel.device, dtype=mel.dtype)
        source, _ = self.source(f0, noise)
        if final:
            return self.decode(mel, source)
        return self.decode(mel[:, :, :-F0_RIGHT_FRAMES], source, final=False)[:, :-size]

    def source(
        self, f0: Tensor, noise: Tensor, turns: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Harmonic source of some frames.

        Every harmonic is a staircase, constant for a frame's 480 samples: the official checkpoint
        was trained with that. ``sample_accurate_source`` asks for true sinusoids instead.

        Args:
            f0: [B, L] in Hz.
            noise: [B or 1, S, harmonics + 1] uniform numbers of these samples.
            turns: [B, harmonics + 1], turns per sample summed over the frames before; None at
                the start. In double precision, or the phase would drift.

        Returns:
            [B, 1, S] and the next turns.
        """
        config, size = self.config, self.config.frame_samples
        orders = torch.arange(1, config.harmonics + 2, device=f0.device, dtype=f0.dtype)
        steps = torch.remainder(f0[..., None] * orders / config.sample_rate_hz, 1)
        if turns is None:
            turns = steps.new_zeros(len(f0), config.harmonics + 1, dtype=exact_dtype(f0.device))
        # Modulo whole turns: rounded to single precision, the sum of minutes would lose the phase.
        summed = torch.cat([turns[:, None], steps.to(turns.dtype)], dim=1).cumsum(1) % _WRAP_TURNS
        if config.sample_accurate_source:
            within = torch.arange(1, size + 1, device=f0.device)[:, None] * steps[:, :, None]
            cycles = (summed[:, :-1, None] * size + within) % 1
            sine = torch.sin(2 * torch.pi * cycles.to(f0.dtype)).flatten(1, 2)
        else:
            angles = summed[:, 1:].to(f0.dtype) * 2 * torch.pi * size
            sine = torch.sin(angles).repeat_interleave(size, dim=1)
        voiced = (f0 > config.voiced_threshold_hz).to(f0.dtype)[..., None]
        amplitude = voiced * config.noise_amplitude + (1 - voiced) * config.sine_amplitude / 3
        voiced, amplitude = (v.repeat_interleave(size, dim=1) for v in (voiced, amplitude))
        waves = config.sine_amplitude * sine * voiced + noise * amplitude
        return torch.tanh(self.m_source.l_linear(waves)).transpose(1, 2), summed[:, -1]

    def decode(
        self, mel: Tensor, source: Tensor, final: bool = True, context_frames: int = 0
    ) -> Tensor:
        """Mel and source -> sound.

        Args:
            mel: [B, M, L].
            source: [B, 1, 480 * L].
            final: false if the last four frames are lookahead only.
            context_frames: frames at the start that only lead in to the others. Each stage drops
                those that cannot reach the sound any more.

        Returns:
            [B, S]: 480 samples a frame after the context, or that less four frames of which the
            last frame is incomplete.
        """
        config = self.config
        columns = self._stft(source)
        if final:
            mel = F.pad(mel, (0, config.lookahead_frames))
        else:
            cut = config.columns_per_frame * config.lookahead_frames
            columns = columns[:, :, :-cut]
        x, start = self.conv_pre(mel), -context_frames  # start: x's first column, 0 is wanted
        kinds = len(config.resblock_kernels)
        for index, reach in enumerate(config.stage_reaches):
            x, start = x[:, :, max(0, reach.input - start) :], max(start, reach.input)
            factor = config.upsample_rates[index]
            x, start = F.leaky_relu(x, config.lrelu_slope), start * factor
            x = self.ups[index](x.repeat_interleave(factor, dim=2))
            if reach.stride == 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self._driven(index, reach, columns, context_frames, start)
            blocks = self.resblocks[index * kinds : (index + 1) * kinds]
            x = sum(block(x) for block in blocks) / kinds
        x = self.conv_post(F.leaky_relu(x, 0.01))
        half = config.n_fft // 2 + 1
        magnitude = x[:, :half].exp().clamp(max=100)
        phase = config.phase_range * torch.sin(x[:, half:])
        wave = torch.istft(
            torch.polar(magnitude, phase), config.n_fft, config.hop_samples, window=self._window(x)
        )
        wave = wave[:, -start * config.hop_samples :]
        return wave.clamp(-config.audio_limit, config.audio_limit)

    def _driven(
        self, index: int, reach: StageReach, columns: Tensor, context_frames: int, start: int
    ) -> Tensor:
        """What the source adds to a stage, from the stage's column ``start`` on."""
        first = -context_frames * self.config.columns_per_frame
        begin = max(min(reach.driven, start), first // reach.stride)
        wanted = begin * reach.stride - (reach.stride - 1)
        # Left of the reply's first column there are zeros.
        columns = F.pad(columns[:, :, max(0, wanted - first) :], (max(0, first - wanted), 0))
        driven = self.source_resblocks[index](self.source_downs[index](columns))
        return driven[:, :, start - begin :]

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.config.n_fft, dtype=like.dtype, device=like.device)

    def _stft(self, source: Tensor) -> Tensor:
        """[B, 1, S] -> real and imaginary parts [B, n_fft + 2, columns]."""
        spectrum = torch.stft(
            source[:, 0],
            self.config.n_fft,
            self.config.hop_samples,
            window=self._window(source),
            return_complex=True,
        )
        return torch.cat([spectrum.real, spectrum.imag], dim=1)
