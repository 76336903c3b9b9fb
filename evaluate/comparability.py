# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Whether a value of a run is made as the paper's was, and why.

Only how a value is made counts, not by which model.
"""

from __future__ import annotations

from typing import Any

from evaluate.judges import PAPERS_JUDGES
from evaluate.score import REFERENCE_HEARS_S

PAPERS_TOOLS = {
    "speech recognition": "whisper-large-v3",
    "embedder": "NV-Embed-v2",
    "PEDANT": "qa-metrics 0.2.17",
}


def unlike(row: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """Why a row's value cannot be compared with the paper's; empty where it can."""
    items, expected = summary["items"], summary["expected"]
    conditions = {
        "partial data": not row["complete"],
        "count unknown, so whether the data is whole cannot be told": expected is None,
        "more items than the published set": expected is not None and items > expected,
        row.get("note", ""): True,
        row.get("unlike", ""): True,
        f"answers cut at the limit of tokens ({summary.get('cut')})": summary.get("cut"),
        f"questions over {REFERENCE_HEARS_S:g} s heard in full": (
            summary.get("longer_than_reference")
        ),
        f"questions not heard to their end ({summary.get('shortened')})": (
            summary.get("shortened")
        ),
        "answers of several settings": len(summary["settings"]) > 1,
    }
    reasons = [reason for reason, holds in conditions.items() if reason and holds]
    for metric in (summary["metrics"][name] for name in row["by"]):
        for who, models in metric["judges"].items():
            if not all(PAPERS_JUDGES[who] in model for model in models):
                reasons.append(f"another {who}")
        if "ours" in metric["judge_prompts"].values():
            reasons.append("judge prompts of our own")
        if metric["judge_replies_per_item"] > 1:
            reasons.append("several judge replies an item")
        for kind, which in metric.get("tools", {}).items():
            if (papers := PAPERS_TOOLS.get(kind)) and papers not in which:
                reasons.append(f"another {kind}")
    return list(dict.fromkeys(reasons))


def alike(row: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """What a row's value that can be compared has in common with the paper's."""
    metrics = [summary["metrics"][name] for name in row["by"]]
    makers = [
        f"the paper's {who}, {', '.join(models)}, with the prompts given"
        for metric in metrics
        for who, models in metric["judges"].items()
    ]
    makers += [
        f"{kind} by {which}"
        for metric in metrics
        for kind, which in metric.get("tools", {}).items()
    ]
    ours = [f"but for a choice of ours: {metric['note']}" for metric in metrics if metric["note"]]
    return [f"all {summary['items']} items", *(makers or ["scored by rules alone"]), *ours]
