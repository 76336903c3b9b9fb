# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""UltraEval-Audio, speech to speech: four sets of spoken questions with spoken answers."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Benchmark, HubData, Item, Metric, Row, Subset
from evaluate.data import RowError, RowOfData, embedded_audio, items_of, parquet_files, parquet_rows
from evaluate.metrics import (
    ERROR_RATE_LIBRARIES,
    ERROR_RATE_NOTE,
    judged,
    on_transcript,
    read_rating_1_to_10,
    transcript_errors,
    transcript_match,
    utmos,
)
from evaluate.scoring_tools import JudgeTask, ScoringTools
from evaluate.verdict import Answer, AudioUnavailable, Verdict
from funaudiochat.constants import DEFAULT_S2M_PROMPT

_GROUP = "UltraEval-Audio (S2S)"
_QUALITY = "Speech quality on UltraEval-Audio Llama Q."


def references_of(row: RowOfData, column: str) -> str | list[str]:
    """Return a reference answer, or a list of them.

    Raises:
        RowError: the column is missing; an empty reference would match every reply.
    """
    value = row.get(column)
    if value is None:
        raise RowError(f"column {column!r} is missing")
    return [str(v) for v in value] if isinstance(value, list) else str(value)


def _load(repository: str, question: str, reference: str, root: Path) -> Iterator[Item]:
    folder = root / repository
    files = parquet_files(folder, "**/*.parquet")
    files = [path for path in files if "test" in path.name] or files

    def item(row: RowOfData) -> dict[str, Any]:
        fields = {
            "question": row.text(question),
            "references": references_of(row, reference),
        }
        return {"audio": embedded_audio(row, folder), "fields": fields}

    return items_of(parquet_rows(files), item)


def judge_slots(answer: Answer, reply: str) -> dict[str, str]:
    """Fill the slots of the rating prompt."""
    return {"question": answer.fields["question"], "reply": reply}


def judged_speech(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    """Let the judge rate the transcript of the speech, not the text output."""
    verdicts: dict[str, Verdict] = {}
    texts: dict[str, str] = {}
    for answer, transcript in zip(answers, tools.transcripts(answers), strict=True):
        if isinstance(transcript, AudioUnavailable):
            verdicts[answer.id] = transcript.verdict
        else:
            texts[answer.id] = transcript
    task = JudgeTask(
        "judge",
        "rating_1_to_10",
        lambda a: judge_slots(a, texts[a.id]),
        read_rating_1_to_10,
        max_tokens=2048,
    )
    audible = [a for a in answers if a.id in texts]
    for answer, verdict in zip(audible, judged(task)(audible, tools), strict=True):
        verdicts[answer.id] = verdict
    return [verdicts[a.id] for a in answers]


TRANSCRIPT_MATCH = Metric("transcript match", on_transcript(transcript_match), libraries=("regex",))
JUDGED_SPEECH = Metric("judge", judged_speech, scale=10.0)
_ERRORS = Metric(
    "ASR-WER",
    on_transcript(transcript_errors),
    highest=math.inf,
    libraries=ERROR_RATE_LIBRARIES,
    note=f"transcript of the reply against the text generated with it; {ERROR_RATE_NOTE}",
)
_UTMOS = Metric(
    "UTMOS",
    utmos,
    scale=1.0,
    highest=5.0,
    libraries=("utmos-pytorch",),
    note="mean over replies with audio, mono at 16 kHz (settings chosen by this toolkit)",
)

# name, row of the table, repository, columns, number of items
SETS = (
    ("llama_questions", "Llama Q.", "llama-questions", ("Questions", "Answer"), 300),
    ("alpaca_eval", "AlpacaEval", "speech-chatbot-alpaca-eval", ("instruction", "output"), 199),
    ("trivia_qa", "TriviaQA", "speech-triavia-qa", ("question", "answer"), 1024),
    ("web_questions", "Web Q.", "speech-web-questions", ("question", "answers"), 2032),
)


def _subset(name: str, row: str, repository: str, columns: tuple[str, str], count: int) -> Subset:
    metric = JUDGED_SPEECH if name == "alpaca_eval" else TRANSCRIPT_MATCH
    rows = [Row(_GROUP, row, ((metric.name,),))]
    if name == "llama_questions":
        rows += [
            Row(_QUALITY, "UTMOS", (("UTMOS",),)),
            Row(_QUALITY, "ASR-WER %", (("ASR-WER",),)),
        ]
    return Subset(
        name, partial(_load, repository, *columns), (metric, _ERRORS, _UTMOS), tuple(rows), count
    )


BENCHMARK = Benchmark(
    name="ultraeval-audio",
    title="UltraEval-Audio, speech to speech",
    folder="UltraEval-Audio",
    layout="one folder per data set of TwinkStart with Parquet files (column audio)",
    system=DEFAULT_S2M_PROMPT,
    speech=True,
    needs="Whisper-large-v3 (--asr); judge for AlpacaEval; UTMOS weights (--utmos)",
    notes=(
        "answers are matched by tokens in the transcript of the spoken reply",
        "the paper's AlpacaEval value is consistent with 198 of 199 items",
    ),
    hub=tuple(
        HubData(
            f"TwinkStart/{s[2]}", s[2], layouts=(("*test*.parquet",), ("*.parquet",)), subset=s[0]
        )
        for s in SETS
    ),
    subsets=tuple(_subset(*s) for s in SETS),
)
