# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Means with 95 % confidence intervals.

Every score is a weighted sum of ratios: an accuracy is correct over counted answers, a word error
rate is errors over words, IFEval is the mean of four accuracies. The interval of such a sum
follows from the linearised influence of each answer; a plain proportion gets a Wilson interval,
which stays valid near 0 and 1. Intervals are clipped to the range of the score. Shapes: ``N`` is
the number of answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evaluate.verdict import Verdict

_Z = 1.959964  # 97.5 % quantile of the normal distribution
Weights = dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """A value and its uncertainty.

    Attributes:
        influence: [N] influence of each answer; the root of the sum of squares is the standard
            error.
        count: number of answers in the denominator.
        fewest: number of answers in the denominator of the smallest part.
        scale: factor that was applied to the mean, 100 for per cent.
        proportion: whether the value is a proportion of yes/no outcomes.
        step: rounding step of the published value; 0 for no rounding.
        highest: largest possible value; the lowest is 0.
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
    def reported(self) -> float:
        """The value, rounded as the benchmark rounds it."""
        return self.step * round(self.value / self.step) if self.step else self.value

    @property
    def standard_error(self) -> float | None:
        """The standard error, None if a single answer does not determine it."""
        if self.proportion:
            low, high = self._wilson()
            return (high - low) / (2 * _Z)
        if self.fewest < 2:
            return None
        spread = float(np.sqrt((self.influence**2).sum()))
        return spread * math.sqrt(self.count / (self.count - 1))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval, None if there is no standard error."""
        if self.proportion:
            return self._wilson()
        error = self.standard_error
        return None if error is None else normal_interval(self.value, error, self.highest)

    def _wilson(self) -> tuple[float, float]:
        low, high = wilson(self.value / self.scale, self.count)
        return self.scale * low, self.scale * high


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a proportion."""
    spread = _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def part_names(verdicts: list[Verdict]) -> list[str]:
    """List the names of all parts, in order of first appearance."""
    return list(dict.fromkeys(name for verdict in verdicts for name in verdict.parts))


def equal_weights(verdicts: list[Verdict]) -> Weights:
    """Give every part the same weight."""
    names = part_names(verdicts)
    return {name: 1 / len(names) for name in names}


def estimate(verdicts: list[Verdict], weights: Weights, scale: float) -> Estimate | None:
    """Compute the weighted sum of the parts' ratios; None if a part's denominator is 0.

    Args:
        verdicts: one per answer.
        weights: weight of every part that counts.
        scale: factor applied to the sum, 100 for per cent.
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
    """Average several scores of the same answers."""
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
    """Difference between a second and a first score over the same ``count`` items."""

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
    """Bootstrap the difference of two scores of the same items (95 % percentile interval).

    Items are resampled together with both their scores, so item difficulty cancels. The seed is
    fixed. Returns None if a part has an empty denominator in one of the scores.
    """
    count = len(first)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), samples)
    drawn = np.vstack(
        [np.ones(count, dtype=drawn.dtype), drawn]
    )  # the first row is the full sample
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
    """Return the 95 % normal interval of a value, clipped to 0 ... ``highest``."""
    half = _Z * standard_error
    # Judges sometimes rate above the requested scale.
    return max(value - half, 0.0), min(value + half, max(highest, value))
