# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Top-p filtering on a CPU without sorting the vocabulary."""

from __future__ import annotations

from torch import Tensor
from transformers import TopPLogitsWarper

_CANDIDATES = 256  # of which the most likely ones usually have a mass of p
# float32 sums the probabilities of a vocabulary to better than this; the filter's result is only
# known without its sort where no sum comes nearer to p.
_MARGIN = 1e-4


class TopPFilter(TopPLogitsWarper):
    """Remove ids outside the probability mass of top-p, exactly as transformers' own filter does.

    That one sorts all scores, which costs more than the rest of a choice. Here only the most likely
    ids are sorted; rounding at the boundary, ties and flat distributions are left to it.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores [B, V] in which the ids outside are ``-inf``."""
        least = self._least_kept(scores) if scores.device.type == "cpu" else None
        if least is None:
            filtered: Tensor = super().__call__(input_ids, scores)  # type: ignore[arg-type]
            return filtered
        return scores.masked_fill(scores < least, self.filter_value)

    def _least_kept(self, scores: Tensor) -> Tensor | None:
        """Return the smallest score [B, 1] that is kept, None if a sort has to tell."""
        if scores.shape[1] <= _CANDIDATES:
            return None
        top, ids = scores.topk(_CANDIDATES)
        mass = scores.softmax(1).gather(1, ids).double()
        before = mass.cumsum(1) - mass  # of the ids above each
        count = (before < self.top_p).sum(1, keepdim=True)
        if int(count.max()) == _CANDIDATES or not bool(
            ((before - self.top_p).abs() > _MARGIN).all()
        ):
            return None
        least, next_ = top.gather(1, count - 1), top.gather(1, count)
        return least if bool((least > next_).all()) else None
