# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Pairwise comparison of runs, row by row, over the items that both answered."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from evaluate.benchmarks import BENCHMARKS
from evaluate.core import Benchmark, Metric, Row, Subset
from evaluate.records import json_rows, read_json, subset_folder
from evaluate.statistics import Difference, Weights, paired_bootstrap
from evaluate.verdict import Verdict


@dataclass(frozen=True)
class Pair:
    """A row of two runs: the difference of the second to the first, or why there is none."""

    group: str
    row: str
    first: str
    second: str
    found: Difference | None = None
    reason: str = ""


def compare(runs: list[Path], names: list[str]) -> list[Pair]:
    """Compare every pair of runs, row by row, over the items that both answered."""
    return [
        Pair(
            row.group,
            row.name,
            names[i],
            names[k],
            *_compared(benchmark, subset, row, runs[i], runs[k]),
        )
        for i, k in combinations(range(len(runs)), 2)
        for benchmark in BENCHMARKS.values()
        for subset in benchmark.subsets
        if all(
            (subset_folder(runs[j], benchmark.name, subset.name) / "summary.json").is_file()
            for j in (i, k)
        )
        for row in subset.rows
    ]


def _compared(
    benchmark: Benchmark, subset: Subset, row: Row, *runs: Path
) -> tuple[Difference | None, str]:
    folders = [subset_folder(run, benchmark.name, subset.name) for run in runs]
    by = []
    for folder in folders:
        rows = read_json(folder / "summary.json")["rows"]
        made = next(r for r in rows if (r["group"], r["row"]) == (row.group, row.name))
        if "value" not in made:
            return None, "not scored in both runs"
        by.append(made["by"])
    if by[0] != by[1]:
        return (
            None,
            f"scored by {' and '.join(by[0])} in one run, by {' and '.join(by[1])} in the other",
        )
    one, two = ({_item(r): r for r in json_rows(folder / "scores.jsonl")} for folder in folders)
    both = [(one[key], two[key]) for key in one if key in two]
    if not both:
        return None, "no item was answered in both runs"
    metrics = [metric for metric in subset.metrics if metric.name in by[0]]
    weights: Weights = {}
    for metric in metrics:
        verdicts = [_verdict(r, metric.name) for r, _ in both]
        own = {row.part: 1.0} if row.part else metric.weights(verdicts)
        weights |= {f"{metric.name}/{part}": w / len(metrics) for part, w in own.items()}
    first, second = ([_verdicts(rows[i], metrics) for rows in both] for i in range(2))
    difference = paired_bootstrap(first, second, weights, metrics[0].scale)
    return difference, "" if difference else "no verdicts to count in both runs"


def _item(row: dict[str, Any]) -> tuple[str, str]:
    # Ids may be positions, which change with the data; the key depends on the content only.
    return ("key", row["item_key"]) if row.get("item_key") else ("id", row["id"])


def _verdict(row: dict[str, Any], metric: str) -> Verdict:
    return Verdict({name: (n, d) for name, (n, d) in row.get(metric, {}).get("parts", {}).items()})


def _verdicts(row: dict[str, Any], metrics: list[Metric]) -> Verdict:
    """Combine the verdicts of several metrics on an item."""
    return Verdict(
        {
            f"{metric.name}/{part}": terms
            for metric in metrics
            for part, terms in _verdict(row, metric.name).parts.items()
        }
    )


def pairs_as_markdown(pairs: list[Pair]) -> list[str]:
    """Format pairs as the lines of a Markdown section."""
    if not pairs:
        return []
    lines = [
        "",
        "## Pairwise",
        "",
        "Over the items that both runs answered; 95 % intervals from a paired bootstrap.",
        "",
        table_line(["", "", "runs", "difference", "95 %", "n"]),
        table_line(["---"] * 3 + ["---:"] * 3),
    ]
    for pair in pairs:
        if pair.found is None:
            cells = [f"not compared: {pair.reason}", "", ""]
        else:
            d = pair.found
            cells = [f"{d.value:+.2f}", f"{d.low:+.2f} to {d.high:+.2f}", str(d.count)]
        lines.append(table_line([pair.group, pair.row, f"{pair.second} - {pair.first}", *cells]))
    return lines


def table_line(values: list[str]) -> str:
    """Format a row of a Markdown table."""
    return "| " + " | ".join(value.replace("|", "/") for value in values) + " |"
