# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Whether a value of a run was computed as in the paper, and why.

Only the way in which a value is computed matters, not the model.
"""

from __future__ import annotations

from typing import Any

from evaluate.judges import PAPER_JUDGES
from evaluate.score import REFERENCE_LIMIT_S

PAPER_TOOLS = {
    "speech recognition": "whisper-large-v3",
    "embedder": "NV-Embed-v2",
    "PEDANT": "qa-metrics 0.2.17",
}


def unlike(row: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """List why a row's value is not comparable with the paper's; empty if it is."""
    items, expected = summary["items"], summary["expected"]
    conditions = {
        "partial data": not row["complete"],
        "size of the published set unknown, so completeness cannot be checked": expected is None,
        "more items than the published set": expected is not None and items > expected,
        row.get("note", ""): True,
        row.get("unlike", ""): True,
        f"answers truncated at the token limit ({summary.get('cut')})": summary.get("cut"),
        f"questions over {REFERENCE_LIMIT_S:g} s used in full": (
            summary.get("longer_than_reference")
        ),
        f"questions truncated ({summary.get('shortened')})": (summary.get("shortened")),
        "answers with different settings": len(summary["settings"]) > 1,
    }
    reasons = [reason for reason, holds in conditions.items() if reason and holds]
    for metric in (summary["metrics"][name] for name in row["by"]):
        for who, models in metric["judges"].items():
            if not all(PAPER_JUDGES[who] in model for model in models):
                reasons.append(f"another {who}")
        if "ours" in metric["judge_prompts"].values():
            reasons.append("judge prompts of this toolkit")
        if metric["judge_replies_per_item"] > 1:
            reasons.append("several judge replies per item")
        for kind, which in metric.get("tools", {}).items():
            if (papers := PAPER_TOOLS.get(kind)) and papers not in which:
                reasons.append(f"another {kind}")
    return list(dict.fromkeys(reasons))


def alike(row: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """List what makes a comparable value comparable with the paper's."""
    metrics = [summary["metrics"][name] for name in row["by"]]
    makers = [
        f"the paper's {who}, {', '.join(models)}, with the given prompts"
        for metric in metrics
        for who, models in metric["judges"].items()
    ]
    makers += [
        f"{kind}: {which}" for metric in metrics for kind, which in metric.get("tools", {}).items()
    ]
    ours = [
        f"except for a choice of this toolkit: {metric['note']}"
        for metric in metrics
        if metric["note"]
    ]
    return [f"all {summary['items']} items", *(makers or ["scored by rules only"]), *ours]
