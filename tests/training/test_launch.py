# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Training through LLaMA-Factory on tiny folders: one process, two, packed, frozen parts."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from build_tiny_folders import MODEL
from safetensors.torch import load_file

from funaudiochat.audio import save_wav
from funaudiochat.conversation import Sampling, VoiceChat

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llamafactory") is None,
    reason="needs llamafactory: `make train-setup`",
)

WORDS = ("red", "blue", "tall", "old", "warm", "cold", "left", "right")
SYSTEM = "You are asked to generate both text and speech tokens at the same time."
BLANK = "<|audio_bos|><|AUDIO|><|audio_eos|>"


def codes_of(index: int) -> list[int]:
    return [(index * 37 + 11 * n) % 125 for n in range(20)]


def write_data(folder: Path) -> None:
    """Eight spoken questions with spoken answers, in the layout of data_process."""
    rows = []
    for index, word in enumerate(WORDS):
        t = np.arange(16000) / 16000
        beat = np.sin(2 * np.pi * (2 + index) * t)
        wave = 0.4 * np.sin(2 * np.pi * (150 + 90 * index) * t) * beat
        save_wav(folder / f"{index}.wav", wave, 16000)
        answer = "<|audio_bos|>" * 10 + "".join(f"[AU{code:04d}]" for code in codes_of(index))
        question = {"path": str(folder / f"{index}.wav"), "token": "<|audio_pad|>" * 25, "text": ""}
        rows.append({
            "system": SYSTEM,
            "messages": [{"role": role, "content": BLANK} for role in ("user", "assistant")],
            "audio": [json.dumps(question), json.dumps({"token": answer, "text": word})],
        })
    (folder / "tiny.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    info = json.loads((ROOT / "training/data/dataset_info.json").read_text())
    info = {"tiny": {**info["spoken_alpaca"], "file_name": "tiny.jsonl"}}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def train(tmp_path: Path, processes: int = 1, **changes) -> Path:
    data = tmp_path / "data"
    if not data.exists():
        data.mkdir()
        write_data(data)
    config = yaml.safe_load((ROOT / "training/configs/tiny.yaml").read_text())
    config |= {"model_name_or_path": str(MODEL), "dataset_dir": str(data)}
    config |= {"output_dir": str(tmp_path / "out"), **changes}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        ["bash", ROOT / "training/run_shell/run.sh"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "CONFIG_FILE": str(tmp_path / "tiny.yaml"), "PYTHON": sys.executable,
             "LOG_DIR": str(tmp_path / "logs"), "NPROC_PER_NODE": str(processes),
             "OMP_NUM_THREADS": "1", "MASTER_PORT": "29541"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert list((tmp_path / "logs").iterdir())
    return tmp_path / "out"


def log_of(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


def test_eight_examples_are_learned_by_heart_and_answered_again(tmp_path):
    out = train(tmp_path, max_steps=400, learning_rate=1.0e-2, per_device_train_batch_size=8,
                logging_steps=50)
    log = [entry for entry in log_of(out) if "text_loss" in entry]
    assert log[-1]["loss"] < 0.05 * log[0]["loss"]
    parts = log[-1]["text_loss"] + log[-1]["speech_loss"]
    assert log[-1]["loss"] == pytest.approx(parts, rel=0.01)
    chat = VoiceChat.from_pretrained(out, device="cpu")
    sampling = Sampling(greedy=True, repetition_penalty=1.0, max_new_tokens=20)
    for index, word in enumerate(WORDS):
        chat.reset()
        reply = chat.ask(tmp_path / "data" / f"{index}.wav", sampling=sampling)
        # The codes are not compared: at this size they are not yet exact for all eight, because
        # the head hears other code vectors beside the prompt in training than when answering.
        assert reply.text == word
        assert len(reply.codes)


def test_two_processes_and_packed_rows_train(tmp_path):
    out = train(tmp_path, processes=2, max_steps=4, logging_steps=1, neat_packing=True,
                packing=True, cutoff_len=256)
    assert all(np.isfinite(entry["loss"]) for entry in log_of(out) if "loss" in entry)


def test_only_the_named_parts_change(tmp_path):
    out = train(tmp_path, max_steps=2, train_parts=["adapter", "refined_head"])
    before, after = load_file(MODEL / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed
    assert not any(key.startswith(("language_model.", "continuous_audio_tower.layers"))
                   for key in changed)
    assert any(key.startswith("audio_invert_tower.") for key in changed)
