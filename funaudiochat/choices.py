# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Choosing ids from scores, greedily or with the draws of ``torch.multinomial``.

Shapes: ``B`` rows, ``G`` tokens of a group, ``V`` vocabulary of text or speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper

from funaudiochat import decoder_kernel
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.top_p import TopPFilter

# With one generator per row, a sampled row of a batch equals its single run.
Randomness = torch.Generator | list[torch.Generator] | None
# These look at the scores only, so that rows whose histories differ in length go through together.
_WITHOUT_HISTORY = (MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPFilter)


def choose(scores: Tensor, options: GenerationOptions, generator: Randomness) -> Tensor:
    """Choose an id per row: scores [B, V] in float32 -> [B]."""
    if not options.do_sample:
        return _best(scores)
    return _drawn(scores, _noise(scores.new_empty(1, *scores.shape), generator)[0])


def _best(scores: Tensor) -> Tensor:
    return scores.argmax(-1)


def _drawn(scores: Tensor, noise: Tensor) -> Tensor:
    """Draw an id per row as ``torch.multinomial`` does: scores and noise [B, V] -> [B]."""
    probabilities = scores.softmax(-1)
    torch._assert_async(probabilities.isfinite().all(), "the scores to draw from are not numbers")
    return (probabilities / noise).argmax(-1)


def _noise(noise: Tensor, generator: Randomness) -> Tensor:
    """Fill [G, B, V] with exponential numbers, in the order in which the tokens are drawn."""
    for each in noise:
        if not isinstance(generator, list):
            each.exponential_(generator=generator)
            continue
        for row, own in zip(each, generator, strict=True):
            row.exponential_(generator=own)
    return noise


class SpeechChoices:
    """Choices of one group of speech tokens for every row of a state.

    Args:
        options: settings of the run.
        processors: of the speech logits, made from them.
        histories: per row, the speech tokens [T] before the group.
        generator: source of randomness.
        group_shape: (G, V).

    Attributes:
        tokens: [B, n] chosen so far.
        logits: raw logits [B, V] of the tokens chosen by :meth:`choose`.
    """

    def __init__(
        self,
        options: GenerationOptions,
        processors: Sequence[Any],
        histories: list[Tensor],
        generator: Randomness,
        group_shape: tuple[int, int],
    ) -> None:
        rows, (size, vocabulary) = len(histories), group_shape
        self._options, self._processors, self._histories = options, processors, histories
        self.tokens = histories[0].new_empty(rows, 0)
        self.logits: list[Tensor] = []
        self._seen: list[Any] = []
        self._noise: Tensor | None = None
        if options.do_sample:
            room = self.tokens.new_empty(size, rows, vocabulary, dtype=torch.float32)
            self._noise = _noise(room, generator)
        self._elsewhere = bool(
            self.tokens.device.type != "cpu"
            or options.no_repeat_ngram_size
            or options.min_new_tokens
            or not options.only_crq_sampling
        )

    @property
    def count(self) -> int:
        """Number of tokens chosen so far."""
        return self.tokens.shape[1]

    def for_kernel(self) -> list[decoder_kernel.Choice]:
        """Describe the next choices row by row; they point into this object."""
        options, rows, address = self._options, len(self.tokens), decoder_kernel.address
        if self._elsewhere:
            return [decoder_kernel.Choice(elsewhere=1) for _ in range(rows)]
        penalty = options.repetition_penalty or 1
        settings = {"penalty": penalty, "temperature": 1, "top_p": 1}
        noise: list[Any] = [None] * rows
        if self._noise is not None:
            noise = [address(row) for row in self._noise[self.count]]
            settings |= {
                "temperature": options.temperature or 1,
                "top_p": 1 if options.top_p is None else options.top_p,
                "top_k": options.top_k or 0,
                "min_p": options.min_p or 0,
                "noise_stride": self._noise.stride(0),
            }
        self._seen = self._seen_tokens() if penalty != 1 else [None] * rows
        return [
            decoder_kernel.Choice(
                noise=own, history=address(seen), history_size=0 if seen is None else len(seen),
                **settings,
            )
            for own, seen in zip(noise, self._seen, strict=True)
        ]  # fmt: skip

    def add(self, tokens: Tensor) -> None:
        """Append tokens [B, n] that were chosen by the kernel."""
        self.tokens = torch.cat([self.tokens, tokens], dim=1)

    def choose(self, logits: Tensor) -> None:
        """Choose the next token of every row from its logits [B, V]."""
        scores = logits
        for process in self._processors:
            if type(process) in _WITHOUT_HISTORY:
                scores = process(self.tokens, scores)
            else:
                own = zip(self._seen_tokens(), scores, strict=True)
                scores = torch.cat([process(seen[None], row[None]) for seen, row in own])
        noise = self._noise
        token = _best(scores) if noise is None else _drawn(scores, noise[self.count])
        self.logits.append(logits)
        self.add(token[:, None])

    def _seen_tokens(self) -> list[Tensor]:
        rows = zip(self._histories, self.tokens, strict=True)
        return [torch.cat([history, now]) for history, now in rows]
