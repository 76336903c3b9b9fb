# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The official folder: yaml as data, strict weights, keys and shapes, saving."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from funaudiochat.cosyvoice3 import checkpoint
from funaudiochat.cosyvoice3.config import FlowConfig, HiftConfig
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.hift import Hift
from funaudiochat.errors import CheckpointError
from tests.helpers.cosyvoice3_folders import GOLDEN, build_cosyvoice3_folder


@pytest.fixture
def folder(tmp_path):
    return build_cosyvoice3_folder(tmp_path / "tts")


def change(folder, name, edit):
    state = torch.load(folder / name, weights_only=True)
    edit(state)
    torch.save(state, folder / name)


@pytest.mark.parametrize("part", ["flow", "hift"])
def test_official_keys_and_shapes_equal_the_manifest(part):
    manifest = json.loads((GOLDEN.parent / f"manifest_cosyvoice3_{part}.json").read_text())
    with torch.device("meta"):
        model = Flow(FlowConfig()) if part == "flow" else Hift(HiftConfig())
    stored = checkpoint.stored_state(model)
    assert {key: list(value.shape) for key, value in stored.items()} == manifest["shapes"]


def test_yaml_references_and_lists_are_read(folder):
    flow, hift = checkpoint.read_settings(folder)
    assert flow == FlowConfig(dim=64, depth=2, heads=2, dim_head=32, lookahead_channels=48)
    assert hift == HiftConfig(base_channels=32, f0_channels=32)


def test_a_missing_field_falls_back_with_a_warning(folder, caplog):
    path = folder / "cosyvoice3.yaml"
    path.write_text(path.read_text().replace("    audio_limit: 0.99\n", ""))
    with caplog.at_level(logging.WARNING):
        assert checkpoint.read_settings(folder)[1].audio_limit == 0.99
    assert "hift.audio_limit" in caplog.text


@pytest.mark.parametrize("text", ["", "a: [", "flow: 1\nhift: 2\n", "flow: !ref <nowhere>\n"])
def test_a_useless_yaml_is_one_clear_error(folder, text):
    (folder / "cosyvoice3.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="cosyvoice3.yaml"):
        checkpoint.read_settings(folder)


def test_the_language_models_folder_is_recognised(tmp_path):
    with pytest.raises(CheckpointError, match="swapped"):
        CosyVoice3Detokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, key", [("flow.pt", "input_embedding.weight"), ("hift.pt", "conv_pre.bias")]
)
def test_missing_extra_and_misshaped_tensors_are_named(folder, name, key):
    change(folder, name, lambda s: s.update({key: s[key][:-1], "extra": torch.zeros(1)}))
    change(folder, name, lambda s: s.pop("conv_post.bias", s.pop("spk_embed_affine_layer.bias", 0)))
    with pytest.raises(CheckpointError, match="missing.*unknown: extra.*shape: " + key):
        CosyVoice3Detokenizer.from_pretrained(folder)


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_tensors_that_are_no_floats_are_named(folder, dtype):
    key = "input_embedding.weight"
    change(folder, "flow.pt", lambda s: s.update({key: s[key].to(dtype)}))
    with pytest.raises(CheckpointError, match=f"1 not floating point: {key}"):
        CosyVoice3Detokenizer.from_pretrained(folder)


@pytest.mark.parametrize("data", [b"", b"not a file of weights", None])
def test_damaged_weights_are_one_clear_error(folder, data):
    path = folder / "hift.pt"
    path.write_bytes(path.read_bytes()[:3000] if data is None else data)
    with pytest.raises(CheckpointError, match="hift.pt is damaged"):
        CosyVoice3Detokenizer.from_pretrained(folder)


class Harmful:
    def __reduce__(self):
        return (open, ("harm.txt", "w"))


def test_pickled_code_is_never_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Harmful()}, folder / "flow.pt")
    with pytest.raises(CheckpointError):
        CosyVoice3Detokenizer.from_pretrained(folder)
    assert not (tmp_path / "harm.txt").exists()


def test_training_checkpoints_and_older_weight_norm_names_load(folder):
    flow_config, hift_config = checkpoint.read_settings(folder)
    expected = checkpoint.load_hift(folder, hift_config).state_dict()

    def rename(state):
        for key in list(state):
            new = key.replace("parametrizations.weight.original0", "weight_g")
            new = new.replace("parametrizations.weight.original1", "weight_v")
            state["module.generator." + new] = state.pop(key)
        state["epoch"], state["step"] = 3, torch.tensor(7)

    change(folder, "hift.pt", rename)
    loaded = checkpoint.load_hift(folder, hift_config).state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_a_saved_folder_has_the_official_layout_and_gives_the_same_audio(folder, tmp_path):
    flow_config, hift_config = checkpoint.read_settings(folder)
    flow = checkpoint.load_flow(folder, flow_config)
    hift = checkpoint.load_hift(folder, hift_config)
    checkpoint.save(tmp_path / "saved", flow, hift)
    again = CosyVoice3Detokenizer.from_pretrained(tmp_path / "saved")
    for name in ("flow", "hift"):
        stored = torch.load(tmp_path / "saved" / f"{name}.pt", weights_only=True)
        recorded = load_file(GOLDEN / f"{name}_tiny.safetensors")
        assert {k: v.shape for k, v in stored.items()} == {k: v.shape for k, v in recorded.items()}
    speaker = torch.randn(192, generator=torch.Generator().manual_seed(1))
    first = CosyVoice3Detokenizer.from_pretrained(folder)
    torch.testing.assert_close(
        again.decode([5, 6, 7, 8], speaker), first.decode([5, 6, 7, 8], speaker), atol=2e-3, rtol=0
    )


def test_a_frozen_flow_is_not_saved(folder, tmp_path):
    loaded = CosyVoice3Detokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="frozen"):
        checkpoint.save(tmp_path / "saved", loaded.flow, loaded.hift)
    assert not (tmp_path / "saved").exists()
