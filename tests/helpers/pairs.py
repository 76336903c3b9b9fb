# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Pairs of a chosen and a rejected answer, of every kind of row."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from funaudiochat.audio import save_wav
from funaudiochat.constants import AUDIO_TEMPLATE
from tests.helpers.tiny_recipe import DATASET_INFO

TOOLS = [{"type": "function", "function": {"name": "dim", "parameters": {"type": "object"}}}]


def spoken(text: str, first: int, groups: int = 3) -> dict[str, str]:
    """Return the audio entry of a spoken answer, whose tokens begin with ``first``."""
    tokens = "".join(f"[AU{(first + 7 * n) % 125:04d}]" for n in range(5 * groups))
    return {"token": "<|audio_bos|>" * 10 + tokens, "text": text}


def pair(
    question: str | Path, chosen: str | dict, rejected: str | dict, **fields: Any
) -> dict[str, Any]:
    """Build a row; a question that is a path, and answers that are audio entries, are spoken."""
    heard = isinstance(question, Path)
    asked = {"role": "user", "content": AUDIO_TEMPLATE if heard else question}
    row = {
        "system": "s",
        "messages": [asked],
        "audio": [json.dumps({"path": str(question), "text": ""})] if heard else [],
    }
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        said = isinstance(answer, str)
        row[side] = {"role": "assistant", "content": answer if said else AUDIO_TEMPLATE}
        row[f"{side}_audio"] = [] if said else [json.dumps(answer)]
    return row | fields


def rows_of_every_kind(wav: Path) -> dict[str, dict[str, Any]]:
    """Return a pair of every kind of row."""
    warm, cold = spoken("warm", 3), spoken("cold", 60, groups=4)
    typed = pair("which way?", "left", "tall and old")
    earlier = [{"role": "user", "content": "red?"}, {"role": "assistant", "content": "blue"}]
    asked = {"role": "user", "content": AUDIO_TEMPLATE}
    call = {"role": "function_call", "content": '{"name": "dim", "arguments": {"by": 1}}'}
    return {
        "text": typed,
        "spoken question": pair(wav, "left", "tall and old"),
        "spoken answers": pair(wav, warm, cold),
        "one spoken answer": pair("which way?", warm, "cold"),
        "several turns": pair(wav, warm, cold) | {"messages": [*earlier, asked]},
        "tools": pair(
            "dim it", warm, cold, tools=json.dumps(TOOLS),
            messages=[{"role": "user", "content": "dim it"}, call,
                      {"role": "observation", "content": "done"}],
        ),
        "a call": pair("dim it", "no", "no", tools=json.dumps(TOOLS)) | {"chosen": call},
    }  # fmt: skip


def write_wav(path: Path, pitch_hz: float = 220.0) -> Path:
    """Write a second of a beating tone."""
    t = np.arange(16000) / 16000
    save_wav(path, 0.4 * np.sin(2 * np.pi * pitch_hz * t) * np.sin(6 * np.pi * t), 16000)
    return path


def write_pairs(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as data set ``tiny_pairs`` and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(DATASET_INFO.read_text())
    path = folder / "tiny_pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
