# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Means with 95 % intervals.

Every score here is a weighted sum of ratios: accuracy is right over counted, a word error rate
errors over words, IFEval the mean of four accuracies. The interval of such a sum follows from how
much each answer pulls on it (its influence, linearised); a plain proportion gets Wilson's, which
stays honest near 0 and 1. Intervals are cut to what the score can be. Shapes: ``N`` answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from evaluate.core import Verdict

_Z = 1.959964  # 97.5 % quantile of the normal distribution
Weights = dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """A value and its uncertainty.

    Attributes:
        influence: [N] pull of each answer; its root of summed squares is the standard error.
        proportion: whether the value is a share of yes among N.
        count: answers in the denominator.
        fewest: answers in the smallest part's denominator.
        step: what the published value is rounded to; 0 for not at all.
        highest: value there can be; the lowest is 0.
    """

    value: float
    influence: np.ndarray
    count: int
    fewest: int
    scale: float
    proportion: bool = False
    step: float = 0.0
    highest: float = math.inf

    @property
    def shown(self) -> float:
        """The value as the benchmark states it."""
        return self.step * round(self.value / self.step) if self.step else self.value

    @property
    def standard_error(self) -> float | None:
        """None where a single answer tells nothing of the spread."""
        if self.proportion:
            low, high = self._wilson()
            return (high - low) / (2 * _Z)
        if self.fewest < 2:
            return None
        spread = float(np.sqrt((self.influence**2).sum()))
        return spread * math.sqrt(self.count / (self.count - 1))

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.proportion:
            return self._wilson()
        error = self.standard_error
        return None if error is None else normal_interval(self.value, error, self.highest)

    def _wilson(self) -> tuple[float, float]:
        low, high = wilson(self.value / self.scale, self.count)
        return self.scale * low, self.scale * high


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    spread = _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def part_names(verdicts: list[Verdict]) -> list[str]:
    return list(dict.fromkeys(name for verdict in verdicts for name in verdict.parts))


def equal_weights(verdicts: list[Verdict]) -> Weights:
    """Every part counts the same."""
    names = part_names(verdicts)
    return {name: 1 / len(names) for name in names}


def estimate(verdicts: list[Verdict], weights: Weights, scale: float) -> Estimate | None:
    """The weighted sum of the parts' ratios; None when no denominator is above 0.

    Args:
        weights: of every part that counts.
        scale: 100 for percent.
    """
    influence, value, fewest = np.zeros(len(verdicts)), 0.0, len(verdicts)
    terms: list[tuple[float, float]] = []
    for name, weight in weights.items():
        terms = [verdict.parts.get(name, (0.0, 0.0)) for verdict in verdicts]
        numerators, denominators = np.array(terms, dtype=float).reshape(-1, 2).T
        total = denominators.sum()
        if not total:
            return None
        ratio = numerators.sum() / total
        fewest = min(fewest, int(np.count_nonzero(denominators)))
        value += scale * weight * ratio
        influence += scale * weight * (numerators - ratio * denominators) / total
    if not weights:
        return None
    plain = (
        scale == 100 and len(weights) == 1 and all(d in (0, 1) and n in (0, d) for n, d in terms)
    )
    counted = sum(any(name in weights for name in verdict.parts) for verdict in verdicts)
    return Estimate(float(value), influence, counted, fewest, scale, plain)


def mean_of(estimates: list[Estimate]) -> Estimate:
    """The mean of several scores of the same answers."""
    if len(estimates) == 1:
        return estimates[0]
    return Estimate(
        float(np.mean([e.value for e in estimates])),
        np.mean([e.influence for e in estimates], axis=0),
        min(e.count for e in estimates),
        min(e.fewest for e in estimates),
        estimates[0].scale,
        highest=estimates[0].highest,
    )


@dataclass(frozen=True)
class Difference:
    """How much a second score lies above the first, over the same ``count`` items."""

    value: float
    low: float
    high: float
    count: int


def paired_bootstrap(
    first: list[Verdict],
    second: list[Verdict],
    weights: Weights,
    scale: float,
    samples: int = 2000,
) -> Difference | None:
    """Difference of two scores of the same items, with its 95 % percentile interval.

    Whole items are drawn, with both their scores, so that what makes an item hard cancels. The
    draw has a fixed seed. None where a part has nothing to count in one of them.
    """
    count = len(first)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), samples)
    drawn = np.vstack([np.ones(count, dtype=drawn.dtype), drawn])  # the first row is no draw
    differences = np.zeros(len(drawn))
    for sign, verdicts in ((-1, first), (1, second)):
        for name, weight in weights.items():
            terms = [verdict.parts.get(name, (0.0, 0.0)) for verdict in verdicts]
            numerators, denominators = (drawn @ np.array(terms, dtype=float)).T
            if not denominators[0]:
                return None
            with np.errstate(invalid="ignore"):
                differences += sign * scale * weight * (numerators / denominators)
    drawn_differences = differences[1:][np.isfinite(differences[1:])]
    low, high = np.percentile(drawn_differences, [2.5, 97.5])
    return Difference(float(differences[0]), float(low), float(high), count)


def normal_interval(value: float, standard_error: float, highest: float) -> tuple[float, float]:
    """95 % interval of a sum of independent scores of 0 to ``highest``."""
    half = _Z * standard_error
    # A judge may rate higher than it was asked to.
    return max(value - half, 0.0), min(value + half, max(highest, value))
