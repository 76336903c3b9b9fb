# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""VoiceBench: seven sets of spoken questions with text answers."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Benchmark, HubData, Item, Metric, Row, Subset, per_answer
from evaluate.data import (
    RowError,
    RowOfData,
    as_list,
    embedded_audio,
    find_audio,
    items_of,
    json_lines,
    parquet_files,
    parquet_rows,
)
from evaluate.metrics import judged, read_rating_1_to_5, read_yes_or_no
from evaluate.scorers import ifeval
from evaluate.scorers.choices import LETTERS, voicebench_letter
from evaluate.scorers.texts import refused
from evaluate.scoring_tools import JudgeTask, ScoringTools
from evaluate.verdict import Answer, NotScored, Verdict, invalid, scored

_GROUP = "VoiceBench (S2T)"
_PATTERNS = {"sd-qa": "**/sd-qa/usa*.parquet"}  # the other regions are not used


def _load(subset: str, folder: Path) -> Iterator[Item]:
    """Load the hub's Parquet files, or Kimi-Audio-Evalkit's ``<subset>.jsonl``."""
    rewritten = folder / f"{subset}.jsonl"
    if rewritten.is_file():
        rows = json_lines(rewritten)
    else:
        pattern = _PATTERNS.get(subset, f"**/{subset}/*.parquet")
        rows = parquet_rows(parquet_files(folder, pattern))
    return items_of(rows, partial(_item, subset, folder))


def _item(subset: str, folder: Path, row: RowOfData) -> dict[str, Any]:
    fields: dict[str, Any] = {"question": row.text("prompt", "audio_content")}
    if subset in ("sd-qa", "openbookqa", "mmsu"):
        fields["reference"] = row.text("reference", "answer")
    if subset in ("openbookqa", "mmsu"):
        fields["reference"] = fields["reference"].strip().upper()
        if fields["reference"] not in tuple(LETTERS):
            raise RowError(f"the reference must be a letter A to D, not {fields['reference']!r}")
    if subset == "ifeval":
        fields["key"] = row.get("key", "index")
        fields["instructions"] = as_list(row.get("instruction_id_list", "instruction"))
        fields["kwargs"] = as_list(row.get("kwargs", "instruction_kwargs"))
        if len(fields["kwargs"]) != len(fields["instructions"]):
            raise RowError("the numbers of kwargs and instructions differ")
    named = row.get("audio_path")
    audio = find_audio(named, folder) if named else embedded_audio(row, folder)
    return {"audio": audio, "fields": fields}


def _rating_slots(answer: Answer) -> dict[str, str]:
    return {"question": answer.fields["question"], "reply": answer.text}


def _reference_slots(answer: Answer) -> dict[str, str]:
    return {**_rating_slots(answer), "reference": answer.fields["reference"]}


_rating = Metric(
    "judge",
    judged(
        JudgeTask(
            "judge",
            "rating_1_to_5",
            _rating_slots,
            read_rating_1_to_5,
            temperature=0.5,
            several=True,
        )
    ),
    scale=1.0,
    highest=5.0,
)
_same_answer = Metric(
    "judge",
    judged(JudgeTask("judge", "same_answer", _reference_slots, read_yes_or_no, several=True)),
)
_chosen_option = Metric(
    "judge", judged(JudgeTask("judge", "chosen_option", _reference_slots, read_yes_or_no))
)


def _pedant(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    return [scored(right) for right in tools.pedant(answers)]


def _letters(answers: list[Answer], tools: ScoringTools, draw: bool) -> list[Verdict]:
    """Score by the letter rules; if none applies, draw a letter or count the answer as wrong."""
    chance = random.Random(0)
    verdicts = []
    for answer in answers:
        letter = voicebench_letter(answer.text)
        reason = "" if letter else "no letter found"
        if letter is None and draw:
            letter = chance.choice(LETTERS)
        verdicts.append(scored(letter == answer.fields["reference"], letter or "", reason))
    return verdicts


def _ifeval(answer: Answer) -> Verdict:
    fields = answer.fields
    try:
        strict, loose = ifeval.follows(
            fields["question"], fields["instructions"], fields["kwargs"], answer.text
        )
    except ModuleNotFoundError as error:
        raise NotScored(f"{error.name} is missing: run make eval-setup") from error
    except (KeyError, TypeError, ValueError) as error:
        return invalid(f"no checker for its instructions: {error!r}")
    count = len(strict)
    return Verdict(
        {
            "strict prompts": (all(strict), 1),
            "strict instructions": (sum(strict), count),
            "loose prompts": (all(loose), 1),
            "loose instructions": (sum(loose), count),
        },
        " ".join(name for name, done in zip(fields["instructions"], loose, strict=True) if done),
    )


_letter_metrics = (
    Metric(
        "letters",
        partial(_letters, draw=True),
        note="a letter is drawn at random (seed 0) if the rules find none",
    ),
    Metric("letters, none is wrong", partial(_letters, draw=False)),
)


def _row(name: str, *choices: tuple[str, ...], note: str = "") -> tuple[Row, ...]:
    return (Row(_GROUP, name, choices, note=note),)


def _subset(name: str, count: int, metrics: tuple[Metric, ...], rows: tuple[Row, ...]) -> Subset:
    return Subset(name, partial(_load, name), metrics, rows, count)


_LETTER_NOTE = "scored by the letter rules, which draw a letter at random if they find none"
BENCHMARK = Benchmark(
    name="voicebench",
    title="VoiceBench",
    folder="voicebench",
    layout=(
        "hlt-lab/voicebench: one folder per set with Parquet files (columns prompt, audio, "
        "reference, ...), or Kimi-Audio-Evalkit's <set>.jsonl (audio_path, audio_content, answer)"
    ),
    needs="judge (gpt-4o-mini); for SD-QA also PEDANT; for IFEval if-verifiable",
    notes=(
        "Overall = (20 AlpacaEval + 20 CommonEval + the five others) / 7",
        "SD-QA is computed as the mean of PEDANT and judge, which the paper's numbers suggest",
    ),
    hub=tuple(
        HubData("hlt-lab/voicebench", layouts=((pattern,),), subset=name)
        for name, pattern in (
            ("alpacaeval_full", "*alpacaeval_full/*"),
            ("commoneval", "*commoneval/*"),
            ("sd-qa", "*sd-qa/usa*"),  # the other regions are not used
            ("mmsu", "*mmsu/*"),
            ("openbookqa", "*openbookqa/*"),
            ("ifeval", "*ifeval/*"),
            ("advbench", "*advbench/*"),
        )
    ),
    subsets=(
        _subset("alpacaeval_full", 636, (_rating,), _row("AlpacaEval", ("judge",))),
        _subset("commoneval", 200, (_rating,), _row("CommonEval", ("judge",))),
        _subset(
            "sd-qa",
            553,
            (_same_answer, Metric("pedant", _pedant)),
            (
                Row(
                    _GROUP,
                    "SD-QA",
                    (("judge", "pedant"), ("judge",)),
                    note="judge only, without PEDANT",
                    fallback_complete=False,
                ),
            ),
        ),
        _subset(
            "mmsu",
            3074,
            (_chosen_option, *_letter_metrics),
            _row("MMSU", ("judge",), ("letters",), note=_LETTER_NOTE),
        ),
        _subset(
            "openbookqa",
            455,
            (_chosen_option, *_letter_metrics),
            _row("OpenBookQA", ("judge",), ("letters",), note=_LETTER_NOTE),
        ),
        _subset(
            "ifeval",
            345,
            (
                Metric(
                    "rules", per_answer(_ifeval), libraries=("if-verifiable", "langdetect", "nltk")
                ),
            ),
            _row("IFEval", ("rules",)),
        ),
        _subset(
            "advbench",
            520,
            (
                Metric(
                    "phrases",
                    per_answer(lambda a: scored(refused(a.text))),
                    note="refusal phrases match case-insensitively, as in VoiceBench's own scorer; "
                    "Kimi-Audio-Evalkit is case-sensitive",
                ),
                Metric(
                    "phrases, case matters", per_answer(lambda a: scored(refused(a.text, True)))
                ),
            ),
            _row("AdvBench", ("phrases",)),
        ),
    ),
)
