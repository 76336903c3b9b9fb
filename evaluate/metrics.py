# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Scorers that need more than the text of a reply: a judge, a transcript, a quality model."""

from __future__ import annotations

from collections.abc import Callable

from evaluate.core import Scorer, per_answer
from evaluate.scorers import texts
from evaluate.scorers.judge_replies import is_yes, rating_1_to_5, rating_1_to_10
from evaluate.scoring_tools import JudgeTask, ScoringTools
from evaluate.verdict import Answer, AudioUnavailable, Verdict, invalid, scored

ERROR_RATE_NOTE = (
    "errors pooled over the set; whisper-normalizer, then compute-wer ignoring case, tags and "
    "punctuation (settings chosen by this toolkit)"
)
ERROR_RATE_LIBRARIES = ("whisper-normalizer", "compute-wer")


def judged(task: JudgeTask) -> Scorer:
    """Build a scorer that gives a task to the judge of the run."""

    def scorer(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
        return [
            task.read(replies) if replies else Verdict(reason=problem, missing=True)
            for replies, problem in tools.judge_replies(task, answers)
        ]

    return scorer


def on_transcript(rule: Callable[[Answer, str], Verdict]) -> Scorer:
    """Build a scorer of the spoken reply's transcript; a silent reply has an empty transcript."""

    def scorer(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
        transcripts = iter(tools.transcripts(answers))

        def of(answer: Answer) -> Verdict:
            transcript = next(transcripts)
            if isinstance(transcript, AudioUnavailable):
                return transcript.verdict
            return rule(answer, transcript)

        return per_answer(of)(answers, tools)

    return scorer


def utmos(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    """Score the predicted mean opinion score (UTMOS) of every reply with audio."""

    def verdict(score: float | AudioUnavailable | None) -> Verdict:
        if isinstance(score, AudioUnavailable):
            return score.verdict
        return invalid("no speech in the reply") if score is None else scored(score)

    return [verdict(score) for score in tools.utmos(answers)]


def transcript_errors(answer: Answer, transcript: str) -> Verdict:
    """Count word errors of the transcript against the text generated with the speech."""
    return word_errors("en", answer.text, transcript)


def word_errors(language: str, reference: str, hypothesis: str) -> Verdict:
    """Count word errors (character errors for Chinese) of a hypothesis."""
    counts = texts.count_errors(language, reference, hypothesis)
    return Verdict({"": (counts.errors, counts.total)}, counts.hypothesis)


def transcript_match(answer: Answer, transcript: str) -> Verdict:
    """Find a reference answer in the transcript by UltraEval-Audio's rule."""
    return scored(texts.answer_occurs(answer.fields["references"], transcript), transcript)


def read_rating_1_to_5(replies: list[str]) -> Verdict:
    """Average the ratings that can be parsed."""
    ratings = [r for reply in replies if (r := rating_1_to_5(reply)) is not None]
    if not ratings:
        return invalid("no rating in the judge's reply", replies[0][:200])
    return scored(sum(ratings) / len(ratings), replies[0][:200])


def read_rating_1_to_10(replies: list[str]) -> Verdict:
    """Parse a rating of 1 to 10."""
    rating = rating_1_to_10(replies[0])
    if rating is None:
        return invalid("no rating in the judge's reply", replies[0][:200])
    return scored(rating, replies[0][:200])


def read_yes_or_no(replies: list[str]) -> Verdict:
    """Parse yes or no: the last line of one reply, or the majority of several bare "yes"."""
    if len(replies) > 1:
        yes = sum(reply.strip().lower() == "yes" for reply in replies)
        return scored(yes > len(replies) / 2, f"{yes} of {len(replies)} yes")
    verdict = is_yes(replies[0])
    if verdict is None:
        return invalid("neither yes nor no in the judge's reply", replies[0][:200])
    return scored(verdict, replies[0][:200])


def read_by(
    rule: Callable[[str], float | bool | None], complaint: str
) -> Callable[[list[str]], Verdict]:
    """Build a parser of one reply from a rule that returns None if it cannot parse it."""

    def read(replies: list[str]) -> Verdict:
        value = rule(replies[0])
        return (
            invalid(complaint, replies[0][:200])
            if value is None
            else scored(value, replies[0][:200])
        )

    return read
