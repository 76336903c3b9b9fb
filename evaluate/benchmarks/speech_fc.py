# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""SpeechFCEval: spoken requests for function calls, from BFCL, ACEBench and SmartInteract."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Benchmark, HubData, Item, Metric, Row, Subset, per_answer
from evaluate.data import RowOfData, as_list, find_file, items_of, json_lines
from evaluate.scorers import acebench, bfcl
from evaluate.verdict import Answer, Verdict, scored
from funaudiochat.constants import FUNCTION_CALLING_PROMPT

# name -> row of the table, rules, items
SETS = {
    "SpeechFC_ACEBench_Single": ("ACEBench Single", "acebench", 208),
    "SpeechFC_ACEBench_Parallel": ("ACEBench Parallel", "acebench", 88),
    "SpeechFC_BFCL_Single": ("BFCL Single", "single", 578),
    "SpeechFC_BFCL_Parallel": ("BFCL Parallel", "parallel", 372),
    "SpeechFC_SmartInteract": ("SmartInteract", "single", 668),
}
REFERENCE_FIELDS = (
    "utterance",
    "file_name",
    "function",
    "time",
    "ground_truth",
    "category",
    "dataset_key",
)


def system_prompt(tools: list[Any]) -> str:
    """Build the system prompt with one line of JSON per function."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return FUNCTION_CALLING_PROMPT.replace("{tools_definition}", lines)


def check(rules: str, fields: dict[str, Any], reply: str) -> bfcl.CallVerdict:
    """Check the calls of a reply by the rules of the set.

    Args:
        rules: "single", "parallel" or "acebench".
        fields: fields as in the reference's files; ``function`` and ``ground_truth`` are JSON.
        reply: reply of the model with special tokens.
    """
    try:
        tools = as_list(fields["function"])
        expected = fields["ground_truth"]
        expected = json.loads(expected) if isinstance(expected, str) else expected
    except (KeyError, ValueError, RecursionError) as error:
        return bfcl.CallVerdict(False, f"malformed:{error}")
    if rules == "acebench":
        return acebench.check(tools, expected, reply)
    return bfcl.check(tools, expected, reply, parallel=rules == "parallel")


def _score(rules: str, answer: Answer) -> Verdict:
    verdict = check(rules, answer.fields, answer.raw_text)
    return scored(verdict.valid, reason="" if verdict.valid else verdict.error_type)


def _load(name: str, root: Path) -> Iterator[Item]:
    names = (name, name.replace("_", "-"))
    folder = next((f for n in names if (f := root / n).is_dir()), root / name)

    def item(row: RowOfData) -> dict[str, Any]:
        file_name = row.text("file_name")
        audio = find_file(file_name, folder, root, folder / "wav")
        if not audio.is_file():
            audio = find_file(Path(file_name).name, folder / "wav", root / "wav")
        json.loads(row.text("ground_truth"))
        return {
            "audio": audio,
            "system": system_prompt(as_list(row.text("function"))),
            "system_extra": str(row.get("time") or "") or None,
            "fields": {key: row.get(key) for key in REFERENCE_FIELDS},
        }

    return items_of(json_lines(folder / "metadata.jsonl"), item)


BENCHMARK = Benchmark(
    name="speech-fc",
    title="SpeechFCEval",
    folder="SpeechFCEval",
    layout="FunAudioLLM/SpeechFCEval: <set>/metadata.jsonl and <set>/wav/",
    notes=(
        "ACEBench's rules do not compare numbers and booleans at the top level, and round "
        "proportions to three decimals (66.3 for 66.35)",
        "no published prompt contains the field `time`; --time-in-prompt adds it",
    ),
    hub=tuple(
        HubData(
            "FunAudioLLM/SpeechFCEval",
            layouts=((f"{name}/*",), (f"{name.replace('_', '-')}/*",)),
            subset=name,
        )
        for name in SETS
    ),
    subsets=tuple(
        Subset(
            name,
            partial(_load, name),
            (
                Metric(
                    "calls",
                    per_answer(partial(_score, rules)),
                    step=0.1 * (rules == "acebench"),
                    version=1 + (rules == "acebench"),
                ),
            ),
            (Row("SpeechFCEval", row, (("calls",),)),),
            count,
        )
        for name, (row, rules, count) in SETS.items()
    ),
)
