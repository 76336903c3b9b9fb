# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the vocoder: spectrogram and pitch in, 24 kHz sound out, without an adversary.

    python -m training.nano.train_vocoder              # resumes from its last checkpoint

Loss: log magnitude and spectral convergence over four STFT sizes, the log-mel, and the predicted
pitch. Most pieces are cut out of the middle of an answer with the lookahead that streaming has,
the others are answers' ends. Writes ``vocoder.pt`` and ``vocoder_curve.json`` below ``--work``;
``training.nano.export`` makes the official files.
"""

import argparse
import json
import logging
import math
import time
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from funaudiochat.cosyvoice3.hift import Hift, HiftConfig
from training.nano.answers import Answers
from training.nano.checkpoint import restore, save
from training.nano.data import WORK
from training.nano.features import vocoder_mel

log = logging.getLogger(__name__)

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
END_SHARE = 0.15  # of the batches hold answers' ends
PEAK_RATE, WARM_UP_STEPS = 1e-3, 100
SAVE_EVERY, EVALUATE_EVERY = 200, 1000
EVALUATED = 20


@cache
def _window(size: int) -> Tensor:
    return torch.hann_window(size)


def spectral_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Log-magnitude L1 plus spectral convergence of sound [B, S], mean over four resolutions.

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


def losses(model: Hift, answers: Answers, rng: Random) -> dict[str, Tensor]:
    """Losses of one random batch: ``spectral``, ``mel`` and ``pitch``."""
    final = rng.random() < END_SHARE
    batch = answers.segments(rng, SEGMENTS, SEGMENT_FRAMES, 0 if final else CONFIG.held_frames)
    f0 = batch.f0 if final else batch.f0[:, :-3]
    made = model(batch.mel, f0, final=final)
    predicted = model.f0_predictor(batch.mel, final)
    return {
        "spectral": spectral_loss(made, batch.wave),
        "mel": (vocoder_mel(made) - vocoder_mel(batch.wave)).abs().mean(),
        "pitch": (predicted - f0).abs().mean() / 100,
    }


def new_vocoder() -> Hift:
    """An untrained vocoder that starts almost silent."""
    torch.manual_seed(0)
    model = Hift(CONFIG)
    nn.init.normal_(model.conv_post.weight, 0, 0.01)
    return model


def update(model: Hift, optimizer: torch.optim.Optimizer, parts: dict[str, Tensor]) -> None:
    """One step; a batch whose gradient is not finite (a magnitude overflowed) is passed over."""
    optimizer.zero_grad()
    (parts["spectral"] + 0.5 * parts["mel"] + parts["pitch"]).backward()
    if nn.utils.clip_grad_norm_(model.parameters(), 5.0).isfinite():
        optimizer.step()


@torch.no_grad()
def evaluate(model: Hift, answers: Answers) -> dict[str, float]:
    """Log-mel L1 of whole held-out answers, with predicted pitch, and the pitch's error."""
    model.eval()
    torch.manual_seed(0)
    error = pitch = 0.0
    count = min(EVALUATED, len(answers.items))
    for number in range(count):
        mel, f0 = answers.mel_and_f0(number)
        made = vocoder_mel(model(mel.T[None]))[0].T
        wanted = answers.log_mel(number)
        error += float((made - wanted).abs().mean()) / count
        pitch += float((model.f0_predictor(mel.T[None])[0] - f0).abs().mean()) / count
    model.train()
    return {"mel_l1": round(error, 4), "pitch_error_hz": round(pitch, 2)}


def train(work: Path, steps: int) -> Hift:
    """Train to the end of the schedule, from the last checkpoint if there is one."""
    answers, held_out = Answers(work, "train"), Answers(work, "test", "heart")
    model = new_vocoder()
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, betas=(0.8, 0.99))
    path = work / "vocoder.pt"
    state: dict[str, Any] = {"step": 0, "steps": steps, "cpu_s": 0.0, "curve": []}
    state |= restore(path, model, optimizer)
    recent: list[dict[str, float]] = []
    while state["step"] < state["steps"]:
        started, step = time.process_time(), state["step"]
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1, (step + 1) / WARM_UP_STEPS)
            group["lr"] *= max(0.05, 1 - step / state["steps"])
        parts = losses(model, answers, Random(step))
        update(model, optimizer, parts)
        state["step"] = step = step + 1
        state["cpu_s"] += time.process_time() - started
        recent.append({name: float(value.detach()) for name, value in parts.items()})
        last = step == state["steps"]
        if step % SAVE_EVERY == 0 or last:
            point = {n: round(sum(r[n] for r in recent) / len(recent), 4) for n in recent[0]}
            point |= {"step": step, "cpu_s": round(state["cpu_s"])}
            if step % EVALUATE_EVERY == 0 or last:
                point["held_out"] = evaluate(model, held_out)
            log.info("%s", point)
            state["curve"].append(point)
            recent = []
            save(path, model, optimizer, state)
            (work / "vocoder_curve.json").write_text(json.dumps(state["curve"], indent=1))
    return model


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the vocoder.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    train(args.work, args.steps)


if __name__ == "__main__":
    main()
