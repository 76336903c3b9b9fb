# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMSU: multiple-choice questions on spoken language."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluate.core import (
    Answer,
    Benchmark,
    HubData,
    Item,
    Metric,
    Row,
    Subset,
    Verdict,
    choice_instruction,
    each,
    invalid,
    points,
)
from evaluate.data import RowOfData, find_file, items_of, json_list
from evaluate.scorers.choices import LETTERS, mmsu_bridged_letter, mmsu_reference_verdicts

_COLUMNS = tuple(f"choice_{letter.lower()}" for letter in LETTERS)


def _load(folder: Path) -> Iterator[Item]:
    def item(row: RowOfData) -> dict[str, Any]:
        choices = [
            None if row.get(column) is None else row.text(column) for column in _COLUMNS
        ]
        given = [choice for choice in choices if choice is not None]
        return {
            "id": row.text("id"),
            "audio": find_file(row.text("audio_path"), folder),
            "instruction": choice_instruction(row.text("question"), given),
            "fields": {
                **dict(zip(_COLUMNS, choices, strict=True)),
                "answer_gt": row.text("answer_gt"),
                "category": row.get("category"),
            },
        }

    named = sorted(folder.glob("*.jsonl")) + sorted(folder.glob("*.json"))
    return items_of(json_list(named[0] if named else folder / "mmsu.jsonl"), item)


def _bridged(answer: Answer) -> Verdict:
    letter = mmsu_bridged_letter(answer.text, [answer.fields[column] for column in _COLUMNS])
    if letter is None:
        return points(False, reason="no letter found")
    chosen = answer.fields[f"choice_{letter.lower()}"]
    return points(chosen == answer.fields["answer_gt"], letter)


def _reference(answers: list[Answer], tools: Any) -> list[Verdict]:
    records = [{**answer.fields, "response": answer.text} for answer in answers]
    return [
        invalid("skipped: no letter at either end") if right is None else points(right)
        for right in mmsu_reference_verdicts(records)
    ]


BENCHMARK = Benchmark(
    name="mmsu",
    title="MMSU",
    folder="MMSU",
    layout="ddwang2000/MMSU: a JSON or JSONL file of questions beside the sounds it names",
    notes=(
        "the reference rule drops answers such as (B)falling from the denominator; how the authors "
        "read them is not published, so the value here first maps them to their letter",
    ),
    hub=(HubData("ddwang2000/MMSU"),),
    subsets=(
        Subset(
            "all",
            _load,
            (Metric("bridged letters", each(_bridged)), Metric("reference rule", _reference)),
            (Row("Audio understanding", "MMSU", (("bridged letters",),)),),
            5000,
        ),
    ),
)
