# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The configs name only what is there, in so far as no GPU is needed to see it."""

import json

import pytest
import torch

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A
from training.callbacks import PARTS, part_of
from training.check_data import DataChecker
from training.launch import read_config

TRAINING = ROOT / "training"
CONFIGS = sorted((TRAINING / "configs").rglob("*.yaml"))


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return FunAudioChatForConditionalGeneration(FunAudioChatConfig.from_pretrained(TINY_A))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_files_and_data_sets_that_a_config_names_are_there(path):
    config = read_config(str(path), [])
    assert config["template"] == "funaudiochat" and config["stage"] in ("sft", "dpo")
    if "deepspeed" in config:
        json.loads((TRAINING / config["deepspeed"]).read_text())
    known = json.loads((TRAINING / "data" / "dataset_info.json").read_text())
    for name in config["dataset"].split(","):
        assert known[name].get("ranking", False) == (config["stage"] == "dpo")


def test_the_default_config_takes_rows_as_the_originals_does_and_check_data_counts_so():
    config = read_config(str(TRAINING / "configs" / "sft.yaml"), [])
    assert config["cutoff_len"] == 2048 == DataChecker().cutoff_len
    assert config["packing"] and config["neat_packing"]  # each row attended alone
    told = (TRAINING / "configs" / "sft.yaml").read_text().split("model_name_or_path")[0]
    for difference in ("batch", "epochs", "schedule", "evaluation"):
        assert f"# - {difference}: " in told


def test_every_parameter_belongs_to_a_part(model):
    owners = {part_of(name) for name, _ in model.named_parameters()}
    assert owners == set(PARTS)
    assert part_of("continuous_audio_tower.proj.weight") == "adapter"
    assert part_of("base_model.model.language_model.lm_head.weight") == "shared_llm"


def test_fsdp_wraps_layers_that_the_model_has(model):
    wrapped = json.loads((TRAINING / "configs" / "fsdp.json").read_text())
    present = {type(module).__name__ for module in model.modules()}
    assert set(wrapped["transformer_layer_cls_to_wrap"]) <= present


def test_unknown_parts_and_odd_arguments_are_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("train_parts: [ears]\n")
    with pytest.raises(FunAudioChatError, match="knows no \\['ears'\\]"):
        read_config(str(path), [])
    assert read_config(str(path), ["train_parts=null", "bf16=true"])["bf16"] is True
    with pytest.raises(FunAudioChatError, match="must have the form key=value"):
        read_config(str(path), ["bf16"])
    path.write_text("- a list\n")
    for unusable in (path, tmp_path / "missing.yaml"):
        with pytest.raises(FunAudioChatError, match="is not a YAML file of fields"):
            read_config(str(unusable), [])
