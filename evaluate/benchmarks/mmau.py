# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMAU test-mini: multiple-choice questions on sounds, music and speech."""

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
    points,
)
from evaluate.data import RowOfData, as_list, find_file, items_of, json_list
from evaluate.metrics import JudgeTask, judged, read_yes_or_no
from evaluate.scorers.choices import mmau_match

_GROUP = "Audio understanding"


def _load(folder: Path) -> Iterator[Item]:
    def item(row: RowOfData) -> dict[str, Any]:
        choices = [str(choice) for choice in as_list(row.get("choices"))]
        fields = {
            "answer": row.text("answer"),
            "choices": choices,
            "task": row.text("task"),
        }
        return {
            "id": row.text("id"),
            "audio": find_file(row.text("audio_id"), folder),
            "instruction": choice_instruction(row.text("question"), choices),
            "fields": fields,
        }

    named = sorted(folder.glob("*test-mini*.json*"))
    return items_of(json_list(named[0] if named else folder / "mmau-test-mini.json"), item)


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
    layout="gamma-lab-umd/MMAU-test-mini: mmau-test-mini.json and test-mini-audios/<id>.wav",
    needs="judge (gpt-4o-mini); without one the benchmark's own string match",
    notes=("the paper's value is taken to be the judge's; string match is shown beside it",),
    hub=(HubData("gamma-lab-umd/MMAU-test-mini"),),
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
                    _GROUP, "MMAU v05.15.25 test-mini", (("judge",), ("string match",)),
                    note="scored by string match",
                ),
            ),
            1000,
        ),
    ),
)
