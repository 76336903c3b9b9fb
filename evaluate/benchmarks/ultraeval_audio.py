# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""UltraEval-Audio, speech to speech: four sets of spoken questions, answered aloud."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Answer, Benchmark, HubData, Item, Metric, Row, Subset, Unheard, Verdict
from evaluate.data import (
    RowError,
    RowOfData,
    embedded_audio,
    items_of,
    parquet_files,
    parquet_rows,
)
from evaluate.metrics import (
    ERROR_RATE_LIBRARIES,
    ERROR_RATE_NOTE,
    JudgeTask,
    answer_heard,
    heard,
    judged,
    read_rating_1_to_10,
    transcript_errors,
    utmos,
)
from funaudiochat.constants import DEFAULT_S2M_PROMPT

_GROUP = "UltraEval-Audio (S2S)"
_QUALITY = "Speech quality on UltraEval-Audio Llama Q."


def references_of(row: RowOfData, column: str) -> str | list[str]:
    """A reference answer, or the list of them.

    Raises:
        RowError: there is none; an empty one would be found in every reply.
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
    return {"question": answer.fields["question"], "reply": reply}


def judged_speech(answers: list[Answer], tools: Any) -> list[Verdict]:
    """The judge rates what was heard, not what was written."""
    transcripts = dict(zip((a.id for a in answers), tools.transcripts(answers), strict=True))
    task = JudgeTask(
        "judge",
        "rating_1_to_10",
        lambda a: judge_slots(a, transcripts[a.id]),
        read_rating_1_to_10,
        max_tokens=2048,
    )
    verdicts = {i: text.verdict for i, text in transcripts.items() if isinstance(text, Unheard)}
    audible = [a for a in answers if a.id not in verdicts]
    for answer, verdict in zip(audible, judged(task)(audible, tools), strict=True):
        verdicts[answer.id] = verdict
    return [verdicts[a.id] for a in answers]


ANSWER_HEARD = Metric("transcript match", heard(answer_heard), libraries=("regex",))
JUDGED_SPEECH = Metric("judge", judged_speech, scale=10.0)
_ERRORS = Metric(
    "ASR-WER",
    heard(transcript_errors),
    highest=math.inf,
    libraries=ERROR_RATE_LIBRARIES,
    note=f"transcript of the reply against the text that came with it; {ERROR_RATE_NOTE}",
)
_UTMOS = Metric(
    "UTMOS",
    utmos,
    scale=1.0,
    highest=5.0,
    libraries=("utmos-pytorch",),
    note="mean over replies with sound, one channel at 16 kHz (settings ours)",
)

# name, row of the table, repository, columns, items
SETS = (
    ("llama_questions", "Llama Q.", "llama-questions", ("Questions", "Answer"), 300),
    ("alpaca_eval", "AlpacaEval", "speech-chatbot-alpaca-eval", ("instruction", "output"), 199),
    ("trivia_qa", "TriviaQA", "speech-triavia-qa", ("question", "answer"), 1024),
    ("web_questions", "Web Q.", "speech-web-questions", ("question", "answers"), 2032),
)


def _subset(name: str, row: str, repository: str, columns: tuple[str, str], count: int) -> Subset:
    metric = JUDGED_SPEECH if name == "alpaca_eval" else ANSWER_HEARD
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
    layout="one folder per data set of TwinkStart with its Parquet files (column audio)",
    system=DEFAULT_S2M_PROMPT,
    speech=True,
    needs="Whisper-large-v3 (--asr); judge for AlpacaEval; UTMOS weights (--utmos)",
    notes=(
        "answers are matched token by token in the transcript of the spoken reply",
        "the paper's AlpacaEval fits 198 of 199 items",
    ),
    hub=tuple(
        HubData(
            f"TwinkStart/{s[2]}", s[2], layouts=(("*test*.parquet",), ("*.parquet",)), subset=s[0]
        )
        for s in SETS
    ),
    subsets=tuple(_subset(*s) for s in SETS),
)
