# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tabulate the arms of a comparison."""

from collections.abc import Collection, Mapping, Sequence
from statistics import mean, stdev


def table_of_arms(
    arms: Mapping[str, Sequence[Mapping[str, float]]],
    columns: Mapping[str, str],
    fine: Collection[str],
) -> list[str]:
    """Return the lines of a table of mean and standard deviation of every arm over its seeds.

    Args:
        arms: values by column of every run of an arm; a run may lack a column.
        columns: heading of every column.
        fine: columns with two digits behind the point instead of one.
    """
    lines = [
        "| arm | " + " | ".join(columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for arm, runs in arms.items():
        cells = []
        for column in columns:
            values = [run[column] for run in runs if column in run]
            digits = 2 if column in fine else 1
            shown = [f"{mean(values):.{digits}f}"] if values else []
            shown += [f"{stdev(values):.{digits}f}"] if len(values) > 1 else []
            cells.append(" ± ".join(shown))
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return lines
