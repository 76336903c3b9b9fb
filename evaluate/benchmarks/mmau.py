# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMAU test-mini: multiple-choice questions on sounds, music and speech."""

import json
from collections.abc import Iterator
from dataclasses import replace
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
    points,
)
from evaluate.data import (
    RowOfData,
    as_list,
    embedded_audio,
    find_sound,
    given_choices,
    items_of,
    json_list,
    parquet_rows,
    right_choice,
)
from evaluate.metrics import JudgeTask, judged, read_yes_or_no
from evaluate.scorers.choices import mmau_match

_GROUP = "Audio understanding"


def _load(folder: Path) -> Iterator[Item]:
    def item(plain: RowOfData) -> dict[str, Any]:
        row = _flat(plain)
        choices = given_choices(as_list(row.get("choices")))
        fields = {
            "answer": right_choice(row.text("answer"), choices),
            "choices": choices,
            "task": row.text("task"),
        }
        return {
            "id": row.text("id"),
            "audio": _sound(row, folder),
            "instruction": choice_instruction(row.text("question", "instruction"), choices),
            "fields": fields,
        }

    named = sorted(folder.glob("*test-mini*.json*"))
    parquet = sorted(folder.glob("**/*.parquet"))
    if parquet and not named:
        return items_of(parquet_rows(parquet), item)
    return items_of(json_list(named[0] if named else folder / "mmau-test-mini.json"), item)


def _flat(row: RowOfData) -> RowOfData:
    """The row with the columns that the hub's Parquet files keep in ``other_attributes``."""
    others = row.get("other_attributes")
    if isinstance(others, str):
        others = json.loads(others)
    return replace(row, columns={**(others or {}), **row.columns})


def _sound(row: RowOfData, folder: Path) -> Path | bytes:
    for column in ("audio", "context"):
        if row.get(column) is not None:
            return embedded_audio(row, folder, column)
    return find_sound(row.text("audio_id", "audio_path"), folder)


def _slots(answer: Answer) -> dict[str, str]:
    # The judge has to see the options, so the question is the whole instruction.
    return {
        "question": answer.instruction or "",
        "reference": answer.fields["answer"],
        "reply": answer.text,
    }


def _string_match(answer: Answer) -> Verdict:
    fields = answer.fields
    return points(mmau_match(fields["answer"], fields["choices"], answer.text))


_judge = JudgeTask("judge", "chosen_option", _slots, read_yes_or_no)
BENCHMARK = Benchmark(
    name="mmau",
    title="MMAU v05.15.25 test-mini",
    folder="MMAU",
    layout=(
        "gamma-lab-umd/MMAU-test-mini: Parquet files that hold the sounds, or "
        "mmau-test-mini.json and test-mini-audios/<id>.wav"
    ),
    needs="judge (gpt-4o-mini); without one the benchmark's own string match",
    notes=("the paper's value is taken to be the judge's; string match is shown beside it",),
    hub=(
        HubData(
            "gamma-lab-umd/MMAU-test-mini",
            layouts=(("*.parquet",), ("*test-mini*.json", "test-mini-audios/*")),
        ),
    ),
    subsets=(
        Subset(
            "test-mini",
            _load,
            (
                Metric("judge", judged(_judge)),
                Metric("string match", each(_string_match)),
            ),
            (
                Row(
                    _GROUP,
                    "MMAU v05.15.25 test-mini",
                    (("judge",), ("string match",)),
                    note="scored by string match",
                ),
            ),
            1000,
        ),
    ),
)
