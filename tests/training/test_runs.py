# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a training run says of its config, its checkpoints and its losses."""

import importlib.util
import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
import yaml

from funaudiochat.audio import load_audio, save_wav
from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from tests.helpers.tiny_folders import build
from tests.helpers.tiny_runs import (
    ROOT,
    TINY,
    log_of,
    needs_llamafactory,
    run_script,
    train_here,
    weights_of,
)
from training.callbacks import PARTS
from training.checkpoints import is_whole, set_torn_aside
from training.launch import config_problems, read_config


@pytest.fixture(scope="module")
def run(sources, start, tmp_path_factory):
    """Two steps, each saved and evaluated."""
    return train_here(
        sources["data"], start, tmp_path_factory.mktemp("out") / "run", save_strategy="steps",
        save_steps=1, halve_untranscribed_audio=None,
        eval_dataset="tiny", overwrite_output_dir=False, eval_strategy="steps", eval_steps=1,
    )  # fmt: skip


def test_values_are_read_as_llamafactory_reads_them(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("learning_rate: 5e-4\nsave_strategy: no\nbf16: false\nmax_steps: 3\n")
    config = read_config(str(path), [])
    assert config == {
        "learning_rate": 5e-4,
        "save_strategy": "no",
        "bf16": False,
        "max_steps": 3,
    }
    overrides = ["learning_rate=1e-5", "save_strategy=no", "bf16=true", "deepspeed=null", "name=1e"]
    assert read_config(str(path), overrides) == {
        "learning_rate": 1e-5,
        "save_strategy": "no",
        "bf16": True,
        "max_steps": 3,
        "deepspeed": None,
        "name": "1e",
    }
    with pytest.raises(FunAudioChatError, match="override 'bf16' must have the form key=value"):
        read_config(str(path), ["bf16"])
    for text in ("- a\n- b\n", "{", "just words"):
        path.write_text(text)
        with pytest.raises(FunAudioChatError, match="not a YAML file of fields"):
            read_config(str(path), [])
    path.write_text("train_parts: [nose]\n")
    with pytest.raises(FunAudioChatError, match=", ".join(PARTS)):
        read_config(str(path), [])


@pytest.mark.skipif(torch.accelerator.is_available(), reason="is about a machine without a GPU")
def test_the_default_config_on_a_cpu_names_every_cause_and_what_to_write(tmp_path):
    config = read_config(str(ROOT / "training/configs/sft.yaml"), [])
    problems = config_problems(config | {"model_name_or_path": str(tmp_path / "none")})
    text = "\n".join(problems)
    assert "model_name_or_path=FOLDER" in text and "use_cpu=true" in text
    if importlib.util.find_spec("deepspeed") is None:
        assert "deepspeed=null" in text
    assert all("\n" not in problem for problem in problems)
    if importlib.util.find_spec("llamafactory") is not None:
        mended = config | {"model_name_or_path": str(tmp_path), "use_cpu": True, "deepspeed": None}
        assert config_problems(mended) == []
        if importlib.util.find_spec("tensorboard") is None:
            (told,) = config_problems(mended | {"report_to": "tensorboard"})
            assert "make train-setup" in told
        (told,) = config_problems(mended | {"predict_with_generate": True})
        assert told.startswith("predict_with_generate: ") and "funaudiochat eval" in told


@needs_llamafactory
def test_the_checkpoint_keeps_its_own_scale_of_user_audio_unless_told(run):
    assert json.loads((run / "config.json").read_text())["halve_untranscribed_audio"] is False


@needs_llamafactory
def test_each_loss_stands_in_its_own_record(run):
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    trained = [entry for entry in history if "loss" in entry]
    evaluated = [entry for entry in history if "eval_loss" in entry]
    assert len(trained) == 2 and len(evaluated) >= 2
    for entry in trained:
        assert entry["text_loss"] + entry["speech_loss"] == pytest.approx(entry["loss"], rel=0.01)
        assert "eval_text_loss" not in entry
    for entry in evaluated:
        parts = entry["eval_text_loss"] + entry["eval_speech_loss"]
        assert parts == pytest.approx(entry["eval_loss"], rel=0.05)
        assert "text_loss" not in entry


@needs_llamafactory
@pytest.mark.parametrize("torn", ["trainer_state.json", "optimizer.pt", "model.safetensors"])
def test_a_run_resumes_from_the_last_whole_checkpoint(run, tmp_path, torn):
    output = shutil.copytree(run, tmp_path / "run")
    assert is_whole(output / "checkpoint-1") and is_whole(output / "checkpoint-2")
    assert set_torn_aside({"output_dir": str(output)}) == []
    path = output / "checkpoint-2" / torn
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (aside,) = set_torn_aside({"output_dir": str(output)})
    assert aside.name == "torn-checkpoint-2" and aside.is_dir()
    assert [p.name for p in output.glob("checkpoint-*")] == ["checkpoint-1"]


@needs_llamafactory
@pytest.mark.slow
@pytest.mark.parametrize("torn", ["trainer_state.json", "optimizer.pt", "model.safetensors"])
def test_a_run_torn_in_mid_save_is_resumed_by_the_same_command(sources, start, run, tmp_path, torn):
    out = shutil.copytree(run, tmp_path / "run")
    for path in (out / "model.safetensors", out / "trainer_state.json"):
        path.unlink()  # written at the end
    path = out / "checkpoint-2" / torn
    if torn.endswith("json"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    log = run_script(
        "run.sh", tmp_path, f"model_name_or_path={start}", f"dataset_dir={sources['data']}",
        f"output_dir={out}", "max_steps=2", "logging_steps=1", "save_strategy=steps",
        "save_steps=1", "plot_loss=false", "overwrite_output_dir=false", "eval_dataset=tiny",
        "eval_strategy=steps", "eval_steps=1", CONFIG_FILE=str(TINY / "sft.yaml"),
    )  # fmt: skip
    assert "torn-checkpoint-2 is not whole" in log
    assert f"Resuming training from {out / 'checkpoint-1'}" in log
    assert [record["loss"] for record in log_of(out)] == [record["loss"] for record in log_of(run)]
    before, after = weights_of(run), weights_of(out)
    assert all(torch.equal(before[key], after[key]) for key in before)
    # The log is short, raises no false alarm, and ends with what was made and where.
    assert "missing keys" not in log and '"hidden_size"' not in log and "input_ids" not in log
    assert "media_dir" not in log
    # A progress bar is redrawn as often as the machine is slow: it counts for nothing.
    lines = [line for line in log.splitlines() if line.strip() and "%|" not in line]
    assert len(lines) < 150  # of about 500 with all configurations
    assert lines[-1].endswith(f"done: 2 steps; a checkpoint folder, for --model-path: {out}")


@needs_llamafactory
def test_losses_of_each_kind_of_row_are_logged_and_end_a_run_that_no_longer_improves(
    sources, start, tmp_path
):
    data = shutil.copytree(sources["data"], tmp_path / "data")
    rows = (data / "tiny.jsonl").read_text().splitlines()
    typed = json.loads(rows[0])
    typed["messages"] = [{"role": "user", "content": "Who?"},
                         {"role": "assistant", "content": "red"}]  # fmt: skip
    typed["audio"] = []
    (data / "own.jsonl").write_text(json.dumps(typed) + "\n")
    out = train_here(
        data, start, tmp_path / "out", max_steps=6, learning_rate=0.0, eval_dataset="tiny,own",
        eval_on_each_dataset=True, eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, load_best_model_at_end=True, early_stopping_steps=1,
        metric_for_best_model="eval_tiny_speech_loss",
    )  # fmt: skip
    state = json.loads((out / "trainer_state.json").read_text())
    assert state["global_step"] == 2
    logged = {name: value for entry in state["log_history"] for name, value in entry.items()}
    assert state["best_metric"] == logged["eval_tiny_speech_loss"]
    parts = logged["eval_tiny_text_loss"] + logged["eval_tiny_speech_loss"]
    assert parts == pytest.approx(logged["eval_tiny_loss"], rel=0.05)
    # A written answer has no speech.
    assert logged["eval_own_text_loss"] == pytest.approx(logged["eval_own_loss"], rel=0.01)
    assert "eval_own_speech_loss" not in logged


@needs_llamafactory
@pytest.mark.parametrize("finetuning_type", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_fixed_questions_are_answered_at_every_evaluation(
    sources, start, tmp_path, finetuning_type
):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    questions = [
        {"id": "typed/1", "kind": "understanding", "text": "Who?", "answers": ["red"],
         "speech": False},
        {"id": "aloud", "kind": "robustness", "audio": str(sources["data"] / "q.wav")},
    ]  # fmt: skip
    save_wav(sources["data"] / "q.wav", np.zeros(16000, np.float32) + 0.01, 16000)
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    out = train_here(
        sources["data"], start, tmp_path / "out", max_steps=2, eval_dataset="tiny,tiny",
        eval_on_each_dataset=True, eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, load_best_model_at_end=True, early_stopping_steps=1, learning_rate=0.0,
        metric_for_best_model="eval_answers_text", report_to="tensorboard",
        finetuning_type=finetuning_type, eval_questions=str(tmp_path / "asked.jsonl"),
        eval_tts_path=str(build(tmp_path / "tiny")[1]),
    )  # fmt: skip
    state = json.loads((out / "trainer_state.json").read_text())
    folders = sorted((out / "answers").glob("step-*"))
    assert [folder.name for folder in folders] == ["step-000001", "step-000002"]
    for folder in folders:
        typed, aloud = map(json.loads, (folder / "answers.jsonl").open())
        assert (typed["id"], aloud["id"]) == ("typed/1", "aloud")
        assert typed["scores"]["text"] in (0, 1) and aloud["scores"] == {}
        assert not (folder / "000.wav").exists() and load_audio(folder / "001.wav", 24000).size
    logged = [e["eval_answers_text"] for e in state["log_history"] if "eval_answers_text" in e]
    assert len(logged) == 2 and state["best_metric"] == logged[0]
    events = event_accumulator.EventAccumulator(str(out / "answers")).Reload().Tags()
    assert "answers/text" in events["scalars"] and "answers/aloud" in events["audio"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"eval_questions": "asked.jsonl"}, "eval_strategy=steps"),
        ({"eval_questions": "nowhere.jsonl", "eval_strategy": "steps"}, "nowhere.jsonl"),
        ({"eval_tts_path": "tts"}, "eval_questions"),
        ({"eval_questions": "a", "eval_strategy": "steps", "eval_judge": "me"}, "none, whisper"),
        ({"eval_questions": "a", "eval_strategy": "steps", "eval_judge": "whisper"},
         "eval_tts_path"),
        ({"eval_questions": "a", "eval_strategy": "steps", "fsdp": "full_shard"}, "fsdp"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_asked_are_told_before_the_run(fields, told):
    assert any(told in problem for problem in config_problems(fields))


@needs_llamafactory
def test_a_changed_learning_rate_or_batch_size_at_resume_is_told(
    sources, start, run, tmp_path, caplog
):
    output = shutil.copytree(run, tmp_path / "run")
    batch = yaml.safe_load((TINY / "sft.yaml").read_text())["per_device_train_batch_size"]
    with caplog.at_level(logging.WARNING, "training"):
        train_here(sources["data"], start, output, max_steps=3, learning_rate=0.5,
                   overwrite_output_dir=False, per_device_train_batch_size=batch + 1)  # fmt: skip
    told = [record.getMessage() for record in caplog.records if "resumed" in record.getMessage()]
    assert "learning_rate=0.5 does not act" in told[0]
    assert f"a batch size of {batch + 1}, which acts" in told[1]


@needs_llamafactory
@pytest.mark.parametrize("packing", [False, True])
def test_a_loss_of_nan_ends_the_run_with_step_and_rows_and_saves_nothing(
    sources, start, tmp_path, packing
):
    rows = (sources["data"] / "tiny.jsonl").read_text().splitlines()
    for name in ("first.jsonl", "second.jsonl"):  # rows are found by file and line
        (tmp_path / "data" / "tiny").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "tiny" / name).write_text("\n\n" + "\n".join(rows[:2]) + "\n")
    info = (sources["data"] / "dataset_info.json").read_text()
    (tmp_path / "data" / "dataset_info.json").write_text(info.replace("tiny.jsonl", "tiny"))
    out = tmp_path / "out"
    with pytest.raises(FunAudioChatError, match=r"loss of step [2-6] is nan") as ended:
        train_here(
            tmp_path / "data", start, out, learning_rate=1e30, max_steps=6, max_grad_norm=0,
            warmup_steps=0, warmup_ratio=0, lr_scheduler_type="constant", packing=packing,
            neat_packing=packing, cutoff_len=400,
        )  # fmt: skip
    (told,) = re.findall("Its rows: (.*?)\\. Lower", str(ended.value))
    assert sorted(told.split("; ")) == [
        "first.jsonl, row 3",
        "first.jsonl, row 4",
        "second.jsonl, row 3",
        "second.jsonl, row 4",
    ]
    assert not list(out.rglob("model.safetensors"))


def test_a_batch_without_spoken_answers_does_not_run_the_head():
    from safetensors.torch import load_file

    golden = ROOT / "tests" / "golden" / "model"
    model = FunAudioChatForConditionalGeneration.from_pretrained(golden / "models" / "tiny_a")
    model.train()
    inputs = load_file(golden / "cases" / "d1_train_batch" / "inputs.safetensors")
    audio, end = model.config.audio_token_index, model.config.text_config.audio_eos_index
    spoken = (inputs["labels"] == audio) | (inputs["labels"] == end)
    inputs["labels"] = inputs["labels"].masked_fill(spoken, -100)
    runs = []
    model.audio_invert_tower.register_forward_hook(lambda *_: runs.append(1))
    model.lean_losses = True
    output = model(**inputs)
    assert not runs and output.speech_loss is None
    torch.testing.assert_close(output.loss, output.text_loss)


@needs_llamafactory
@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard: `make train-setup`"
)
def test_a_run_writes_for_tensorboard(sources, start, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    assert "tensorboard" in (ROOT / "requirements-train.txt").read_text().split()
    train_here(sources["data"], start, tmp_path / "out", max_steps=1, report_to="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "board")).Reload()
    assert {"train/loss", "train/text_loss", "train/speech_loss"} <= set(board.Tags()["scalars"])
