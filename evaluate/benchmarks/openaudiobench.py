# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""OpenAudioBench: five sets of spoken questions, answered with text and judged."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Benchmark, HubData, Item, Metric, Row, Subset
from evaluate.data import RowOfData, csv_rows, find_file, items_of
from evaluate.metrics import judged, read_by, read_rating_1_to_10
from evaluate.scorers.judge_replies import grade_0_to_5, is_judged_correct, is_scored_correct
from evaluate.scoring_tools import JudgeTask
from evaluate.verdict import Answer, Verdict

_GROUP = "OpenAudioBench (S2T)"


def _load(subset: str, question: str, reference: str, root: Path) -> Iterator[Item]:
    folder = root / "eval_datas" / subset
    if not folder.is_dir():
        folder = root / subset

    def item(row: RowOfData) -> dict[str, Any]:
        fields = {"question": row.text(question), "reference": row.text(reference)}
        return {"audio": find_file(row.text("audio_filename"), folder / "audios"), "fields": fields}

    return items_of(csv_rows(folder / f"{subset}.csv"), item)


def _slots(answer: Answer) -> dict[str, str]:
    return {
        "question": answer.fields["question"],
        "reference": answer.fields["reference"],
        "reply": answer.text,
    }


def _subset(
    name: str,
    row: str,
    columns: tuple[str, str],
    count: int,
    prompt: str,
    read: Callable[[list[str]], Verdict],
    scale: float,
) -> Subset:
    metric = Metric("judge", judged(JudgeTask("judge", prompt, _slots, read)), scale)
    return Subset(
        name, partial(_load, name, *columns), (metric,), (Row(_GROUP, row, (("judge",),)),), count
    )


_correct = read_by(is_scored_correct, "no score in the judge's reply")
_grade = read_by(grade_0_to_5, "no grade in the judge's reply")
_judgment = read_by(is_judged_correct, "no judgment in the judge's reply")

BENCHMARK = Benchmark(
    name="openaudiobench",
    title="OpenAudioBench",
    folder="OpenAudioBench",
    layout=(
        "baichuan-inc/OpenAudioBench: eval_datas/<set>/<set>.csv and "
        "eval_datas/<set>/audios/<audio_filename>"
    ),
    needs="judge (gpt-4o-mini)",
    notes=("judge replies that cannot be parsed are excluded from the denominator",),
    hub=tuple(
        HubData("baichuan-inc/OpenAudioBench", layouts=((f"eval_datas/{name}/*",),), subset=name)
        for name in ("alpaca_eval", "llama_questions", "reasoning_qa", "trivia_qa", "web_questions")
    ),
    subsets=(
        _subset(
            "alpaca_eval",
            "AlpacaEval",
            ("instruction", "output"),
            199,
            "rating_1_to_10",
            read_rating_1_to_10,
            10,
        ),
        _subset(
            "llama_questions",
            "Llama Q.",
            ("Questions", "Answer"),
            300,
            "score_is_correct",
            _correct,
            100,
        ),
        _subset(
            "reasoning_qa",
            "Reasoning QA",
            ("Prompt", "参考答案"),
            202,
            "grade_0_to_5",
            _grade,
            20,
        ),
        _subset(
            "trivia_qa",
            "TriviaQA",
            ("question", "answer_normalized_aliases"),
            1000,
            "judgment_json",
            _judgment,
            100,
        ),
        _subset(
            "web_questions",
            "Web Q.",
            ("question", "answers"),
            1000,
            "judgment_json",
            _judgment,
            100,
        ),
    ),
)
