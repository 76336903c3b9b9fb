# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The interface through which scorers reach judges, transcripts and other models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from evaluate.scorers.turn_taking import TurnLimits
from evaluate.verdict import Answer, AudioUnavailable, Verdict

JUDGE, AUDIO_JUDGE, OPEN_JUDGE = "judge", "audio judge", "open judge"
_SYSTEM_PROMPT = "You are a helpful assistant who tries to help answer the user's question."


@dataclass(frozen=True)
class JudgeTask:
    """A task for a judge model.

    Attributes:
        metric: name under which the replies are cached.
        prompt: file of ``judge_prompts/`` with a ``{slot}`` for each of ``slots``.
        read: maps the replies to one answer to a verdict; there are several only if ``several``.
        who: which judge is asked; the paper uses three.
        several: whether VoiceBench's three-reply protocol is defined for this task.
        audio: audio files that the judge hears.
        tries: how many requests are made at most until a reply can be parsed.
        system: system prompt; None sends none, as does None for ``temperature`` and ``top_p``.
    """

    metric: str
    prompt: str
    slots: Callable[[Answer], dict[str, str]]
    read: Callable[[list[str]], Verdict]
    who: str = JUDGE
    temperature: float | None = 0.0
    top_p: float | None = 0.95
    max_tokens: int = 1024
    several: bool = False
    audio: Callable[[Answer], list[Path]] = lambda answer: []
    tries: int = 1
    system: str | None = _SYSTEM_PROMPT


class ScoringTools(Protocol):
    """Judges and models that scorers may use; every method raises NotScored if its tool is missing.

    Attributes:
        turn_limits: tolerances of the turn-taking criterion.
        used: kind of tool -> the one that was used, for the report; scorers may add entries.
    """

    turn_limits: TurnLimits
    used: dict[str, str]

    def judge_replies(self, task: JudgeTask, answers: list[Answer]) -> list[tuple[list[str], str]]:
        """Return for each answer the judge's replies, or an empty list and the reason."""

    def transcripts(self, answers: list[Answer]) -> list[str | AudioUnavailable]:
        """Return the transcript of each spoken reply."""

    def utmos(self, answers: list[Answer]) -> list[float | AudioUnavailable | None]:
        """Return the predicted opinion score of each reply, None for one without audio."""

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return unit vectors [N, D] of ``N`` texts."""

    def pedant(self, answers: list[Answer]) -> list[bool]:
        """Return PEDANT's decision for each reply."""
