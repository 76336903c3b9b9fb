# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The paper's tables with the values of runs: Markdown, JSON and a figure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from evaluate.benchmarks import BENCHMARKS
from evaluate.comparability import alike, unlike
from evaluate.compare import Pair, compare, pairs_as_markdown, table_line
from evaluate.core import Benchmark
from evaluate.judges import PAPER_JUDGES
from evaluate.records import read_json, subset_folder, write_json
from evaluate.score import REFERENCE_LIMIT_S, table_value
from evaluate.statistics import normal_interval
from funaudiochat.errors import FunAudioChatError

_PAPER_COLOR = "#c03b2b"
_BEST_RATING = 5.0
_HIGHEST = 100.0  # of values that combine several
# (table, row) -> number of subsets that contribute to it.
_ROW_SUBSETS = Counter(
    (row.group, row.name)
    for benchmark in BENCHMARKS.values()
    for subset in benchmark.subsets
    for row in subset.rows
)


@cache
def paper() -> dict[str, Any]:
    """Load the paper's numbers from ``tables/paper.json``."""
    path = Path(__file__).parent / "tables" / "paper.json"
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass
class Cell:
    """A run's value for a row, or the reason why there is none.

    Attributes:
        n: number of items that were scored.
        of: number of items of the whole set.
        complete: whether all items of the published set contribute.
        reason: why there is no value.
        unlike: why the value is not comparable with the paper's; empty if it is.
        alike: what makes it comparable.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    n: int | None = None
    of: int | None = None
    complete: bool = False
    reason: str = "not run"
    notes: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)

    @property
    def comparable(self) -> bool:
        """Whether the value can be compared with the paper's."""
        return self.value is not None and not self.unlike


@dataclass
class Table:
    """A table of the paper: row name -> the paper's value and one cell per run."""

    group: str
    rows: dict[str, tuple[float | None, list[Cell]]]
    notes: list[str]


def run_names(runs: list[Path]) -> list[str]:
    """Return the names of the run folders, or their paths if two names are equal."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def target_of(run: Path, target: str | None) -> str:
    """Return the column of the paper to compare with: as requested, else by the model's name."""
    if target is not None:
        columns = paper()["columns"]
        if target not in columns:
            raise FunAudioChatError(f"--target must be one of {', '.join(columns)}, not {target!r}")
        return target
    known = read_json(run / "run.json") if (run / "run.json").is_file() else {}
    models = [
        str(s.get("model") or s.get("server_model") or s.get("predictions") or "")
        for s in known.get("settings", {}).values()
    ]
    return "30B-A3B" if any("30B" in model for model in [*models, run.resolve().name]) else "8B"


def build_tables(runs: list[Path], target: str | None = None) -> list[Table]:
    """Build the tables of scored runs, leaving out tables without any score.

    Raises:
        FunAudioChatError: a run has not been scored.
    """
    by_run = [_cells(run) for run in runs]
    for run, cells in zip(runs, by_run, strict=True):
        if not cells:
            raise FunAudioChatError(
                f"{run} contains no scores; run `funaudiochat eval score --run {run}` first"
            )
    column = paper()["columns"].index(target_of(runs[0], target))
    tables = []
    for group, published in paper()["groups"].items():
        if not any(cell_group == group for cells in by_run for cell_group, _ in cells):
            continue
        rows: dict[str, tuple[float | None, list[Cell]]] = {}
        total = paper()["overall"].get(group)
        for name, values in published.items():
            if total is not None and name == total["row"]:
                continue
            rows[name] = (values[column], [cells.get((group, name), Cell()) for cells in by_run])
        if total is not None:
            columns = [
                _overall(group, {name: cells[i] for name, (_, cells) in rows.items()})
                for i in range(len(runs))
            ]
            rows[total["row"]] = (published[total["row"]][column], columns)
        tables.append(Table(group, rows, _notes(group, rows)))
    return tables


def _summaries(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the summary of every scored subset."""
    for benchmark in BENCHMARKS.values():
        for subset in benchmark.subsets:
            path = subset_folder(run, benchmark.name, subset.name) / "summary.json"
            if path.is_file():
                yield read_json(path)


def settings_line(run: Path) -> str:
    """Describe in one line the settings of the scored answers, from ``run.json``."""
    known = read_json(run / "run.json")["settings"] if (run / "run.json").is_file() else {}
    values: dict[str, dict[str, None]] = {}
    for summary in _summaries(run):
        for settings in (known.get(hash_, {}) for hash_ in summary["settings"]):
            for name, value in {**settings, **settings.get("speech_sampling", {})}.items():
                if not isinstance(value, dict):
                    values.setdefault(name.replace("_", " "), {})[str(value)] = None
    return ", ".join(f"{name} {' and '.join(given)}" for name, given in values.items())


def _cells(run: Path) -> dict[tuple[str, str], Cell]:
    """Map (table, row) to the cell of every scored subset."""
    cells: dict[tuple[str, str], Cell] = {}
    subsets: Counter[tuple[str, str]] = Counter()
    for summary in _summaries(run):
        for row in summary["rows"]:
            key = (row["group"], row["row"])
            cell = _cell(row, summary)
            cells[key] = _pooled(cells[key], cell) if key in cells else cell
            subsets[key] += cell.value is not None
    for key, cell in cells.items():
        if subsets[key] < _ROW_SUBSETS[key]:
            cell.complete = False
            if subsets[key]:
                cell.notes.append(f"from {subsets[key]} of {_ROW_SUBSETS[key]} sets")
                cell.unlike.append("partial data")
    return cells


def _cell(row: dict[str, Any], summary: dict[str, Any]) -> Cell:
    notes = [row["note"]] if row.get("note") else []
    if summary["failed"]:
        reason = next(iter(summary["failures"]))
        notes.append(f"{summary['failed']} items failed, first reason: {reason[:160]}")
    whole = max(summary["items"], summary["expected"] or 0)
    if summary["expected"] and summary["items"] > summary["expected"]:
        notes.append(f"more items than the {summary['expected']} of the published set")
    if summary["expected"] is None:
        notes.append("count unknown: n is the number of items found, not that of the published set")
    if summary.get("cut"):
        notes.append(f"{summary['cut']} answers were truncated at the token limit")
    if long := summary.get("longer_than_reference"):
        notes.append(
            f"{long} questions are longer than {REFERENCE_LIMIT_S:g} s and were used in full; the "
            f"reference truncates them (as does --longest-s {REFERENCE_LIMIT_S:g})"
        )
    for name in row.get("by", ()):
        metric = summary["metrics"][name]
        if metric.get("note"):
            notes.append(metric["note"])
        if metric.get("invalid"):
            notes.append(f"{metric['invalid']} answers were excluded from the denominator ({name})")
        if metric.get("missing"):
            notes.append(f"{metric['missing']} answers have no verdict ({name})")
        notes += [f"{kind}: {which}" for kind, which in metric.get("tools", {}).items()]
        if metric.get("libraries"):
            known = (f"{name} {version}" for name, version in metric["libraries"].items())
            notes.append(f"scored with {', '.join(known)}")
        notes += _judge_notes(metric)
    if summary["thoughts_cut"]:
        notes.append(f"<think> blocks removed from {summary['thoughts_cut']} answers")
    if len(summary["settings"]) > 1:
        notes.append("answers with different settings are mixed")
    if row is summary["rows"][0]:
        notes += _other_values(row, summary)
    if "not_scored" in row:
        return Cell(reason=row["not_scored"], notes=notes)
    return Cell(
        row["value"],
        row["low"],
        row["high"],
        row["standard_error"],
        row["n"],
        whole if row.get("part") is None else None,
        row["complete"],
        "",
        notes,
        unlike(row, summary),
        alike(row, summary),
    )


def _other_values(row: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """Describe the metrics that did not contribute to the value."""
    used = {name for other in summary["rows"] for name in other.get("by", ())}
    if len(row.get("by", ())) > 1:
        used = set()
    others = [
        (f"{name} {metric['value']:.2f}" if "value" in metric else f"{name} not scored")
        + "".join(f" ({count}: {reason})" for reason, count in metric["reasons"].items())
        for name, metric in summary["metrics"].items()
        if name not in used and ("value" in metric or metric.get("reasons"))
    ]
    return [f"also {', '.join(others)}"] if others else []


def _judge_notes(metric: dict[str, Any]) -> list[str]:
    notes = []
    for who, models in metric["judges"].items():
        papers = PAPER_JUDGES[who]
        same = all(papers in model for model in models)
        notes.append(f"{who}: {', '.join(models)}" + ("" if same else f"; the paper's: {papers}"))
    prompts = set(metric["judge_prompts"].values())
    if "ours" in prompts:
        notes.append("judge prompts of this toolkit; pass the original ones with --judge-prompts")
    if "given" in prompts:
        notes.append("judge prompts given with --judge-prompts")
    if metric["judges"] and metric["judge_replies_per_item"] > 1:
        notes.append(f"{metric['judge_replies_per_item']} judge replies per item")
    return notes


def _pooled(first: Cell, second: Cell) -> Cell:
    """Pool two cells, weighted by their numbers of answers."""
    if first.value is None or second.value is None or not first.n or not second.n:
        return second if first.value is None else first
    n = first.n + second.n
    shares = (first.n / n, second.n / n)
    value = shares[0] * first.value + shares[1] * second.value
    errors = (first.standard_error or 0.0, second.standard_error or 0.0)
    error = math.hypot(shares[0] * errors[0], shares[1] * errors[1])
    low, high = normal_interval(value, error, _HIGHEST)
    complete = first.complete and second.complete
    of = (first.of or 0) + (second.of or 0)
    return Cell(
        value,
        low,
        high,
        error,
        n,
        of,
        complete,
        "",
        [*first.notes, *second.notes],
        list(dict.fromkeys([*first.unlike, *second.unlike])),
        [*first.alike, *second.alike],
    )


def _overall(group: str, cells: dict[str, Cell]) -> Cell:
    """Compute the last row of a table if every other row is complete."""
    values = {name: cell.value for name, cell in cells.items() if cell.value is not None}
    if len(values) < len(cells) or not all(cell.complete for cell in cells.values()):
        return Cell(reason="needs a complete value in every row above")
    factors = paper()["overall"][group].get("factors", {})
    value = table_value(values, factors)
    others = [name for name, cell in cells.items() if cell.unlike]
    made = Cell(
        value,
        complete=True,
        reason="",
        alike=["every row above is"],
        unlike=[f"{', '.join(others)} not comparable"] if others else [],
    )
    errors = [(factors.get(name, 1), cell.standard_error) for name, cell in cells.items()]
    if all(error is not None for _, error in errors):
        made.standard_error = math.hypot(*(f * e for f, e in errors if e)) / len(cells)
        made.low, made.high = normal_interval(value, made.standard_error, _HIGHEST)
    return made


def _benchmarks_of(group: str) -> list[Benchmark]:
    """Return the benchmarks whose first table this is; VStyle has one table per language."""
    return [
        benchmark
        for benchmark in BENCHMARKS.values()
        if benchmark.subsets[0].rows[0].group == group
        or group.startswith("VStyle")
        and benchmark.name == "vstyle"
    ]


def _notes(group: str, rows: dict[str, tuple[float | None, list[Cell]]]) -> list[str]:
    """Collect the caveats below a table: each once, with the rows that it applies to."""
    notes: dict[str, list[str]] = {}
    for name, (_, cells) in rows.items():
        for cell in cells:
            for note in cell.notes:
                notes.setdefault(note, []).append(name)
    found = [
        note if len(set(names)) == len(rows) else f"{', '.join(dict.fromkeys(names))}: {note}"
        for note, names in notes.items()
    ]
    filled = {name for name, (_, cells) in rows.items() if any(c.value is not None for c in cells)}
    general = [
        note
        for benchmark in _benchmarks_of(group)
        if any(
            row.name in filled for s in benchmark.subsets for row in s.rows if row.group == group
        )
        for note in benchmark.notes
    ]
    lower = paper()["lower_is_better"]
    if group in lower:
        found.append("lower is better")
    found += [f"{name}: lower is better" for name in rows if name in lower]
    return found + general


def markdown(
    tables: list[Table],
    runs: list[Path],
    target: str | None = None,
    pairs: list[Pair] | None = None,
) -> str:
    """Format the tables as Markdown."""
    names = run_names(runs)
    column = target_of(runs[0], target)
    lines = [
        f"# Evaluation of {', '.join(names)}",
        "",
        f"Compared with the values of Fun-Audio-Chat-{column} in the paper ({paper()['source']}). "
        "Intervals are 95 %. Metrics that could not be computed are marked 'not scored', not "
        "counted as 0.",
    ]
    for name, run in zip(names, runs, strict=True):
        if settings := settings_line(run):
            lines += ["", f"Settings of {name}: {settings}."]
    for table in tables:
        lines += ["", f"## {table.group}", ""]
        header = ["", f"paper {column}"]
        for name in names:
            header += [name, "95 %", "difference", "n", "comparable"]
        lines += [table_line(header), table_line(["---"] + ["---:"] * (len(header) - 1))]
        for row, (published, cells) in table.rows.items():
            values = [row, _number(published)]
            for cell in cells:
                values += _values(cell, published)
            lines.append(table_line(values))
        reasons = {
            f"{row}: not scored: {cell.reason}": None
            for row, (_, cells) in table.rows.items()
            for cell in cells
            if cell.value is None and cell.reason
        }
        notes = [*reasons, *_compared(table), *table.notes]
        if notes:
            lines += ["", *(f"- {_one_line(note)}" for note in notes)]
    lines += pairs_as_markdown(pairs or [])
    others = [group for group in paper()["groups"] if group not in {t.group for t in tables}]
    if others:
        lines += ["", f"Tables of the paper without a score in these runs: {'; '.join(others)}."]
    return "\n".join(lines) + "\n"


def _compared(table: Table) -> list[str]:
    """State for each value why it is comparable with the paper's or not, grouping equal rows."""
    rows: dict[str, list[str]] = {}
    for row, (_, cells) in table.rows.items():
        for cell in (c for c in cells if c.value is not None):
            claim = "not comparable" if cell.unlike else "comparable"
            why = f"{claim} with the paper: {'; '.join(cell.unlike or cell.alike)}"
            rows.setdefault(why, []).append(row)
    return [f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in rows.items()]


def _values(cell: Cell, published: float | None) -> list[str]:
    if cell.value is None:
        return ["not scored", "", "", "", ""]
    mark = "" if cell.complete else " (incomplete)"
    difference = "" if published is None else f"{cell.value - published:+.2f}"
    interval = "" if cell.low is None else f"{cell.low:.2f} to {cell.high:.2f}"
    count = "" if cell.n is None else str(cell.n)
    if cell.n is not None and cell.of is not None and cell.n < cell.of:
        count = f"{cell.n} of {cell.of}"
    comparable = "yes" if cell.comparable else "no"
    return [f"{cell.value:.2f}{mark}", interval, difference, count, comparable]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def as_json(
    tables: list[Table],
    runs: list[Path],
    target: str | None = None,
    pairs: list[Pair] | None = None,
) -> dict[str, Any]:
    """Convert the tables to JSON data."""
    names = run_names(runs)
    return {
        "source": paper()["source"],
        "target": target_of(runs[0], target),
        "settings": {name: settings_line(run) for name, run in zip(names, runs, strict=True)},
        "pairs": [asdict(pair) for pair in pairs or []],
        "tables": [
            {
                "group": table.group,
                "notes": table.notes,
                "rows": [
                    {
                        "row": row,
                        "paper": published,
                        "runs": {
                            name: {
                                **vars(cell),
                                "comparable": cell.comparable,
                                "difference": None
                                if cell.value is None or published is None
                                else round(cell.value - published, 4),
                            }
                            for name, cell in zip(names, cells, strict=True)
                        },
                    }
                    for row, (published, cells) in table.rows.items()
                ],
            }
            for table in tables
        ],
    }


_Rows = list[tuple[str, tuple[float | None, list[Cell]]]]


def _by_scale(table: Table) -> list[tuple[str, _Rows, tuple[float, float] | None]]:
    """Split a table into panels: title, rows from the bottom, and axis limits.

    Ratings of 1 to 5 get a panel of their own.
    """
    highest = {
        row.name: metric.highest
        for benchmark in BENCHMARKS.values()
        for subset in benchmark.subsets
        for row in subset.rows
        if row.group == table.group
        for metric in subset.metrics
        if metric.name == row.choices[0][0]
    }
    rows = list(table.rows.items())[::-1]
    # The last row of VStyle, which no metric computes, has the scale of its parts.
    common = set(highest.values())
    default = common.pop() if len(common) == 1 else _HIGHEST
    ratings = [r for r in rows if highest.get(r[0], default) == _BEST_RATING]
    others = [r for r in rows if highest.get(r[0], default) != _BEST_RATING]
    found: list[tuple[str, _Rows, tuple[float, float] | None]] = []
    if others:
        found.append((table.group, others, None))
    if ratings:
        title = f"{table.group}: ratings of 1 to 5" if others else table.group
        found.append((title, ratings, (0.9, _BEST_RATING + 0.1)))
    return found


def draw(tables: list[Table], runs: list[Path], path: Path) -> None:
    """Draw a panel per table and scale: values with intervals, hollow if incomplete.

    Raises:
        FunAudioChatError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise FunAudioChatError(
            "the figure needs matplotlib: pip install 'funaudiochat[eval]'"
        ) from error
    parts = [part for table in tables for part in _by_scale(table)]
    heights = [len(rows) + 2 for _, rows, _ in parts]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, rows, limits) in zip(panels, parts, strict=True):
        if limits is not None:
            panel.set_xlim(*limits)
        for height, (_, (published, cells)) in enumerate(rows):
            if published is not None:
                panel.plot(published, height, "D", color=_PAPER_COLOR, markersize=5, zorder=3)
            for index, cell in enumerate(cells):
                if cell.value is None:
                    continue
                y = height + 0.18 * (index - (len(cells) - 1) / 2)
                if cell.low is not None:
                    panel.plot([cell.low, cell.high], [y, y], color=f"C{index}", linewidth=1.5)
                face = f"C{index}" if cell.complete else "white"
                panel.plot(cell.value, y, "o", color=f"C{index}", markerfacecolor=face)
        panel.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
        panel.set_ylim(-0.6, len(rows) - 0.4)
        panel.set_title(title, fontsize=9, loc="left")
        panel.grid(axis="x", alpha=0.3)
    handles = [panels[0].plot([], [], "D", color=_PAPER_COLOR, label="paper")[0]]
    handles += [
        panels[0].plot([], [], "o-", color=f"C{i}", label=name)[0]
        for i, name in enumerate(run_names(runs))
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize=8)
    figure.savefig(path, dpi=120)


def write_report(runs: list[Path], out: Path, target: str | None = None) -> tuple[str, list[Path]]:
    """Write ``report.md``, ``report.json`` and ``report.png``; return Markdown and paths."""
    tables = build_tables(runs, target)
    pairs = compare(runs, run_names(runs))
    text = markdown(tables, runs, target, pairs)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(text, encoding="utf-8")
    write_json(out / "report.json", as_json(tables, runs, target, pairs))
    draw(tables, runs, out / "report.png")
    return text, [out / f"report.{kind}" for kind in ("md", "json", "png")]
