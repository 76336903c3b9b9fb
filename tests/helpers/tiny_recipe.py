# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sources and data of the tiny recipe: ``python -m tests.helpers.tiny_recipe DIR``."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from funaudiochat.audio import save_wav
from funaudiochat.constants import AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT
from tests.helpers import ROOT
from tests.helpers.starting_folders import CODES, write_all

DATASET_INFO = ROOT / "training" / "data" / "dataset_info.json"
WORDS = ("red", "blue", "tall", "old", "warm", "cold", "left", "right")


def codes_of(index: int) -> list[int]:
    """Return the speech tokens of an answer."""
    return [(index * 37 + 11 * n) % CODES for n in range(20)]


def write_data(folder: Path) -> None:
    """Write eight spoken questions with spoken answers, in the layout of data_process, and pairs.

    A pair prefers the answer of a question over that of the next one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, word in enumerate(WORDS):
        t = np.arange(16000) / 16000
        beat = np.sin(2 * np.pi * (2 + index) * t)
        waveform = 0.4 * np.sin(2 * np.pi * (150 + 90 * index) * t) * beat
        save_wav(folder / f"{index}.wav", waveform, 16000)
        answer = "<|audio_bos|>" * 10 + "".join(f"[AU{code:04d}]" for code in codes_of(index))
        path = str((folder / f"{index}.wav").resolve())
        question = {"path": path, "token": "<|audio_pad|>" * 25, "text": ""}
        roles = ("user", "assistant")
        rows.append(
            {
                "system": DEFAULT_S2M_PROMPT,
                "messages": [{"role": role, "content": AUDIO_TEMPLATE} for role in roles],
                "audio": [json.dumps(question), json.dumps({"token": answer, "text": word})],
            }
        )
    (folder / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = []
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        question, chosen = row["messages"]
        pairs.append(
            {
                "system": row["system"],
                "messages": [question],
                "audio": row["audio"][:1],
                "chosen": chosen,
                "chosen_audio": row["audio"][1:],
                "rejected": chosen,
                "rejected_audio": other["audio"][1:],
            }
        )
    (folder / "tiny_pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    shutil.copy(DATASET_INFO, folder)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]) / "sources")
    write_data(Path(sys.argv[1]) / "data")
