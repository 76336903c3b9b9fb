# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Ten spoken questions with spoken answers in Nano's speech tokens, to learn by heart."""

import json
import shutil
from pathlib import Path

import soxr

from funaudiochat.audio import save_wav
from funaudiochat.constants import AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.voices import load_voices
from funaudiochat.hub import NANO_TTS
from tests.helpers import ROOT
from tests.helpers.tiny_recipe import DATASET_INFO

HELD_OUT = ROOT / "tests" / "golden" / "nano" / "held_out_answers.json"


def answers() -> list[tuple[str, list[int]]]:
    """Return texts and speech tokens, whole groups: five sentences, and each one backwards."""
    records = json.loads(HELD_OUT.read_text())
    every = [(record["text"], record["codes"][: len(record["codes"]) // 5 * 5])
             for record in records]  # fmt: skip
    return every + [(" ".join(text.split()[::-1]), codes[::-1]) for text, codes in every]


def write_data(folder: Path) -> None:
    """Write the rows as data set ``tiny``.

    The questions are the beginnings of other answers, in another voice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detokenizer = CosyVoice3Detokenizer.from_pretrained(NANO_TTS)
    voice = load_voices(NANO_TTS / "voices.safetensors")["joe"]
    rows, spoken = [], answers()
    for index, (text, codes) in enumerate(spoken):
        asked = spoken[index // 5 * 5 + (index + 2) % 5][1][:20]
        question = detokenizer.decode(asked, voice).numpy().reshape(-1)
        path = folder / f"{index}.wav"
        save_wav(path, soxr.resample(question, 24000, 16000), 16000)
        token = "<|audio_bos|>" * 10 + "".join(f"[AU{code:04d}]" for code in codes)
        rows.append({
            "system": DEFAULT_S2M_PROMPT,
            "messages": [{"role": role, "content": AUDIO_TEMPLATE}
                         for role in ("user", "assistant")],
            "audio": [json.dumps({"path": str(path), "text": ""}),
                      json.dumps({"token": token, "text": text})],
        })  # fmt: skip
    (folder / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(DATASET_INFO, folder)
