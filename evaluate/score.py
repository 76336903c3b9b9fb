# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Score the answers of a run, without loading the model that produced them.

A metric that cannot be computed because a judge, weights or a package is missing is marked *not
scored* with the reason, and never counts as zero. Failed items are not scored either: they are
counted, and make the subset incomplete.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.core import Benchmark, Metric, Row, Subset
from evaluate.embedder import Embedder
from evaluate.judges import Judges
from evaluate.pedant import VOICEBENCH_VERSION, pedant_verdicts
from evaluate.records import (
    Prediction,
    answers_of,
    load_predictions,
    read_json,
    subset_folder,
    versions_of,
    write_json,
    write_json_lines,
)
from evaluate.scorers.turn_taking import TurnLimits
from evaluate.scoring_tools import JudgeTask
from evaluate.speech import OpinionScore, Transcriber
from evaluate.statistics import Estimate, Weights, estimate, mean_of
from evaluate.verdict import Answer, AudioUnavailable, NotScored, Verdict

REFERENCE_LIMIT_S = 30.0  # the reference truncates longer questions to this length


@dataclass
class Tools:
    """The scoring tools of a run; None for those that the user did not provide.

    Attributes:
        used: kind of tool -> the one that a metric used, for the report.
    """

    judges: Judges = field(default_factory=Judges)
    transcriber: Transcriber | None = None
    opinion: OpinionScore | None = None
    embedder: Embedder | None = None
    pedant_python: Path | None = None
    pedant_models: Path | None = None
    turn_limits: TurnLimits = TurnLimits()  # noqa: RUF009
    used: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Reset the record of the tools used."""
        self.used.clear()
        self.judges.start()

    def judge_replies(self, task: JudgeTask, answers: list[Answer]) -> list[tuple[list[str], str]]:
        """Ask the judge of a task."""
        return self.judges.replies(task, answers)

    def transcripts(self, answers: list[Answer]) -> list[str | AudioUnavailable]:
        """Transcribe the spoken replies."""
        if self.transcriber is None:
            raise NotScored(
                "needs speech recognition: pass --asr FOLDER with openai/whisper-large-v3"
            )
        self.used["speech recognition"] = self.transcriber.name
        return self.transcriber.transcripts(answers)

    def utmos(self, answers: list[Answer]) -> list[float | AudioUnavailable | None]:
        """Predict the opinion scores of the spoken replies."""
        if self.opinion is None:
            raise NotScored(
                "needs the UTMOS weights: pass --utmos FILE with utmos_scripted.pt "
                "(see evaluate/README.md)"
            )
        self.used["UTMOS"] = self.opinion.name
        return self.opinion.scores(answers)

    def embed(self, texts: list[str]) -> np.ndarray:
        """Embed texts as unit vectors [N, D]."""
        if self.embedder is None:
            raise NotScored(
                "needs an embedder: pass --embedder FOLDER with nvidia/NV-Embed-v2 and "
                "--embedder-python (see evaluate/README.md)"
            )
        vectors = self.embedder.embed(texts)
        self.used["embedder"] = self.embedder.name
        return vectors

    def pedant(self, answers: list[Answer]) -> list[bool]:
        """Decide with PEDANT which answers are correct."""
        if self.pedant_python is None:
            raise NotScored("needs PEDANT: pass --pedant-python PATH (see evaluate/README.md)")
        verdicts, version_ = pedant_verdicts(answers, self.pedant_python, self.pedant_models)
        known = f"qa-metrics {version_}"
        if version_ != VOICEBENCH_VERSION:
            known += f" (scores may differ from those of VoiceBench's {VOICEBENCH_VERSION})"
        self.used["PEDANT"] = known
        return verdicts


def score_subset(
    benchmark: Benchmark, subset: Subset, run: Path, tools: Tools
) -> dict[str, Any] | None:
    """Score a subset, write ``scores.jsonl`` and ``summary.json``, and return the summary.

    Returns None if the run has no predictions of the subset.
    """
    folder = subset_folder(run, benchmark.name, subset.name)
    predictions = load_predictions(folder)
    if not predictions:
        return None
    known = read_json(folder / "subset.json") if (folder / "subset.json").is_file() else {}
    answers, thoughts = answers_of(folder, predictions)
    errors = Counter(p.error for p in predictions if p.error is not None)
    by_item: dict[str, dict[str, Any]] = {answer.id: {} for answer in answers}
    metrics: dict[str, dict[str, Any]] = {}
    estimates: dict[str, Estimate] = {}
    incomplete: dict[str, int] = {}
    for metric in subset.metrics:
        tools.start()
        metrics[metric.name], found, missing = _score(metric, answers, tools, by_item)
        if found is not None:
            estimates[metric.name], incomplete[metric.name] = found, missing
    items = known.get("items") or len(predictions)
    summary = {
        "benchmark": benchmark.name,
        "subset": subset.name,
        "items": items,
        "expected": subset.count,
        "answered": len(answers),
        "failed": sum(errors.values()),
        "failures": dict(errors.most_common(5)),
        "thoughts_cut": thoughts,
        "cut": sum(p.cut for p in predictions if p.error is None),
        "longer_than_reference": sum(
            p.error is None and (p.heard_s or 0) > REFERENCE_LIMIT_S for p in predictions
        ),
        "shortened": _shortened(run, predictions),
        "settings": sorted({p.settings_hash for p in predictions}),
        "metrics": metrics,
        "rows": [
            _row(row, metrics, estimates, incomplete, len(answers) < max(items, subset.count or 0))
            for row in subset.rows
        ],
    }
    keys = {p.id: p.item_key for p in predictions}
    write_json_lines(
        folder / "scores.jsonl",
        ({"id": id_, "item_key": keys[id_], **scores} for id_, scores in by_item.items()),
    )
    write_json(folder / "summary.json", summary)
    return summary


def _shortened(run: Path, predictions: list[Prediction]) -> int:
    """Count answers to questions that were truncated to less than the reference's limit."""
    known = read_json(run / "run.json")["settings"] if (run / "run.json").is_file() else {}
    limits = {hash_: settings.get("longest_question_s") for hash_, settings in known.items()}
    return sum(
        p.error is None
        and (limit := limits.get(p.settings_hash)) is not None
        and limit < REFERENCE_LIMIT_S
        and (p.heard_s or 0) >= limit - 0.001
        for p in predictions
    )


def _score(
    metric: Metric, answers: list[Answer], tools: Tools, by_item: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], Estimate | None, int]:
    """Compute a metric: its summary, its estimate, and the number of answers without a verdict."""
    if not answers:
        return {"not_scored": "no item was answered"}, None, 0
    try:
        verdicts = metric.scorer(answers, tools)
    except NotScored as reason:
        return {"not_scored": str(reason)}, None, 0
    for answer, verdict in zip(answers, verdicts, strict=True):
        by_item[answer.id][metric.name] = _verdict_row(verdict)
    reasons = dict(Counter(v.reason for v in verdicts if v.reason).most_common(5))
    found = _estimate(metric, verdicts, metric.weights(verdicts))
    if found is None:
        first = next(iter(reasons), "nothing to count")
        return {"not_scored": first, "reasons": reasons}, None, 0
    missing = sum(verdict.missing for verdict in verdicts)
    return (
        {
            **_estimate_row(found),
            "invalid": sum(not v.parts and not v.missing for v in verdicts),
            "missing": missing,
            "parts": _parts(verdicts, metric),
            "reasons": reasons,
            "note": metric.note,
            "version": metric.version,
            "tools": dict(tools.used),
            "libraries": versions_of(metric.libraries),
            "judges": tools.judges.models(),
            "judge_prompts": dict(tools.judges.prompts.used),
            "judge_replies_per_item": tools.judges.most_replies,
        },
        found,
        missing,
    )


def _estimate(metric: Metric, verdicts: list[Verdict], weights: Weights) -> Estimate | None:
    found = estimate(verdicts, weights, metric.scale)
    return found and replace(found, step=metric.step, highest=metric.highest)


def _parts(verdicts: list[Verdict], metric: Metric) -> dict[str, dict[str, Any]]:
    """Compute the value of each part separately."""
    parts = {}
    for name in metric.weights(verdicts):
        part = _estimate(metric, verdicts, {name: 1.0})
        if name and part is not None:
            parts[name] = _estimate_row(part)
    return parts


def _verdict_row(verdict: Verdict) -> dict[str, Any]:
    row = {key: value for key, value in asdict(verdict).items() if value}
    if verdict.parts:
        row["score"] = [n / d if d else None for n, d in verdict.parts.values()]
    return row


def _estimate_row(found: Estimate) -> dict[str, Any]:
    low, high = found.interval or (None, None)
    row = {
        "value": found.reported,
        "low": low,
        "high": high,
        "standard_error": found.standard_error,
    }
    rounded = {k: None if v is None else round(v, 6) for k, v in row.items()}
    return {**rounded, "n": found.count}


def _row(
    row: Row,
    metrics: dict[str, dict[str, Any]],
    estimates: dict[str, Estimate],
    incomplete: dict[str, int],
    partial: bool,
) -> dict[str, Any]:
    """Fill a row of a table from the first choice of metrics that could be computed.

    Args:
        row: the row.
        metrics: summaries by name.
        estimates: estimates of the metrics that were computed.
        incomplete: for each of these, the number of answers without a verdict.
        partial: whether items of the published set are missing or unanswered.
    """
    made: dict[str, Any] = {
        "group": row.group,
        "row": row.name,
        "part": row.part,
        "unlike": row.unlike,
    }
    for choice, names in enumerate(row.choices):
        if not all(name in estimates for name in names):
            continue
        made |= {
            "by": list(names),
            "note": row.note if choice else "",
            "complete": not partial
            and not any(incomplete[name] for name in names)
            and (choice == 0 or row.fallback_complete),
        }
        if row.part is None:
            return {**made, **_estimate_row(mean_of([estimates[name] for name in names]))}
        part = metrics[names[0]]["parts"].get(row.part)
        return {**made, **(part or {"not_scored": "none of its items has a score"})}
    reasons = [
        metrics[name]["not_scored"]
        for names in row.choices
        for name in names
        if "not_scored" in metrics[name]
    ]
    return {**made, "not_scored": "; ".join(dict.fromkeys(reasons))}


def table_value(values: dict[str, float], factors: dict[str, float]) -> float:
    """Compute the Overall or Avg. row of a table from its other rows.

    Args:
        values: value of each other row.
        factors: weights of rows that do not have weight 1.
    """
    return sum(factors.get(name, 1) * value for name, value in values.items()) / len(values)
