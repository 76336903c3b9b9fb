# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Ten spoken questions with spoken answers in Nano's speech tokens, to learn by heart."""

import json
import shutil
from pathlib import Path

import soxr
from build_tiny_recipe import DATASET_INFO

from funaudiochat.audio import save_wav
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.voices import load_voices
from funaudiochat.hub import NANO_TTS
from utils.constant import AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT

HELD_OUT = Path(__file__).parents[1] / "golden" / "nano" / "held_out_answers.json"


def answers() -> list[tuple[str, list[int]]]:
    """Return texts and speech tokens, whole groups: five sentences, and each with the next one."""
    single = [(a["text"], a["codes"]) for a in json.loads(HELD_OUT.read_text())]
    pairs = zip(single, single[1:] + single[:1], strict=True)
    every = single + [(f"{a} {b}", x + y) for (a, x), (b, y) in pairs]
    return [(text, codes[: len(codes) // 5 * 5]) for text, codes in every]


def write_data(folder: Path) -> None:
    """Write the rows as data set ``tiny``.

    The questions are beginnings and, in another voice, ends of other answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    detokenizer = CosyVoice3Detokenizer.from_pretrained(NANO_TTS)
    voices = load_voices(NANO_TTS / "voices.safetensors")
    rows, spoken = [], answers()
    for index, (text, codes) in enumerate(spoken):
        other = spoken[(index + 2) % 5][1]
        asked = detokenizer.decode(other[:20], voices["joe"]) if index < 5 else \
            detokenizer.decode(other[-20:], voices["heart"])
        question = asked.numpy().reshape(-1)
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
