# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Scorers that need more than the reply: a judge, a transcript, a quality model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluate.core import Answer, Scorer, Unheard, Verdict, each, invalid, points
from evaluate.scorers import texts
from evaluate.scorers.judge_replies import is_yes, rating_1_to_5, rating_1_to_10

ERROR_RATE_NOTE = (
    "errors pooled over the set; whisper-normalizer, then compute-wer without case, tags and "
    "punctuation (settings ours)"
)
ERROR_RATE_LIBRARIES = ("whisper-normalizer", "compute-wer")
JUDGE, AUDIO_JUDGE, OPEN_JUDGE = "judge", "audio judge", "open judge"
ASSISTANT = "You are a helpful assistant who tries to help answer the user's question."


@dataclass(frozen=True)
class JudgeTask:
    """A question to a judge model.

    Attributes:
        metric: name under which its replies are kept.
        prompt: file of ``judge_prompts/`` with a ``{slot}`` for each of ``slots``.
        read: replies to one answer -> verdict; several only where ``several`` allows it.
        who: which judge; the paper uses three.
        several: whether VoiceBench's form with three replies is known for it.
        sounds: sound files that the judge hears.
        tries: how often an unreadable reply is asked for again.
        system: system prompt; None, like None for ``temperature`` and ``top_p``, sends none.
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
    sounds: Callable[[Answer], list[Path]] = lambda answer: []
    tries: int = 1
    system: str | None = ASSISTANT


def judged(task: JudgeTask) -> Scorer:
    """A scorer that asks the judge of the run."""

    def scorer(answers: list[Answer], tools: Any) -> list[Verdict]:
        return [
            task.read(replies) if replies else Verdict(reason=problem, missing=True)
            for replies, problem in tools.judge_replies(task, answers)
        ]

    return scorer


def heard(rule: Callable[[Answer, str], Verdict]) -> Scorer:
    """A scorer of the transcript of the spoken reply; silence reads as nothing."""

    def scorer(answers: list[Answer], tools: Any) -> list[Verdict]:
        transcripts = iter(tools.transcripts(answers))

        def of(answer: Answer) -> Verdict:
            transcript = next(transcripts)
            if isinstance(transcript, Unheard):
                return transcript.verdict
            return rule(answer, transcript)

        return each(of)(answers, tools)

    return scorer


def utmos(answers: list[Answer], tools: Any) -> list[Verdict]:
    """Predicted mean opinion score of every reply with sound."""

    def verdict(score: float | Unheard | None) -> Verdict:
        if isinstance(score, Unheard):
            return score.verdict
        return invalid("no speech in the reply") if score is None else points(score)

    return [verdict(score) for score in tools.utmos(answers)]


def transcript_errors(answer: Answer, transcript: str) -> Verdict:
    """Word errors of the transcript against the text the model wrote beside its speech."""
    return word_errors("en", answer.text, transcript)


def word_errors(language: str, reference: str, hypothesis: str) -> Verdict:
    counts = texts.count_errors(language, reference, hypothesis)
    return Verdict({"": (counts.errors, counts.total)}, counts.hypothesis)


def answer_heard(answer: Answer, transcript: str) -> Verdict:
    """UltraEval-Audio's match of the reference in the transcript."""
    return points(texts.answer_occurs(answer.fields["references"], transcript), transcript)


def read_rating_1_to_5(replies: list[str]) -> Verdict:
    """The mean of the readable ones."""
    ratings = [r for reply in replies if (r := rating_1_to_5(reply)) is not None]
    if not ratings:
        return invalid("the judge gave no rating", replies[0][:200])
    return points(sum(ratings) / len(ratings), replies[0][:200])


def read_rating_1_to_10(replies: list[str]) -> Verdict:
    rating = rating_1_to_10(replies[0])
    if rating is None:
        return invalid("the judge gave no rating", replies[0][:200])
    return points(rating, replies[0][:200])


def read_yes_or_no(replies: list[str]) -> Verdict:
    """One reply by its last line; of several the majority, where only a bare "yes" counts."""
    if len(replies) > 1:
        yes = sum(reply.strip().lower() == "yes" for reply in replies)
        return points(yes > len(replies) / 2, f"{yes} of {len(replies)} yes")
    verdict = is_yes(replies[0])
    if verdict is None:
        return invalid("the judge said neither yes nor no", replies[0][:200])
    return points(verdict, replies[0][:200])


def read_by(rule: Callable[[str], float | bool | None], complaint: str) -> Any:
    """A reader of one reply by a rule that gives None where it cannot be read."""

    def read(replies: list[str]) -> Verdict:
        value = rule(replies[0])
        return (
            invalid(complaint, replies[0][:200])
            if value is None
            else points(value, replies[0][:200])
        )

    return read
