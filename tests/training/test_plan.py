# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The memory planner against counted and measured memory."""

import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from funaudiochat.cli import app
from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.serving_plan import parse_size
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A
from tests.helpers.tiny_recipe import write_data
from training.callbacks import freeze_other_parts
from training.plan import GIB, Sharding, make_plan, read_sharding, static_bytes

CONFIGS = ROOT / "training" / "configs"
ROWS = 8


def training_batch(folder: Path) -> dict[str, torch.Tensor]:
    write_data(folder)
    processor = FunAudioChatProcessor.from_pretrained(TINY_A)
    rows = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
    audios = [entry for row in rows for entry in row["audio"]]
    texts = [f"{r['system']}\n" + "\n".join(m["content"] for m in r["messages"]) for r in rows]
    ids = processor.tokenizer(
        processor.expand_placeholders(texts, audios), return_tensors="pt"
    ).input_ids
    assert ids.shape[0] == ROWS
    audio = processor.encode_audios(audios, "longest", transcripts=True)
    return {
        "input_ids": ids,
        "labels": ids,
        "attention_mask": torch.ones_like(ids),
        **{name: torch.as_tensor(value) for name, value in audio.items()},
    }


def measured_peak(batch: dict, config: FunAudioChatConfig, checkpointing: bool, parts=None) -> int:
    """Bytes at the highest moment of a training step, as torch's allocator reports them."""
    model = FunAudioChatForConditionalGeneration(config).train()
    if parts:
        freeze_other_parts(model, parts)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(**batch).loss.backward()
    optimizer.step()  # makes the optimizer's states
    gc.collect()
    resident = sum(
        p.nbytes + (p.grad.nbytes if p.grad is not None else 0) for p in model.parameters()
    )
    resident += sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    with torch.profiler.profile(profile_memory=True) as profile:
        model(**batch).loss.backward()
    changes = [
        event.nbytes()
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    assert changes
    return resident + int(torch.tensor(changes).cumsum(0).max())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("parts", [None, ["mel_encoder", "adapter", "refined_head"]])
def test_planned_memory_is_what_a_step_takes(tmp_path, checkpointing, parts):
    batch = training_batch(tmp_path)
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    measured = measured_peak(batch, config, checkpointing, parts)
    fields = {
        "cutoff_len": batch["input_ids"].shape[1],
        "per_device_train_batch_size": ROWS,
        "disable_gradient_checkpointing": not checkpointing,
        "train_parts": parts,
    }
    plan = make_plan(fields, config, tmp_path, 1, 80 * GIB, audio_seconds=2.0)
    assert plan.static + plan.activations == pytest.approx(measured, rel=0.2)


def test_the_published_sizes_are_counted_exactly():
    golden = ROOT / "tests" / "golden"
    for name, parameters in (("8b", 9_424_246_784), ("30b_a3b", 31_657_276_416)):
        manifest = json.loads((golden / f"manifest_{name}.json").read_text())
        assert manifest.get("total_parameters_unique", parameters) == parameters
        fields = json.loads((CONFIGS / f"model_{name}.json").read_text())
        fields.pop("model_type")
        with torch.device("meta"):
            model = FunAudioChatForConditionalGeneration(FunAudioChatConfig(**fields))
        assert sum(p.numel() for p in model.parameters()) == parameters


def test_sharding_divides_what_its_stage_says():
    def parts(stage, gpus=8, **more):
        sharding = Sharding(stage=stage, deepspeed=True, bucket=0, live_parameters=0, **more)
        return static_bytes(sharding, 800, 80, 10, gpus, half=True)

    assert parts(0) == {"parameters": 1760, "gradients": 1600, "optimizer": 9600, "buffers": 0}
    assert parts(1) == {**parts(0), "optimizer": 1200}
    assert parts(2) == {**parts(1), "gradients": 200}
    assert parts(3) == {**parts(2), "parameters": 220}
    assert parts(3, offload_optimizer=True)["optimizer"] == 0
    alone = static_bytes(Sharding(), 800, 80, 10, 1, half=False)
    assert alone == {"parameters": 3520, "gradients": 3200, "optimizer": 6400, "buffers": 0}
    assert static_bytes(Sharding(), 800, 80, 10, 2, half=False)["buffers"] == 3200


def test_config_files_name_their_sharding():
    folder = CONFIGS.parent
    assert read_sharding({}, folder).name == "DDP"
    assert read_sharding({"deepspeed": "configs/ds_z2.json"}, folder).name == "ZeRO-2"
    assert read_sharding({"deepspeed": "configs/ds_z3.json"}, folder).name == "ZeRO-3"
    assert read_sharding({"fsdp": "full_shard auto_wrap"}, folder).name == "FSDP"
    with pytest.raises(FunAudioChatError, match="cannot be read"):
        read_sharding({"deepspeed": "configs/nowhere.json"}, folder)
    assert parse_size("80GiB") == parse_size("80") == 80 * GIB and parse_size("24 GB") == 24 * 10**9
    with pytest.raises(FunAudioChatError, match="is not a size"):
        parse_size("much")


def test_adapters_train_little(tmp_path):
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    fields = {
        "finetuning_type": "lora",
        "lora_rank": 4,
        "lora_target": "q_proj",
        "train_parts": ["shared_llm"],
        "cutoff_len": 64,
    }
    plan = make_plan(fields, config, tmp_path, 1, GIB)
    with safe_open(TINY_A / "model.safetensors", "pt") as file:
        whole = sum(file.get_tensor(key).numel() for key in file.keys())
        layers = [
            file.get_slice(key).get_shape()
            for key in file.keys()
            if key.startswith("language_model.") and key.endswith("q_proj.weight")
        ]
    assert plan.trainable == sum(4 * (rows + columns) for rows, columns in layers)
    assert plan.frozen == whole


def test_quantized_layers_of_the_backbone_take_their_bits(tmp_path):
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    fields = {"finetuning_type": "lora", "lora_rank": 4, "cutoff_len": 64, "bf16": True}

    def parameters(**more):
        return make_plan(fields | more, config, tmp_path, 1, GIB).parameters

    with safe_open(TINY_A / "model.safetensors", "pt") as file:
        linear = sum(
            file.get_tensor(key).numel()
            for key in file.keys()
            if key.startswith("language_model.model.layers.") and key.endswith("proj.weight")
        )
    assert linear > 1e4
    whole = parameters()
    assert whole - parameters(quantization_bit=8) == linear * (2 - 1)
    # NF4: blocks of 64 values share a scale, of 8 bits or, unless that is quantized too, of 32.
    assert whole - parameters(quantization_bit=4) == int(linear * (2 - 0.5 - 1 / 64))
    single = parameters(quantization_bit=4, double_quantization=False)
    assert whole - single == int(linear * (2 - 0.5 - 4 / 64))
    for more, told in (
        ({"quantization_bit": 3}, "bitsandbytes knows 4 and 8"),
        ({"quantization_bit": 4, "finetuning_type": "full"}, "finetuning_type: lora"),
        ({"quantization_bit": 4, "fsdp": "full_shard"}, "with FSDP is not planned"),
    ):
        with pytest.raises(FunAudioChatError, match=told):
            parameters(**more)


def test_pairs_are_two_rows_and_a_frozen_start_lies_beside_what_is_trained(tmp_path):
    config = FunAudioChatConfig.from_pretrained(TINY_A)

    def plan(gpus=1, **fields):
        fields = {"cutoff_len": 64, "bf16": True, **fields}
        return make_plan(fields, config, CONFIGS.parent, gpus, GIB)

    alone, pairs = plan(), plan(stage="dpo")
    assert pairs.activations == 2 * alone.activations
    assert pairs.reference == 2 * alone.trainable
    assert pairs.static == alone.static + pairs.reference
    for fields in ({"pref_loss": "orpo"}, {"pref_loss": "simpo"}, {"finetuning_type": "lora"}):
        assert plan(stage="dpo", **fields).reference == 0
    assert plan(4, stage="dpo", deepspeed="configs/ds_z2.json").reference == pairs.reference
    assert plan(4, stage="dpo", deepspeed="configs/ds_z3.json").reference == pairs.reference // 4
    assert plan(4, stage="dpo", fsdp="full_shard").reference == pairs.reference
    told = CliRunner().invoke(
        app, ["train", "plan", str(CONFIGS / "tiny" / "dpo.yaml"), "--model", str(TINY_A)]
    ).output  # fmt: skip
    assert "reference model" in told and "pairs)" in told


@pytest.mark.parametrize("config", ["lora.yaml", "qlora.yaml"])
@pytest.mark.parametrize("parts", [None, "train_parts=[shared_llm]"])
def test_adapters_of_the_published_size_fit_on_a_card_of_24_gib(config, parts):
    told = CliRunner().invoke(
        app, ["train", "plan", str(CONFIGS / config), *([parts] if parts else []),
              "--gpu-memory", "24GiB", "--model", str(CONFIGS / "model_8b.json")],
    )  # fmt: skip
    assert told.exit_code == 0 and "fits into 24GiB" in told.output


@pytest.mark.slow
def test_the_command_takes_the_overrides_of_the_launcher():
    def plan(*fields):
        return CliRunner().invoke(
            app, ["train", "plan", str(CONFIGS / "qlora.yaml"), *fields,
                  "--model", str(CONFIGS / "model_8b.json")],
        )  # fmt: skip

    def gib(output, name):
        return float(re.search(rf"{name} .*?(\d+\.\d\d)$", output, re.MULTILINE)[1])

    four, none = plan(), plan("quantization_bit=null")
    eight = plan("quantization_bit=8", "per_device_train_batch_size=2")
    assert [done.exit_code for done in (four, eight, none)] == [0, 0, 0]
    assert "(1 rows)" in four.output and "(2 rows)" in eight.output
    four, eight, none = (gib(done.output, "parameters") for done in (four, eight, none))
    # The 8B backbone holds 6.946 B parameters in linear layers.
    assert none - four == pytest.approx(6.946e9 * (2 - 0.5 - 1 / 64) / GIB, rel=0.01)
    assert none - eight == pytest.approx(6.946e9 / GIB, rel=0.01)
    wrong = plan("quantization_bit")
    assert "must have the form key=value" in str(wrong.exception)


@pytest.mark.slow
def test_the_command_prints_the_plan_and_fails_if_nothing_fits():
    def command(*options):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "funaudiochat.cli",
                "train",
                "plan",
                str(CONFIGS / "tiny" / "sft.yaml"),
                *options,
            ],
            capture_output=True,
            text=True,
        )

    done = command("--model", str(TINY_A), "--gpu-memory", "4GiB")
    assert done.returncode == 0, done.stderr
    assert "optimizer states" in done.stdout and "fits into 4GiB" in done.stdout
    assert command("--model", str(TINY_A), "--gpu-memory", "1GiB").returncode == 1
    lost = command("--model", "nowhere")
    assert lost.returncode == 1
    assert "model_8b.json" in lost.stderr and "Traceback" not in lost.stderr
