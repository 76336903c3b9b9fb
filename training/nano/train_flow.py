# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train the flow: speech tokens and a speaker vector in, normalised mel out.

    python -m training.nano.train_flow                 # resumes from its last checkpoint

The first part is plain regression with the flow's own network at time 0, which learns the meaning
of the tokens at a fraction of the cost. The second is conditional flow matching from these weights,
half of the batches under the chunk mask of streaming. Tokens are represented by their eight digits:
an embedding table would learn only the rows that occur. Writes ``flow.pt`` and ``flow_curve.json``
below ``--work``; ``training.nano.export`` converts them to the official files.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from funaudiochat.constants import CODEBOOK_SIZE
from funaudiochat.cosyvoice3.config import ChunkSchedule, FlowConfig
from funaudiochat.cosyvoice3.flow import Flow
from training.nano.answers import Answers, TokenBatch
from training.nano.loop import Run, parse
from training.nano.tokenizer import DIGITS, digits_of
from training.nano.voices import ANSWER_VOICES

CONFIG = FlowConfig(lookahead_channels=256, dim=160, depth=6, heads=4, dim_head=40)
SCHEDULES = (None, ChunkSchedule())
BATCH_TOKENS = 600
REGRESSION_SHARE = 0.25  # of the steps
EVALUATED = 20


def speaker_vectors() -> dict[str, Tensor]:
    """Assign every answer voice a fixed speaker vector [192], far from the others."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(CONFIG.speaker_dim, 8, generator=generator)).Q.T
    return {voice: basis[i].clone() for i, voice in enumerate(ANSWER_VOICES)}


class DigitEmbedding(nn.Module):
    """Embedding of speech tokens by their digits; ``table`` converts it to a plain one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(DIGITS, 256), nn.GELU(), nn.Linear(256, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed speech tokens [B, T] as [B, T, width]."""
        return self.mlp(digits_of(tokens))

    @torch.no_grad()
    def table(self) -> nn.Embedding:
        """Return the plain embedding with equal results."""
        return nn.Embedding.from_pretrained(self(torch.arange(CODEBOOK_SIZE)), freeze=False)


def new_flow() -> Flow:
    """Build an untrained flow whose speech tokens are embedded by their digits."""
    torch.manual_seed(0)
    flow = Flow(CONFIG)
    flow.add_module("input_embedding", DigitEmbedding(CONFIG.mel_bins))
    for module in flow.decoder.estimator.transformer_blocks:
        nn.init.normal_(module.attn_norm.linear.weight, 0, 0.01)
    return flow


def regression(flow: Flow, batch: TokenBatch, speakers: Tensor) -> Tensor:
    """Predict the mel [B, 2T, 80] of a batch with the estimator at time 0, without noise."""
    length = batch.tokens.shape[1]
    valid = torch.arange(length) < batch.counts[:, None]
    mu, _ = flow.condition(batch.tokens, None, length, valid)
    empty = torch.zeros_like(mu)
    estimator = flow.decoder.estimator
    return estimator(
        empty,
        estimator.conditions(empty, mu, flow.speaker(speakers)),
        estimator.modulations(torch.zeros(1)),
        valid=valid.repeat_interleave(2, dim=1),
    )


def masked_error(made: Tensor, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Compute the mean absolute and squared error over frames that are not padding."""
    inside = torch.arange(made.shape[1]) < 2 * batch.counts[:, None]
    difference = (made - batch.mel)[inside]
    return difference.abs().mean(), difference.square().mean()


class FlowRun(Run):
    """The flow's training.

    Args:
        work: data and checkpoint folder.
        steps: length of the schedule.
    """

    model: Flow
    peak_rate = 1e-3

    def __init__(self, work: Path, steps: int) -> None:
        self.answers, self.held_out = Answers(work, "train"), Answers(work, "test")
        self.speakers = speaker_vectors()
        flow = new_flow()
        optimizer = torch.optim.AdamW(flow.parameters(), self.peak_rate, betas=(0.9, 0.98))
        super().__init__(work / "flow.pt", flow, optimizer, steps)

    @property
    def regressing(self) -> bool:
        """Whether this is the first part of the schedule."""
        return self.state["step"] < REGRESSION_SHARE * self.state["steps"]

    def batches(self, epoch: int) -> Iterator[TokenBatch]:
        return self.answers.token_batches(Random(epoch), BATCH_TOKENS)

    def losses(self, batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        speakers = torch.stack([self.speakers[voice] for voice in batch.voices])
        if self.regressing:
            absolute, squared = masked_error(regression(self.model, batch, speakers), batch)
            loss = absolute + 0.5 * squared
        else:
            loss = self.model.loss(
                batch.tokens, batch.mel, speakers, batch.counts, schedules=SCHEDULES
            )
        return loss, {"loss": loss}

    def evaluate(self) -> dict[str, float]:
        """Compute the mean absolute mel error on held-out answers, offline and streaming."""
        result = {}
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, CONFIG.mel_bins, 1000, generator=generator)
        kinds = {"offline": None} | ({} if self.regressing else {"streaming": ChunkSchedule()})
        for kind, schedule in kinds.items():
            errors = []
            count = len(self.held_out.items)
            for number in range(0, count, max(1, count // EVALUATED)):
                batch = self.held_out.token_batch([number])
                speaker = self.speakers[batch.voices[0]][None]
                if self.regressing:
                    made = regression(self.model, batch, speaker)
                else:
                    made = self.model.one_shot(batch.tokens, speaker, noise, schedule=schedule).mT
                errors.append(float(masked_error(made, batch)[0]))
            result[kind] = round(sum(errors) / len(errors), 4)
        return result


def main() -> None:
    """Command line; see the module's text."""
    args = parse(argparse.ArgumentParser(description="Train the flow."), steps=14000)
    FlowRun(args.work, args.steps).train()


if __name__ == "__main__":
    main()
