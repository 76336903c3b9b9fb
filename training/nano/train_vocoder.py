# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the vocoder: spectrogram and pitch in, 24 kHz waveform out, without an adversary.

    python -m training.nano.train_vocoder              # resumes from its last checkpoint

The loss combines log magnitude and spectral convergence over four STFT sizes, the log-mel and the
predicted pitch. Most excerpts come from the middle of an answer, with the lookahead of streaming;
the others are ends of answers. Writes ``vocoder.pt`` and ``vocoder_curve.json`` below ``--work``;
``training.nano.export`` converts them to the official files.
"""

import argparse
import math
from functools import cache
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from funaudiochat.cosyvoice3.config import HiftConfig
from funaudiochat.cosyvoice3.hift import Hift
from training.nano.answers import Answers
from training.nano.features import vocoder_mel
from training.nano.loop import Run, parse

CONFIG = HiftConfig(
    base_channels=192,
    upsample_rates=(8,),
    upsample_kernels=(16,),
    n_fft=240,
    hop_samples=60,
    resblock_kernels=(3, 7),
    resblock_dilations=((1, 3), (1, 3)),
    source_resblock_kernels=(7,),
    source_resblock_dilations=((1, 3),),
    f0_channels=64,
    phase_range=math.pi,
    sample_accurate_source=True,
)
SEGMENTS, SEGMENT_FRAMES = 6, 30
END_SHARE = 0.15  # share of the batches made of ends of answers
EVALUATED = 20


@cache
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


def spectral_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Compute log-magnitude L1 plus spectral convergence, averaged over four STFT sizes.

    Yamamoto et al., "Parallel WaveGAN" (arXiv 1910.11480), section 2.2.
    """
    total = made.new_zeros(())
    for size in (256, 512, 1024, 2048):
        a, b = (
            torch.stft(x, size, size // 4, window=_window(size), return_complex=True).abs()
            for x in (made, wanted)
        )
        a, b = a.clamp(min=1e-5), b.clamp(min=1e-5)
        total = total + (a.log() - b.log()).abs().mean() + (a - b).norm() / b.norm()
    return total / 4


def new_vocoder() -> Hift:
    """Build an untrained vocoder whose output starts almost silent."""
    torch.manual_seed(0)
    model = Hift(CONFIG)
    nn.init.normal_(model.conv_post.weight, 0, 0.01)
    return model


class VocoderRun(Run):
    """The vocoder's training; an epoch is one random batch.

    Args:
        work: data and checkpoint folder.
        steps: length of the schedule.
    """

    model: Hift
    peak_rate = 1e-3
    warm_up_steps = 100
    last_rate = 0.05
    largest_gradient = 5.0

    def __init__(self, work: Path, steps: int) -> None:
        self.answers, self.held_out = Answers(work, "train"), Answers(work, "test", "heart")
        model = new_vocoder()
        optimizer = torch.optim.AdamW(model.parameters(), self.peak_rate, betas=(0.8, 0.99))
        super().__init__(work / "vocoder.pt", model, optimizer, steps)

    def batches(self, epoch: int) -> list[Random]:
        return [Random(epoch)]

    def losses(self, batch: Random) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute ``spectral``, ``mel`` and ``pitch`` of a batch drawn with this generator."""
        final = batch.random() < END_SHARE
        cut = self.answers.segments(
            batch, SEGMENTS, SEGMENT_FRAMES, 0 if final else CONFIG.lookahead_frames
        )
        f0 = cut.f0 if final else cut.f0[:, :-3]
        made = self.model(cut.mel, f0, final=final)
        predicted = self.model.f0_predictor(cut.mel, final)
        spectral = spectral_loss(made, cut.waveform)
        mel = (vocoder_mel(made) - vocoder_mel(cut.waveform)).abs().mean()
        pitch = (predicted - f0).abs().mean() / 100
        return spectral + 0.5 * mel + pitch, {"spectral": spectral, "mel": mel, "pitch": pitch}

    def evaluate(self) -> dict[str, float]:
        """Compute log-mel L1 of held-out answers, with predicted pitch, and the pitch error."""
        torch.manual_seed(0)
        error = pitch = 0.0
        count = min(EVALUATED, len(self.held_out.items))
        for number in range(count):
            mel, f0 = self.held_out.mel_and_f0(number)
            made = vocoder_mel(self.model(mel.T[None]))[0].T
            wanted = self.held_out.log_mel(number)
            error += float((made - wanted).abs().mean()) / count
            pitch += float((self.model.f0_predictor(mel.T[None])[0] - f0).abs().mean()) / count
        return {"mel_l1": round(error, 4), "pitch_error_hz": round(pitch, 2)}


def main() -> None:
    """Command line; see the module's text."""
    args = parse(argparse.ArgumentParser(description="Train the vocoder."), steps=8000)
    VocoderRun(args.work, args.steps).train()


if __name__ == "__main__":
    main()
