# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""HiFT vocoder: mel -> F0 -> harmonic source -> 24 kHz waveform.

Shapes: ``B`` rows, ``L`` mel frames (50 Hz), ``M`` mel bins (80), ``S`` samples, 480 per frame.
Module names are those of the checkpoint's keys, weight norm folded.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import (
    F0_RIGHT_FRAMES,
    POST_KERNEL,
    HiftConfig,
    StageReceptiveField,
)

# 30 s of 455 Hz in the ninth harmonic: up to there, results equal those of the plain sum.
_WRAP_CYCLES = 256


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return double precision where the device has it: errors of F0 add up in the phase."""
    return torch.float32 if device.type == "mps" else torch.float64


class _CausalConv(nn.Conv1d):
    """Causal convolution, padded on the left with ``left_frames`` frames of zeros."""

    def __init__(self, inner: int, outer: int, kernel: int, dilation: int = 1) -> None:
        super().__init__(inner, outer, kernel, dilation=dilation)
        self.left_frames = (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (self.left_frames, 0)))


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
    """Predicts the fundamental frequency in Hz from mel, with three frames of lookahead."""

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
        """Map [B, M, L] to [B, L], or to [B, L - 3] if the last frames are lookahead only."""
        if final:
            mel = F.pad(mel, (0, F0_RIGHT_FRAMES))
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class Hift(nn.Module):
    """The vocoder's layers; the caller keeps the state of a running reply."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        stft_channels = config.n_fft + 2
        self.f0_predictor = F0Predictor(config)
        self.m_source = _Source(config)
        self.conv_pre = nn.Conv1d(
            config.mel_bins, config.base_channels, config.conv_lookahead_frames + 1
        )
        self.ups: Any = nn.ModuleList()
        self.source_downs: Any = nn.ModuleList()
        self.source_resblocks: Any = nn.ModuleList()
        self.resblocks: Any = nn.ModuleList()
        channels, rate = config.base_channels, 1
        for index, factor in enumerate(config.upsample_rates):
            self.ups.append(_CausalConv(channels, channels // 2, config.upsample_kernels[index]))
            channels, rate = channels // 2, rate * factor
            stride = config.stft_frames_per_mel_frame // rate
            kernel = 1 if stride == 1 else 2 * stride
            self.source_downs.append(nn.Conv1d(stft_channels, channels, kernel, stride=stride))
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
        self.conv_post = _CausalConv(channels, stft_channels, POST_KERNEL)

    def forward(
        self,
        mel: Tensor,
        f0: Tensor | None = None,
        noise: Tensor | None = None,
        final: bool = True,
    ) -> Tensor:
        """Vocode a batch of whole replies: mel [B, M, L] -> waveform [B, S], also in training.

        Args:
            mel: [B, M, L].
            f0: [B, L] in Hz, [B, L - 3] if not final; None to predict it.
            noise: uniform random numbers [B or 1, S, harmonics + 1]; None to draw them.
            final: false if the last eight frames are lookahead only; their samples are left out.
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
        self, f0: Tensor, noise: Tensor, phase_cycles: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Generate the harmonic source of some frames.

        Every harmonic is a staircase, constant within a frame's 480 samples: the official
        checkpoint was trained with that. ``sample_accurate_source`` gives true sinusoids instead.

        Args:
            f0: [B, L] in Hz.
            noise: uniform random numbers of these samples [B or 1, S, harmonics + 1].
            phase_cycles: [B, harmonics + 1], cycles per sample summed over the frames before;
                None at the start. In double precision, or the phase would drift.

        Returns:
            [B, 1, S] and the phase cycles for the next frames.
        """
        config, size = self.config, self.config.frame_samples
        orders = torch.arange(1, config.harmonics + 2, device=f0.device, dtype=f0.dtype)
        steps = torch.remainder(f0[..., None] * orders / config.sample_rate_hz, 1)
        if phase_cycles is None:
            exact = exact_dtype(f0.device)
            phase_cycles = steps.new_zeros(len(f0), config.harmonics + 1, dtype=exact)
        # Modulo whole cycles: in single precision, the sum over minutes would lose the phase.
        summed = torch.cat([phase_cycles[:, None], steps.to(phase_cycles.dtype)], dim=1)
        summed = summed.cumsum(1) % _WRAP_CYCLES
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
        harmonics = config.sine_amplitude * sine * voiced + noise * amplitude
        return torch.tanh(self.m_source.l_linear(harmonics)).transpose(1, 2), summed[:, -1]

    def decode(
        self, mel: Tensor, source: Tensor, final: bool = True, context_frames: int = 0
    ) -> Tensor:
        """Synthesize the waveform from mel and source.

        Args:
            mel: [B, M, L].
            source: [B, 1, 480 * L].
            final: false if the last four frames are lookahead only.
            context_frames: frames at the start that serve as context only. Each stage drops those
                that can no longer affect the output.

        Returns:
            [B, S]: 480 samples per frame after the context; four frames fewer if not final, the
            last of them incomplete.
        """
        config = self.config
        stft_frames = self._stft(source)
        if final:
            mel = F.pad(mel, (0, config.conv_lookahead_frames))
        else:
            cut = config.stft_frames_per_mel_frame * config.conv_lookahead_frames
            stft_frames = stft_frames[:, :, :-cut]
        # start: position of x's first frame; the output begins at 0.
        x, start = self.conv_pre(mel), -context_frames
        kinds = len(config.resblock_kernels)
        for index, receptive_field in enumerate(config.receptive_fields):
            x = x[:, :, max(0, receptive_field.input - start) :]
            start = max(start, receptive_field.input)
            factor = config.upsample_rates[index]
            x, start = F.leaky_relu(x, config.lrelu_slope), start * factor
            x = self.ups[index](x.repeat_interleave(factor, dim=2))
            if receptive_field.stride == 1:
                x = F.pad(x, (1, 0), mode="reflect")
            x = x + self._source_branch(index, receptive_field, stft_frames, context_frames, start)
            blocks = self.resblocks[index * kinds : (index + 1) * kinds]
            x = sum(block(x) for block in blocks) / kinds
        x = self.conv_post(F.leaky_relu(x, 0.01))
        half = config.n_fft // 2 + 1
        magnitude = x[:, :half].exp().clamp(max=100)
        phase = config.phase_range * torch.sin(x[:, half:])
        waveform = torch.istft(
            torch.polar(magnitude, phase), config.n_fft, config.hop_samples, window=self._window(x)
        )
        waveform = waveform[:, -start * config.hop_samples :]
        return waveform.clamp(-config.audio_limit, config.audio_limit)

    def _source_branch(
        self,
        index: int,
        receptive_field: StageReceptiveField,
        stft_frames: Tensor,
        context_frames: int,
        start: int,
    ) -> Tensor:
        """Compute what the source adds to a stage, from the stage's frame ``start`` on."""
        first = -context_frames * self.config.stft_frames_per_mel_frame
        stride = receptive_field.stride
        begin = max(min(receptive_field.source_branch, start), first // stride)
        needed = begin * stride - (stride - 1)
        # There are zeros to the left of the reply's first STFT frame.
        stft_frames = stft_frames[:, :, max(0, needed - first) :]
        stft_frames = F.pad(stft_frames, (max(0, first - needed), 0))
        branch = self.source_resblocks[index](self.source_downs[index](stft_frames))
        return branch[:, :, start - begin :]

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self.config.n_fft, dtype=like.dtype, device=like.device)

    def _stft(self, source: Tensor) -> Tensor:
        """Transform [B, 1, S] to real and imaginary parts [B, n_fft + 2, STFT frames]."""
        spectrum = torch.stft(
            source[:, 0],
            self.config.n_fft,
            self.config.hop_samples,
            window=self._window(source),
            return_complex=True,
        )
        return torch.cat([spectrum.real, spectrum.imag], dim=1)
