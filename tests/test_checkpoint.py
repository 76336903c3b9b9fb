# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoint folders: strict loading, the saved layout, mixture-of-experts key names."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.errors import CheckpointError, FunAudioChatError
from funaudiochat.modeling_funaudiochat import (
    FunAudioChatForConditionalGeneration,
    _of_backbone,
)
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT
from tests.helpers.golden import GOLDEN, TINY_A, load_case, load_model


def load(folder, **kwargs):
    return FunAudioChatForConditionalGeneration.from_pretrained(folder, **kwargs)


@pytest.fixture
def copied(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY_A, folder)
    return folder


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_is_named(copied):
    change_weights(copied, lambda w: w.pop("audio_tower.output_matching.weight"))
    with pytest.raises(CheckpointError, match="1 missing: audio_tower.output_matching.weight"):
        load(copied)


def test_an_extra_tensor_is_named(copied):
    change_weights(copied, lambda w: w.update({"audio_tower.extra": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="1 not known: audio_tower.extra"):
        load(copied)


def test_a_wrong_group_size_is_found_by_the_shapes(copied):
    config = json.loads((copied / "config.json").read_text())
    config["audio_config"]["group_size"] = 4
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="of another shape.*pre_matching"):
        load(copied)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.float8_e4m3fn])
def test_tensors_that_are_no_floats_are_named(copied, dtype):
    key = "audio_tower.output_matching.weight"
    change_weights(copied, lambda w: w.update({key: w[key].to(dtype)}))
    with pytest.raises(CheckpointError, match=f"1 not of floats: {key}"):
        load(copied)


def test_cut_off_weights_are_reported(copied):
    data = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="download"):
        load(copied)


def test_pickled_weights_are_never_executed(copied):
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load(copied)


@pytest.mark.parametrize("text", ["{}", '{"model_type": "qwen3"}', "{broken"])
def test_another_models_config_is_refused(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(CheckpointError):
        load(copied)


@pytest.mark.parametrize(
    "field, value",
    [
        ("repetition_penalty", "a"),
        ("repetition_penalty", 0),
        ("eos_token_id", "x"),
        ("eos_token_id", []),
        ("temperature", "hot"),
        ("temperature", -1),
        ("top_p", 2),
        ("max_length", "big"),
        ("max_new_tokens", "many"),
        ("max_new_tokens", True),
        ("bad_words_ids", 5),
        ("bad_words_ids", [[10**9]]),
        ("pad_token_id", 10**9),
        ("do_sample", "yes"),
        ("top_k", 1.5),
        ("cache_implementation", "elsewhere"),
    ],
)
def test_wrong_generation_settings_are_named_with_their_file(copied, field, value):
    path = copied / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(CheckpointError, match=f"generation_config.json .*{field}"):
        load(copied)


def test_a_temperature_of_zero_is_taken_where_nothing_is_sampled(copied):
    path = copied / "generation_config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "temperature": 0.0}))
    load(copied)
    path.write_text(json.dumps({**known, "temperature": 0.0, "do_sample": True}))
    with pytest.raises(CheckpointError, match="temperature is 0.0, not a number above 0"):
        load(copied)


def test_a_cut_off_generation_config_is_not_passed_over(copied):
    path = copied / "generation_config.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(CheckpointError, match="generation_config.json in .* is wrong"):
        load(copied)
    path.unlink()
    load(copied)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="config.json"):
        load(tmp_path / "nowhere")


def test_a_saved_folder_loads_again_and_keeps_rope_in_both_forms(tmp_path):
    model = load_model()
    model.save_pretrained(tmp_path)
    saved, published = (load_file(folder / "model.safetensors") for folder in (tmp_path, TINY_A))
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[key], published[key]) for key in saved)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["text_config"]["rope_theta"] == 5000000.0
    assert config["text_config"]["rope_parameters"]["rope_theta"] == 5000000.0
    assert config["torch_dtype"] == "float32"
    _, inputs, outputs = load_case("c1_forward_1audio")
    with torch.no_grad():
        logits = load(tmp_path).eval()(**inputs).logits
    torch.testing.assert_close(logits, outputs["text_logits"], atol=1e-4, rtol=0)


def test_the_tied_projection_may_be_stored_too(copied):
    def add(weights):
        tied = weights["audio_tower.embed_tokens.weight"].clone()
        weights["audio_invert_tower.lm_head.weight"] = tied

    change_weights(copied, add)
    model = load(copied)
    assert model.audio_invert_tower.lm_head.weight is model.audio_tower.embed_tokens.weight


def test_the_heads_rope_is_saved_in_both_forms_and_the_published_one_stays(tmp_path):
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    published = dict(config.audio_config.crq_transformer_config)
    config.save_pretrained(tmp_path)

    def head():
        saved = json.loads((tmp_path / "config.json").read_text())
        return saved["audio_config"]["crq_transformer_config"]

    assert head() == published and "rope_parameters" not in published
    rope = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 3e6}
    newer = {k: v for k, v in published.items() if not k.startswith("rope_")}
    config.audio_config.crq_transformer_config = newer | {"rope_parameters": rope}
    config.save_pretrained(tmp_path)
    assert head()["rope_theta"] == 3e6 and head()["rope_parameters"] == rope
    assert head()["rope_scaling"] == {"rope_type": "yarn", "factor": 2.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    _, inputs, outputs = load_case("c1_forward_1audio")
    model = load(TINY_A, dtype=dtype).eval()
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), outputs["text_logits"], atol=0.3, rtol=0.1)


def test_a_checkpoint_without_refined_head_is_saved_and_loads_again(tmp_path):
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    config.audio_config.enable_audio_invert_tower = False
    FunAudioChatForConditionalGeneration(config).save_pretrained(tmp_path)
    model = load(tmp_path).eval()
    assert not hasattr(model, "audio_invert_tower")
    _, inputs, _ = load_case("c1_forward_1audio")
    with torch.no_grad():
        assert model(**inputs).speech_logits is None


def pattern(key: str) -> str:
    return re.sub(r"experts\.\d+", "experts.{E}", re.sub(r"layers\.\d+", "layers.{L}", key))


def test_keys_and_shapes_equal_the_30b_manifest():
    """As they are saved: in memory transformers keeps all experts of a layer together."""
    config = ROOT / "training" / "configs" / "model_30b_a3b.json"
    with torch.device("meta"):
        model = FunAudioChatForConditionalGeneration(
            FunAudioChatConfig(**json.loads(config.read_text()))
        )
    found: dict[str, list] = {}
    for key, value in revert_weight_conversion(model, model.state_dict()).items():
        found.setdefault(pattern(key), []).append(list(value.shape))
    manifest = json.loads((GOLDEN / "manifest_30b_a3b.json").read_text())
    wanted = {k: [v["shape"]] * v["count"] for k, v in manifest["key_patterns"].items()}
    assert found == wanted
    assert sum(map(len, found.values())) == manifest["num_keys"]
    assert sum(p.numel() for p in model.parameters()) == manifest["total_parameters_unique"]


def mixture() -> FunAudioChatForConditionalGeneration:
    """A tiny model whose backbone is a mixture of experts."""
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    fields = {**config.text_config.to_dict(), "model_type": "qwen3_moe"}
    fields |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    fields |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    for name in ("architectures", "layer_types"):
        fields.pop(name, None)
    moe = FunAudioChatConfig(
        audio_config=config.audio_config,
        text_config=fields,
        audio_token_index=config.audio_token_index,
    )
    torch.manual_seed(0)
    return FunAudioChatForConditionalGeneration(moe).eval()


@pytest.mark.parametrize("padded", [False, True])
def test_the_routers_loss_is_in_the_text_loss_as_the_backbone_itself_has_it(padded):
    model = mixture()
    ids = torch.arange(24).view(2, 12)
    mask, labels = torch.ones_like(ids), ids.clone()
    if padded:
        mask[1, 7:], labels[1, 7:] = 0, -100
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    plain = model(**inputs).text_loss
    model.config.text_config.output_router_logits = True
    routed = model(**inputs)
    expected = model.language_model(**inputs, output_router_logits=True).loss
    torch.testing.assert_close(routed.text_loss, expected, rtol=1e-5, atol=0)
    assert routed.text_loss > plain and torch.equal(routed.loss, routed.text_loss)
    packed = {**inputs, "attention_mask": torch.tensor([[1] * 7 + [2] * 5, [1] * 7 + [0] * 5])}
    model(**packed).loss.backward()
    gates = [p for name, p in model.named_parameters() if name.endswith("mlp.gate.weight")]
    assert gates and all(p.grad is not None for p in gates)


def test_experts_are_saved_under_the_published_names(tmp_path):
    """Key patterns of the mixture of experts, and that its folder loads again equal."""
    model = mixture()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        found = {pattern(key) for key in file.keys()}
    manifest = json.loads((GOLDEN / "manifest_30b_a3b.json").read_text())
    assert found == set(manifest["key_patterns"]) - set(manifest["keys_absent_from_saved_file"])
    _, inputs, _ = load_case("c1_forward_1audio")
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path).eval()(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0
        )


def test_a_device_map_places_the_model_and_decodes_the_same():
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    case, inputs, outputs = load_case("f1_s2s_greedy")
    for device_map in ("auto", {"": "cpu"}):
        model = load(TINY_A, device_map=device_map, dtype=torch.float32).eval()
        model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
        _, speech = model.generate(**inputs, **case["kwargs"])
        assert speech.tolist() == outputs["audio_ids"].tolist()


def test_quantisation_leaves_all_but_the_backbone_alone():
    given = BitsAndBytesConfig(load_in_8bit=True)
    kept = _of_backbone(given).llm_int8_skip_modules
    assert {"continuous_audio_tower", "audio_tower", "audio_invert_tower"} <= set(kept)
    assert given.llm_int8_skip_modules is None
    own = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    assert _of_backbone(own).llm_int8_skip_modules == ["lm_head"]


def test_device_map_and_quantisation_reach_transformers(monkeypatch):
    seen = {}

    def without_the_package(cls, folder, **given):
        seen.update(given)
        raise ImportError("bitsandbytes is not here.")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(without_the_package))
    with pytest.raises(FunAudioChatError, match="bitsandbytes is not here. Install the package"):
        VoiceChat.from_pretrained(
            TINY_A,
            device="cpu",
            device_map={"": "cpu"},
            attn_implementation="eager",
            quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        )
    assert seen["device_map"] == {"": "cpu"} and seen["attn_implementation"] == "eager"
    settings = seen["quantization_config"]
    assert settings.load_in_8bit and "audio_invert_tower" in settings.llm_int8_skip_modules


def test_a_placed_model_is_not_moved_to_the_device_of_the_conversation():
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    chat = VoiceChat.from_pretrained(TINY_A, device="meta", device_map={"": "cpu"})
    assert chat.model.device.type == "cpu"


MEASURE = """
import resource, sys
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration as Model
small, large = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
Model.from_pretrained(small)
before = peak()
model = Model.from_pretrained(large)
print(peak() - before)
"""


@pytest.mark.slow
def test_loading_needs_the_weights_and_one_shard(tmp_path):
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    config.text_config.vocab_size = 600_000
    config.text_config.intermediate_size = 60_000
    model = FunAudioChatForConditionalGeneration(config)
    weights_mib = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    model.save_pretrained(tmp_path, max_shard_size="160MB")
    del model
    assert weights_mib > 400 and len(list(tmp_path.glob("*.safetensors"))) >= 3
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(TINY_A), str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert float(done.stdout) < weights_mib + 160 + 40
