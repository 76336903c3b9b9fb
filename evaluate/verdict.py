# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Answers as scorers see them, and the verdicts that scorers return."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any


class NotScored(Exception):  # noqa: N818 - not an error: the report shows the reason
    """Signal that a metric cannot be computed here; the message is the reason."""


@dataclass(frozen=True)
class Answer:
    """The answer to one item.

    Attributes:
        text: reply without special tokens and ``<think>`` blocks.
        raw_text: reply with special tokens.
        audio: file of the spoken reply.
        question_audio: file of the question's audio, if it came from a file; it may be gone by now.
        silent: whether a model that can speak produced no speech.
    """

    benchmark: str
    subset: str
    id: str
    fields: dict[str, Any]
    instruction: str | None
    text: str
    raw_text: str
    audio: Path | None = None
    question_audio: Path | None = None
    silent: bool = False


@dataclass(frozen=True)
class Verdict:
    """A metric's verdict on one answer.

    Attributes:
        parts: name of a mean -> (numerator, denominator) that this answer adds to it; empty if the
            answer is excluded from the denominator.
        extracted: what was parsed from the reply.
        reason: why the answer is wrong or has no verdict.
        missing: a judge or tool returned nothing for this answer, so the score is incomplete.
    """

    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    extracted: str = ""
    reason: str = ""
    missing: bool = False

    def as_part(self, name: str) -> Verdict:
        """Return the same verdict, counted in a mean of its own."""
        return replace(self, parts={name: self.parts[""]} if self.parts else {})


@dataclass(frozen=True)
class AudioUnavailable:
    """The reason why a spoken reply cannot be scored."""

    reason: str

    @property
    def verdict(self) -> Verdict:
        """A verdict that marks the score as incomplete."""
        return Verdict(reason=self.reason, missing=True)


def scored(value: float | bool, extracted: object = "", reason: str = "") -> Verdict:
    """Return a verdict that counts once, with this value."""
    return Verdict({"": (float(value), 1.0)}, str(extracted), reason)


def invalid(reason: str, extracted: object = "") -> Verdict:
    """Return a verdict that is excluded from the denominator."""
    return Verdict(extracted=str(extracted), reason=reason)
