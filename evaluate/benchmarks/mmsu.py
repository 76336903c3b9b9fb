# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMSU: multiple-choice questions on spoken language."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from evaluate.core import (
    Benchmark,
    HubData,
    Item,
    Metric,
    Row,
    Subset,
    choice_instruction,
    per_answer,
)
from evaluate.data import (
    RowOfData,
    embedded_audio,
    find_audio,
    given_choices,
    items_of,
    json_list,
    parquet_rows,
    right_choice,
)
from evaluate.scorers.choices import LETTERS, mmsu_bridged_letter, mmsu_reference_verdicts
from evaluate.scoring_tools import ScoringTools
from evaluate.verdict import Answer, Verdict, invalid, scored

_COLUMNS = tuple(f"choice_{letter.lower()}" for letter in LETTERS)


def _load(folder: Path) -> Iterator[Item]:
    def item(row: RowOfData) -> dict[str, Any]:
        # Any column may be null. The prompt re-letters the remaining options, so the fields hold
        # them under the letters that the model sees.
        given = given_choices(row.get(column) for column in _COLUMNS)
        lettered = dict(zip_longest(_COLUMNS, given))
        return {
            "id": row.text("id"),
            "audio": _audio(row, folder),
            "instruction": choice_instruction(row.text("question"), given),
            "fields": {
                **lettered,
                "answer_gt": right_choice(row.text("answer_gt"), given),
                "category": row.get("category"),
            },
        }

    return items_of(_rows(folder), item)


def _rows(folder: Path) -> Iterator[RowOfData]:
    """Read the question files beside the audio files, or else Parquet files with both."""
    for location in (folder, folder / "question"):
        for kind in ("*.jsonl", "*.json"):
            if named := sorted(location.glob(kind)):
                return json_list(named[0])
    if parquet := sorted(folder.glob("**/*.parquet")):
        return parquet_rows(parquet)
    return json_list(folder / "mmsu.jsonl")


def _audio(row: RowOfData, folder: Path) -> Path | bytes:
    if row.get("audio") is not None:
        return embedded_audio(row, folder)
    return find_audio(row.text("audio_path"), folder, folder / "question")


def _bridged(answer: Answer) -> Verdict:
    letter = mmsu_bridged_letter(answer.text, [answer.fields[column] for column in _COLUMNS])
    if letter is None:
        return scored(False, reason="no letter found")
    chosen = answer.fields[f"choice_{letter.lower()}"]
    return scored(chosen == answer.fields["answer_gt"], letter)


def _reference(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    records = [{**answer.fields, "response": answer.text} for answer in answers]
    return [
        invalid("skipped: no letter at either end") if right is None else scored(right)
        for right in mmsu_reference_verdicts(records)
    ]


BENCHMARK = Benchmark(
    name="mmsu",
    title="MMSU",
    folder="MMSU",
    layout=(
        "ddwang2000/MMSU: a JSON or JSONL file of questions, in the folder or in question/, and "
        "the audio files it names; or Parquet files with embedded audio"
    ),
    notes=(
        "the reference rule excludes answers such as (B)falling from the denominator; how the "
        "authors read them is not published, so they are first mapped to their letter here",
    ),
    hub=(
        HubData(
            "ddwang2000/MMSU",
            layouts=(
                ("question/*.jsonl", "audio/*"),
                ("question/*.json", "audio/*"),
                ("*.parquet",),
            ),
        ),
    ),
    subsets=(
        Subset(
            "all",
            _load,
            (Metric("bridged letters", per_answer(_bridged)), Metric("reference rule", _reference)),
            (
                Row(
                    "Audio understanding",
                    "MMSU",
                    (("bridged letters",),),
                    unlike="how the paper read answers such as (B)falling is not published",
                ),
            ),
            5000,
        ),
    ),
)
