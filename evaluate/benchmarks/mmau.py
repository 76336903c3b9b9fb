# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMAU test-mini: multiple-choice questions on environmental audio, music and speech."""

import json
from collections.abc import Iterator
from dataclasses import replace
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
    as_list,
    embedded_audio,
    find_audio,
    given_choices,
    items_of,
    json_list,
    parquet_rows,
    right_choice,
)
from evaluate.metrics import judged, read_yes_or_no
from evaluate.scorers.choices import mmau_match
from evaluate.scoring_tools import JudgeTask
from evaluate.verdict import Answer, Verdict, scored

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
            "audio": _audio(row, folder),
            "instruction": choice_instruction(row.text("question", "instruction"), choices),
            "fields": fields,
        }

    named = sorted(folder.glob("*test-mini*.json*"))
    parquet = sorted(folder.glob("**/*.parquet"))
    if parquet and not named:
        return items_of(parquet_rows(parquet), item)
    return items_of(json_list(named[0] if named else folder / "mmau-test-mini.json"), item)


def _flat(row: RowOfData) -> RowOfData:
    """Add the columns that the hub's Parquet files store in ``other_attributes``."""
    others = row.get("other_attributes")
    if isinstance(others, str):
        others = json.loads(others)
    return replace(row, columns={**(others or {}), **row.columns})


def _audio(row: RowOfData, folder: Path) -> Path | bytes:
    for column in ("audio", "context"):
        if row.get(column) is not None:
            return embedded_audio(row, folder, column)
    return find_audio(row.text("audio_id", "audio_path"), folder)


def _slots(answer: Answer) -> dict[str, str]:
    # The judge must see the options, so the question is the whole instruction.
    return {
        "question": answer.instruction or "",
        "reference": answer.fields["answer"],
        "reply": answer.text,
    }


def _string_match(answer: Answer) -> Verdict:
    fields = answer.fields
    return scored(mmau_match(fields["answer"], fields["choices"], answer.text))


_judge = JudgeTask("judge", "chosen_option", _slots, read_yes_or_no)
BENCHMARK = Benchmark(
    name="mmau",
    title="MMAU v05.15.25 test-mini",
    folder="MMAU",
    layout=(
        "gamma-lab-umd/MMAU-test-mini: Parquet files with embedded audio, or "
        "mmau-test-mini.json and test-mini-audios/<id>.wav"
    ),
    needs="judge (gpt-4o-mini); without a judge, the benchmark's own string match",
    notes=("the paper's value is assumed to be the judge's; the string match is shown as well",),
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
                Metric("string match", per_answer(_string_match)),
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
