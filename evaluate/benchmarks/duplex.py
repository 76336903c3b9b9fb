# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Full duplex: UltraEval-Audio's questions to a model that listens while it speaks.

Neither the paper's duplex data nor a duplex checkpoint is published. The layout is defined by this
toolkit, and answers come from a predictions file: its ``audio_out`` is the model's channel, aligned
in time with the question.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.benchmarks.ultraeval_audio import (
    JUDGED_SPEECH,
    SETS,
    TRANSCRIPT_MATCH,
    judge_slots,
    references_of,
)
from evaluate.core import Benchmark, Item, Metric, Row, Subset, per_answer
from evaluate.data import RowOfData, find_file, items_of, json_lines
from evaluate.metrics import judged, read_rating_1_to_10
from evaluate.scorers import texts
from evaluate.scorers.turn_taking import turn_is_taken, voiced_stretches
from evaluate.scoring_tools import JudgeTask, ScoringTools
from evaluate.verdict import Answer, AudioUnavailable, Verdict, scored
from funaudiochat.audio import load_audio
from funaudiochat.constants import DEFAULT_S2M_PROMPT, INPUT_RATE_HZ
from funaudiochat.errors import AudioError

_UNLIKE = "the paper's data is not published"


def _load(name: str, root: Path) -> Iterator[Item]:
    folder = root / name

    def item(row: RowOfData) -> dict[str, Any]:
        fields = {
            "question": row.text("question"),
            "references": references_of(row, "answer"),
            "user_end_s": float(row.text("user_end_s")),
        }
        return {"audio": find_file(row.text("file_name"), folder), "fields": fields}

    return items_of(json_lines(folder / "metadata.jsonl"), item)


def _turns(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    limits = tools.turn_limits
    tools.used["criterion of turn taking, chosen by this toolkit"] = (
        f"silent while the user speaks ({limits.overlap_s:g} s of overlap tolerated), then an "
        f"answer within {limits.delay_s:g} s"
    )

    def rule(answer: Answer) -> Verdict:
        stretches = []
        if answer.audio is not None:
            try:
                audio = load_audio(answer.audio, INPUT_RATE_HZ)
            except AudioError as error:
                return AudioUnavailable(str(error)).verdict
            stretches = voiced_stretches(audio, INPUT_RATE_HZ)
        taken, reason = turn_is_taken(answer.fields["user_end_s"], stretches, limits)
        return scored(taken, reason=reason)

    return per_answer(rule)(answers, tools)


_TEXT = Metric(
    "text match", per_answer(lambda a: scored(texts.answer_occurs(a.fields["references"], a.text)))
)
_TEXT_JUDGED = Metric(
    "text judge",
    judged(
        JudgeTask(
            "text judge",
            "rating_1_to_10",
            lambda a: judge_slots(a, a.text),
            read_rating_1_to_10,
            max_tokens=2048,
        )
    ),
    scale=10.0,
)


def _subset(name: str, row: str, count: int) -> Subset:
    text, speech = (
        (_TEXT_JUDGED, JUDGED_SPEECH) if name == "alpaca_eval" else (_TEXT, TRANSCRIPT_MATCH)
    )
    return Subset(
        name,
        partial(_load, name),
        (text, speech, Metric("turn taking", _turns)),
        (
            Row("Duplex S2M-T (Table 7)", row, ((text.name,),), unlike=_UNLIKE),
            Row("Duplex S2M-S (Table 7)", row, ((speech.name,),), unlike=_UNLIKE),
            Row(
                "Duplex turn-taking success % (Table 7)",
                "all",
                (("turn taking",),),
                unlike=f"{_UNLIKE}, nor is its criterion",
            ),
        ),
        count,
    )


BENCHMARK = Benchmark(
    name="duplex",
    title="Full duplex",
    folder="duplex",
    layout=(
        "own layout: <set>/metadata.jsonl (file_name, question, answer, user_end_s) and the audio "
        "files, each a question followed by silence"
    ),
    system=DEFAULT_S2M_PROMPT,
    speech=True,
    needs="predictions of a duplex model (--predictions); Whisper-large-v3 (--asr); judge",
    manual="the paper's duplex data is not published; build it from UltraEval-Audio's questions",
    subsets=tuple(_subset(name, row, count) for name, row, _, _, count in SETS),
    duplex=True,
)
