# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Training through LLaMA-Factory on tiny folders."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.golden import TINY_A
from tests.helpers.starting_folders import CODES
from tests.helpers.tiny_folders import build
from tests.helpers.tiny_recipe import WORDS, codes_of
from tests.helpers.tiny_runs import (
    ROOT,
    TINY,
    changed,
    log_of,
    needs_llamafactory,
    run_script,
    train_here,
    weights_of,
)

pytestmark = needs_llamafactory


def assert_answers_by_heart(folder: Path, sources, tmp_path, monkeypatch, capsys) -> None:
    """Check that the example script gives text and audio of every trained answer, exactly.

    Speech tokens are compared by their audio, since the script writes nothing else.
    """
    tts = build(tmp_path / "tiny")[1]
    detokenizer = CosyVoice3Detokenizer.from_pretrained(tts)
    voice = load_file(tts / "voices.safetensors")["anna"]
    chat = VoiceChat.from_pretrained(folder, device="cpu")
    sampling = Sampling(greedy=True, repetition_penalty=1.0, max_new_tokens=20)
    for index, word in enumerate(WORDS):
        question = sources["data"] / f"{index}.wav"
        chat.reset()
        assert chat.ask(audio=question, sampling=sampling).speech_tokens.tolist() == codes_of(index)
        command = [
            "infer_s2s.py", "--audio", question, "--model-path", folder, "--tts-path", tts,
            "--output", tmp_path, "--greedy", "--repetition-penalty", "1.0",
            "--max-new-tokens", "20", "--device", "cpu",
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        capsys.readouterr()
        runpy.run_path(str(ROOT / "examples" / "infer_s2s.py"), run_name="__main__")
        assert capsys.readouterr().out.splitlines()[0] == word
        waveform, _ = soundfile.read(tmp_path / "answer_1.wav", dtype="float32")
        expected = detokenizer.decode(codes_of(index), voice).numpy().reshape(-1)
        np.testing.assert_allclose(waveform, expected, atol=2 / 32768)


@pytest.mark.slow
def test_eight_examples_are_learned_by_heart_and_answered_exactly(
    sources, start, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    run_script(
        "run.sh",
        tmp_path,
        f"model_name_or_path={start}",
        f"dataset_dir={sources['data']}",
        f"output_dir={out}",
        CONFIG_FILE=str(TINY / "sft.yaml"),
    )
    log = log_of(out)
    assert log[-1]["loss"] < 0.02 * log[0]["loss"]
    parts = log[-1]["text_loss"] + log[-1]["speech_loss"]
    assert log[-1]["loss"] == pytest.approx(parts, rel=0.01)
    assert (out / "training_loss.png").read_bytes().startswith(b"\x89PNG")
    assert_answers_by_heart(out, sources, tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_the_whole_recipe_runs_by_one_command_and_resumes(sources, tmp_path, monkeypatch, capsys):
    saves = tmp_path / "saves"
    settings = {
        "LLM": str(sources["llm"]), "AUDIO_ENCODER": str(sources["audio_encoder"]),
        "HEAD": str(sources["head"]), "CODES": str(CODES), "CONFIG_DIR": str(TINY),
        "SAVES": str(saves),
    }  # fmt: skip
    data = f"dataset_dir={sources['data']}"
    assert "== core_cocktail_stage2" in run_script("core_cocktail.sh", tmp_path, data, **settings)
    frozen = changed(saves / "init", saves / "prealign")
    assert frozen and not any(key.startswith("language_model.") for key in frozen)
    stage1, merged = saves / "core_cocktail_stage1", saves / "merged"
    mixed = changed(stage1, merged)
    assert mixed == {key for key in mixed if key.startswith("language_model.")} != set()
    assert changed(saves / "prealign", stage1) > mixed
    stage2 = saves / "core_cocktail_stage2"
    assert_answers_by_heart(stage2, sources, tmp_path, monkeypatch, capsys)
    # As if it had been stopped while stage 2 wrote a checkpoint: the one before is continued.
    before, last = weights_of(stage2), max(stage2.glob("checkpoint-*"))
    (stage2 / ".finished").unlink()
    (stage2 / "model.safetensors").unlink()
    torn = stage2 / "checkpoint-9999"
    torn.mkdir()
    output = run_script("core_cocktail.sh", tmp_path, data, **settings)
    assert "== core_cocktail_stage2" in output and "== core_cocktail_stage1" not in output
    assert f"Resuming training from {last}" in output and not torn.exists()
    after = weights_of(stage2)
    assert all(torch.equal(before[key], after[key]) for key in before)
    output = run_script("core_cocktail.sh", tmp_path, data, **settings, PAIRS="tiny_pairs")
    assert "== dpo" in output and "== core_cocktail_stage2" not in output
    history = json.loads((saves / "dpo" / "trainer_state.json").read_text())["log_history"]
    margins = [entry["rewards/margins"] for entry in history if "rewards/margins" in entry]
    assert margins[0] == pytest.approx(0, abs=1e-5) and margins[-1] > 0


def test_a_run_that_fails_says_why_in_its_log_and_ends_with_its_code(tmp_path):
    done = subprocess.run(
        ["bash", ROOT / "training" / "run_shell" / "run.sh", "train_parts=[ears]"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "LOG_DIR": str(tmp_path)},
    )
    assert done.returncode == 1
    said = "error: train_parts knows no ['ears']"
    assert said in done.stdout and said in (tmp_path / "sft_node0.log").read_text()


@pytest.mark.slow
def test_two_processes_train_packed_rows_and_two_nodes_resume_from_their_checkpoint(
    sources, start, tmp_path
):
    def train_on_two(out: Path, **environment: str) -> None:
        run_script(
            "run.sh",
            tmp_path,
            f"model_name_or_path={start}",
            f"dataset_dir={sources['data']}",
            f"output_dir={out}",
            "max_steps=4",
            "logging_steps=1",
            "neat_packing=true",
            "packing=true",
            "cutoff_len=256",
            "per_device_train_batch_size=2",
            "save_strategy=steps",
            "save_steps=2",
            "overwrite_output_dir=false",
            CONFIG_FILE=str(TINY / "sft.yaml"),
            **environment,
        )

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train_on_two(whole, NPROC_PER_NODE="2")
    losses = [
        [entry[name] for name in ("loss", "text_loss", "speech_loss")] for entry in log_of(whole)
    ]
    assert len(losses) == 4 and losses[-1][0] < losses[0][0]
    for total, text, speech in losses:  # both processes' losses are in every figure
        assert total == pytest.approx(text + speech, rel=0.01)
    resumed.mkdir()
    (whole / "checkpoint-2").rename(resumed / "checkpoint-2")
    with ThreadPoolExecutor() as pool:
        nodes = [
            pool.submit(train_on_two, resumed, NPROC_PER_NODE="1", NNODES="2", NODE_RANK=rank)
            for rank in "01"
        ]
    for node in nodes:
        node.result()
    assert losses == [
        [entry[name] for name in ("loss", "text_loss", "speech_loss")] for entry in log_of(resumed)
    ]
    first, second = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None,
    reason="needs deepspeed: `pip install deepspeed==0.19.8`",
)
def test_zero_2_on_two_processes_gives_the_losses_of_plain_ddp(sources, start, tmp_path):
    """The first run compiles an operator of DeepSpeed's, which needs g++."""
    losses = []
    for name, fields in (("ddp", []), ("zero", ["deepspeed=configs/ds_z2.json"])):
        out = tmp_path / name
        run_script(
            "run.sh",
            tmp_path,
            f"model_name_or_path={start}",
            f"dataset_dir={sources['data']}",
            f"output_dir={out}",
            "max_steps=3",
            "logging_steps=1",
            *fields,
            "per_device_train_batch_size=2",
            CONFIG_FILE=str(TINY / "sft.yaml"),
            NPROC_PER_NODE="2",
        )
        losses.append([entry["loss"] for entry in log_of(out)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_only_the_named_parts_change(sources, start, tmp_path):
    parts = ["adapter", "refined_head"]
    moved = changed(start, train_here(sources["data"], start, tmp_path, train_parts=parts))
    assert not any(
        key.startswith(("language_model.", "continuous_audio_tower.layers")) for key in moved
    )
    assert {
        "audio_invert_tower.pre_matching.weight",
        "audio_tower.embed_tokens.weight",
        "continuous_audio_tower.proj.weight",
    } <= moved


def test_freeze_training_changes_the_last_layers_only(sources, start, tmp_path):
    out = train_here(
        sources["data"], start, tmp_path, finetuning_type="freeze", freeze_trainable_layers=1
    )
    moved = changed(start, out)
    assert moved and all("language_model.model.layers.2." in key for key in moved)


def test_a_run_resumed_from_a_checkpoint_ends_bit_equal(sources, start, tmp_path):
    fields = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 3,
        "per_device_train_batch_size": 2,
        "overwrite_output_dir": False,
    }
    whole = train_here(sources["data"], start, tmp_path / "whole", **fields)
    resumed = tmp_path / "resumed"
    (whole / "checkpoint-3").rename(tmp_path / "kept")
    resumed.mkdir()
    (tmp_path / "kept").rename(resumed / "checkpoint-3")
    train_here(sources["data"], start, resumed, **fields)
    first, second = (weights_of(folder) for folder in (whole, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)
    losses = [[entry["loss"] for entry in log_of(folder)] for folder in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_gradient_checkpointing_gives_the_same_losses(sources, start, tmp_path):
    runs = [
        train_here(
            sources["data"],
            start,
            tmp_path / str(off),
            disable_gradient_checkpointing=off,
            max_steps=3,
        )
        for off in (True, False)
    ]
    plain, checkpointed = ([entry["loss"] for entry in log_of(folder)] for folder in runs)
    assert plain == pytest.approx(checkpointed, rel=1e-5)


@pytest.mark.slow
def test_bfloat16_trains(sources, start, tmp_path):
    out = train_here(
        sources["data"],
        start,
        tmp_path,
        bf16=True,
        max_steps=20,
        disable_gradient_checkpointing=False,
    )
    log = log_of(out)
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_saved_folders_have_the_published_layout_and_load_in_the_examples(
    sources, start, tmp_path, monkeypatch, capsys
):
    out = train_here(sources["data"], start, tmp_path / "out", save_strategy="steps", save_steps=2)
    published = {path.name for path in TINY_A.iterdir()}
    for folder in (out, out / "checkpoint-2"):
        assert published <= {path.name for path in folder.iterdir()}
        config = json.loads((folder / "config.json").read_text())
        assert config["text_config"]["rope_theta"] and config["model_type"] == "funaudiochat"
    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] != "TokenizersBackend"
    command = ["infer_s2t.py", "--audio", sources["data"] / "0.wav", "--model-path", out]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--device", "cpu"])
    runpy.run_path(str(ROOT / "examples" / "infer_s2t.py"), run_name="__main__")
    assert capsys.readouterr().out
