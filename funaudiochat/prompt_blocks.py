# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Prompts in blocks that take about as long as a decoding step, so that steps fit between them.

What reads a prompt is a generator that yields before every block and returns its result. A block
has a size of its own, whoever else is served, so a prompt always gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import torch
from torch import Tensor

from funaudiochat.modeling_common import cache_argument

CPU_POSITIONS, GPU_POSITIONS = 64, 256  # of a block
PRODUCT_BLOCKS = 4  # whose positions are multiplied at once: products of few rows are slow
T = TypeVar("T")


class PromptBlock:
    """Stands for a block of a prompt that is computed next."""


Blocks = Generator[PromptBlock, None, T]


def run_blocks(blocks: Blocks[T]) -> T:
    """Compute all blocks, one after another."""
    while True:
        try:
            next(blocks)
        except StopIteration as end:
            result: T = end.value
            return result


def block_size(device: torch.device) -> int:
    """Return how many positions a block has.

    A step reads all weights for one position, so it takes as long as a block whose arithmetic
    takes as long as that; a GPU does more arithmetic in this time.
    """
    return CPU_POSITIONS if device.type == "cpu" else GPU_POSITIONS


def spans(length: int, size: int) -> list[slice]:
    """Divide so many positions into blocks."""
    return [slice(at, min(at + size, length)) for at in range(0, length, size)]


def forward_in_blocks(
    transformer: Any, hidden: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any
) -> Blocks[Tensor]:
    """Run a transformer's own forward over a prompt, in one block if rows are padded.

    Args:
        transformer: the module to run.
        hidden: [B, L, D].
        mask: [B, L], rows padded on the left; None if no row is.
        positions: [B, L], with a mask.
        cache: filled with keys and values.

    Returns:
        Its output [B, L, D].
    """
    size = hidden.shape[1] if mask is not None else block_size(hidden.device)
    parts = []
    for span in spans(hidden.shape[1], size):
        yield PromptBlock()
        output = transformer(
            inputs_embeds=hidden[:, span],
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **cache_argument(transformer, cache),
        )
        parts.append(output.last_hidden_state)
    return torch.cat(parts, 1)
