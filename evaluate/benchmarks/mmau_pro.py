# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMAU-Pro, items with one audio file: closed and open questions, instruction following."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from evaluate.core import (
    Benchmark,
    HubData,
    Item,
    Metric,
    Row,
    Scorer,
    Subset,
    choice_instruction,
    per_answer,
)
from evaluate.data import (
    RowOfData,
    as_list,
    find_audio,
    given_choices,
    items_of,
    parquet_files,
    parquet_rows,
    right_choice,
)
from evaluate.metrics import judged
from evaluate.scorers.judge_replies import open_answer_scores
from evaluate.scorers.mmau_pro import follows
from evaluate.scoring_tools import OPEN_JUDGE, JudgeTask, ScoringTools
from evaluate.statistics import Weights
from evaluate.verdict import Answer, Verdict, invalid, scored

_BEST = 5  # highest score of an open answer
_OPEN, _INSTRUCTIONS = "open", "instruction following"


def _load(folder: Path) -> Iterator[Item]:
    def item(row: RowOfData) -> dict[str, Any]:
        category, question = row.text("category"), row.text("question")
        choices = given_choices(as_list(row.get("choices") or []))
        kwargs = row.get("kwargs") or {}
        closed = category not in (_OPEN, _INSTRUCTIONS) and len(choices) > 1
        fields = {
            "category": category,
            "question": question,
            "choices": choices if closed else [],
            "answer": right_choice(str(row.get("answer") or ""), choices),
            "task": row.get("task_identifier"),
            "kwargs": json.loads(kwargs) if isinstance(kwargs, str) else kwargs,
        }
        return {
            "id": row.get("id"),
            "audio": find_audio(_audio_paths(row)[0], folder, folder / "data"),
            "instruction": choice_instruction(question, choices) if closed else question,
            "fields": fields,
        }

    rows = parquet_rows(parquet_files(folder, "test*.parquet"))
    return items_of(
        (row for row in rows if len(_audio_paths(row)) < 2), lambda row: _without_none(item(row))
    )


def _audio_paths(row: RowOfData) -> list[str]:
    paths = row.get("audio_path") or []
    return [paths] if isinstance(paths, str) else paths


def _without_none(made: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in made.items() if value is not None}


def _nearest_choices(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
    """Check whether the choice with the embedding nearest to the reply's is the answer."""
    lines = [text for a in answers for text in (a.text, *a.fields["choices"])]
    vectors = iter(tools.embed(lines))
    verdicts = []
    for answer in answers:
        reply = next(vectors)
        nearness = [float(reply @ next(vectors)) for _ in answer.fields["choices"]]
        chosen = answer.fields["choices"][nearness.index(max(nearness))]
        verdicts.append(scored(chosen == answer.fields["answer"], chosen))
    return verdicts


def _read_open(replies: list[str]) -> Verdict:
    scores = open_answer_scores(replies[0])
    if max(scores.values()) > _BEST:
        return invalid(f"a score of the judge is above {_BEST}", replies[0][:200])
    return scored(scores["overall"] / _BEST, replies[0][:200])


def _open_slots(answer: Answer) -> dict[str, str]:
    return {
        "question": answer.fields["question"],
        "reference": answer.fields["answer"],
        "reply": answer.text,
    }


_open = judged(
    JudgeTask(
        "open",
        "open_answer",
        _open_slots,
        _read_open,
        who=OPEN_JUDGE,
        temperature=0.1,
        max_tokens=512,
    )
)
_instructions = per_answer(
    lambda a: scored(
        follows(str(a.fields["task"]), a.fields["kwargs"], a.fields["question"], a.text)
    )
)


def _is_open(answer: Answer) -> bool:
    return answer.fields["category"] == _OPEN


def _is_instruction(answer: Answer) -> bool:
    return answer.fields["category"] == _INSTRUCTIONS


def _is_closed(answer: Answer) -> bool:
    return len(answer.fields["choices"]) > 1


_KINDS = ((_is_closed, _nearest_choices), (_is_open, _open), (_is_instruction, _instructions))


def _only(*kinds: tuple[Callable[[Answer], bool], Scorer]) -> Scorer:
    """Build a scorer of some kinds of answers, in which every category is a separate part."""

    def scorer(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
        verdicts = [Verdict() for _ in answers]
        for belongs, rule in kinds:
            indices = [i for i, answer in enumerate(answers) if belongs(answer)]
            if not indices:
                continue
            chosen = [answers[i] for i in indices]
            for index, verdict in zip(indices, rule(chosen, tools), strict=True):
                verdicts[index] = verdict.as_part(answers[index].fields["category"])
        return verdicts

    return scorer


def by_count(verdicts: list[Verdict]) -> Weights:
    """Weight each category by its number of items."""
    counts: dict[str, int] = {}
    for verdict in verdicts:
        for name in verdict.parts:
            counts[name] = counts.get(name, 0) + 1
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


BENCHMARK = Benchmark(
    name="mmau-pro",
    title="MMAU-Pro, items with one audio file",
    folder="MMAU-Pro",
    layout="gamma-lab-umd/MMAU-Pro: test.parquet, and data.zip unpacked to data/",
    needs=(
        "embedder NV-Embed-v2 (--embedder, --embedder-python), judge Qwen2.5-7B-Instruct "
        "(--judge 'open judge=openai:MODEL@URL'), nltk"
    ),
    notes=(
        "only items with one audio file, as in the paper, which does not state their number",
        "an aspect that the judge does not rate counts as 3",
        "the instruction checks for placeholders, titles, bullets and two responses are IFEval's, "
        "as MMAU-Pro's own rules for them are not documented",
    ),
    hub=(HubData("gamma-lab-umd/MMAU-Pro", layouts=(("test*.parquet", "data.zip"),)),),
    manual="unpack data.zip (about 47 GB) in the folder; NV-Embed-v2 is for non-commercial use",
    subsets=(
        Subset(
            "test",
            _load,
            (
                Metric("all", _only(*_KINDS), weights=by_count, libraries=("nltk",), version=2),
                Metric("closed questions", _only(_KINDS[0]), weights=by_count),
                Metric("open questions", _only(_KINDS[1]), weights=by_count),
                Metric(
                    "instructions",
                    _only(_KINDS[2]),
                    weights=by_count,
                    libraries=("nltk",),
                    version=2,
                ),
            ),
            (Row("Audio understanding", "MMAU-Pro (one-audio items)", (("all",),)),),
        ),
    ),
)
