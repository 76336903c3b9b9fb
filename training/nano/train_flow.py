# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the flow: codes and a speaker vector in, normalised mel out.

    python -m training.nano.train_flow                 # resumes from its last checkpoint

First plain regression with the flow's own network at time 0, which finds what the codes mean at
a fraction of the cost, then conditional flow matching from these weights, half of the batches under
the chunk mask of streaming. Codes enter as their eight digits: an embedding of 6561 rows would
learn only the rows it meets. Writes ``flow.pt`` and ``flow_curve.json`` below ``--work``;
``training.nano.export`` makes the official files.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from funaudiochat.cosyvoice3.flow import ChunkSchedule, Flow, FlowConfig
from training.nano.answers import Answers, CodeBatch
from training.nano.checkpoint import restore, save
from training.nano.data import WORK
from training.nano.tokenizer import CODES, DIGITS, digits_of
from training.nano.voices import ANSWER_VOICES

log = logging.getLogger(__name__)

CONFIG = FlowConfig(lookahead_channels=256, dim=160, depth=6, heads=4, dim_head=40)
SCHEDULES = (None, ChunkSchedule())
BATCH_CODES = 600
REGRESSION_SHARE = 0.25  # of the steps
PEAK_RATE, WARM_UP_STEPS = 1e-3, 200
SAVE_EVERY, EVALUATE_EVERY = 200, 1000
EVALUATED = 20


def speaker_vectors() -> dict[str, Tensor]:
    """A fixed point [192] of the speaker space for every answer voice, far from one another."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(CONFIG.speaker_dim, 8, generator=generator)).Q.T
    return {voice: basis[i].clone() for i, voice in enumerate(ANSWER_VOICES)}


class DigitEmbedding(nn.Module):
    """Embedding of codes through their digits; ``table`` is what it stands for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(DIGITS, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, codes: Tensor) -> Tensor:
        """[B, T] -> [B, T, width]."""
        return self.mlp(digits_of(codes))

    @torch.no_grad()
    def table(self) -> nn.Embedding:
        """The plain embedding with equal results."""
        return nn.Embedding.from_pretrained(self(torch.arange(CODES)), freeze=False)


def new_flow() -> Flow:
    """An untrained flow whose codes enter by their digits."""
    torch.manual_seed(0)
    flow = Flow(CONFIG)
    flow.input_embedding = DigitEmbedding(CONFIG.mel_bins)
    for module in flow.decoder.estimator.transformer_blocks:
        nn.init.normal_(module.attn_norm.linear.weight, 0, 0.01)
    return flow


def regression(flow: Flow, batch: CodeBatch, speakers: Tensor) -> Tensor:
    """Mel of the batch by the estimator at time 0 from no noise: [B, 2T, 80]."""
    length = batch.codes.shape[1]
    valid = torch.arange(length) < batch.counts[:, None]
    mu, _ = flow.condition(batch.codes, None, length, valid)
    empty = torch.zeros_like(mu)
    modulations = flow.decoder.estimator.modulations(torch.zeros(1))
    frames = valid.repeat_interleave(2, dim=1)
    return flow.decoder.estimator(
        empty, empty, mu, flow.speaker(speakers), modulations, valid=frames
    )


def masked_error(made: Tensor, batch: CodeBatch) -> tuple[Tensor, Tensor]:
    """Mean absolute and squared error over the frames inside."""
    inside = torch.arange(made.shape[1]) < 2 * batch.counts[:, None]
    difference = (made - batch.mel)[inside]
    return difference.abs().mean(), difference.square().mean()


@torch.no_grad()
def evaluate(flow: Flow, answers: Answers, regressing: bool) -> dict[str, float]:
    """Mean absolute error of the mel of held-out answers, offline and streaming."""
    flow.eval()
    vectors, result = speaker_vectors(), {}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, CONFIG.mel_bins, 1000, generator=generator)
    kinds = {"offline": None} if regressing else {"offline": None, "streaming": ChunkSchedule()}
    for kind, schedule in kinds.items():
        errors = []
        for number in range(0, len(answers.items), max(1, len(answers.items) // EVALUATED)):
            batch = answers.code_batch([number])
            speaker = vectors[batch.voices[0]][None]
            if regressing:
                made = regression(flow, batch, speaker)
            else:
                made = flow.one_shot(batch.codes, speaker, noise, schedule=schedule).mT
            errors.append(float(masked_error(made, batch)[0]))
        result[kind] = round(sum(errors) / len(errors), 4)
    flow.train()
    return result


def train(work: Path, steps: int) -> Flow:
    """Train to the end of the schedule, from the last checkpoint if there is one."""
    answers, held_out = Answers(work, "train"), Answers(work, "test")
    flow, vectors = new_flow(), speaker_vectors()
    optimizer = torch.optim.AdamW(flow.parameters(), PEAK_RATE, betas=(0.9, 0.98))
    path = work / "flow.pt"
    state: dict[str, Any] = {"step": 0, "steps": steps, "epoch": 0, "cpu_s": 0.0, "curve": []}
    state |= restore(path, flow, optimizer)
    recent: list[float] = []
    while state["step"] < state["steps"]:
        for batch in answers.code_batches(Random(state["epoch"]), BATCH_CODES):
            started, step = time.process_time(), state["step"]
            regressing = step < REGRESSION_SHARE * state["steps"]
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * min(1, (step + 1) / WARM_UP_STEPS)
                group["lr"] *= max(0.02, 1 - step / state["steps"])
            speakers = torch.stack([vectors[v] for v in batch.voices])
            if regressing:
                absolute, squared = masked_error(regression(flow, batch, speakers), batch)
                loss = absolute + 0.5 * squared
            else:
                loss = flow.loss(
                    batch.codes, batch.mel, speakers, batch.counts, schedules=SCHEDULES
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimizer.step()
            state["step"] = step = step + 1
            state["cpu_s"] += time.process_time() - started
            recent.append(float(loss.detach()))
            last = step == state["steps"]
            if step % SAVE_EVERY == 0 or last:
                point = {"step": step, "cpu_s": round(state["cpu_s"]), "regression": regressing}
                point["loss"] = round(sum(recent) / len(recent), 4)
                if step % EVALUATE_EVERY == 0 or last:
                    point["held_out_mel_l1"] = evaluate(flow, held_out, regressing)
                log.info("%s", point)
                state["curve"].append(point)
                recent = []
                save(path, flow, optimizer, state)
                (work / "flow_curve.json").write_text(json.dumps(state["curve"], indent=1))
            if last:
                break
        state["epoch"] += 1
    return flow


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the flow.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    train(args.work, args.steps)


if __name__ == "__main__":
    main()
