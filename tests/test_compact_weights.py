# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Weights stored as bfloat16 or int8 mean what their dequantised values mean."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from funaudiochat import decoder_kernel, voice_chat
from funaudiochat.compact_weights import (
    CompactEmbedding,
    CompactLinear,
    check_weights,
    compact,
    gpu_quantization,
)
from funaudiochat.errors import FunAudioChatError
from funaudiochat.generation_funaudiochat import generate
from funaudiochat.hub import NANO_MODEL
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.golden import TINY_A, load_case, load_model, options_of
from tests.helpers.questions import question

STORED = ("bf16", "int8")


def stored(linear: nn.Linear, weights: str) -> CompactLinear:
    parent = nn.Module()
    parent.language_model = nn.Sequential(linear)
    compact(parent, weights)
    return parent.language_model[0]


def dequantised(linear: CompactLinear) -> torch.Tensor:
    """[out, in] float64, by another route than the layer's own."""
    weight = linear.weight.numpy().astype("float64")
    if linear.scale is not None:
        return torch.from_numpy(weight) * linear.scale.double()[:, None]
    bits = (linear.weight.numpy().astype("int64") & 0xFFFF) << 16
    return torch.from_numpy(bits.astype("uint32").view("float32").astype("float64"))


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 33])
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (64, 100), (130, 256)])
@pytest.mark.parametrize("weights", STORED)
def test_products_are_those_of_the_dequantised_weights(weights, shape, rows, way):
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(shape[1], shape[0])
    linear.weight.data = torch.randn(shape, generator=generator)
    linear.weight.data[0] = 0
    hidden = torch.randn(rows, shape[1], generator=generator)
    made = stored(linear, weights)
    wanted = hidden.double() @ dequantised(made).T + linear.bias.detach().double()
    with torch.no_grad():
        found = made(hidden)
    torch.testing.assert_close(found.double(), wanted, atol=2e-5, rtol=1e-5)
    assert torch.equal(made(hidden[None]), found[None])


@pytest.mark.parametrize("weights", STORED)
def test_rows_do_not_depend_on_those_beside_them(weights):
    if decoder_kernel.kernel() is None:
        pytest.skip("no C++ compiler")
    made, hidden = stored(nn.Linear(77, 50, bias=False), weights), torch.randn(8, 77)
    assert torch.equal(made(hidden), torch.cat([made(row[None]) for row in hidden]))


def test_what_is_stored_is_near_the_weights():
    linear = nn.Linear(300, 40)
    weight = linear.weight.detach().clone()
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((stored(linear, "int8").rows(slice(None)) - weight).abs() <= 0.5001 * step).all()
    linear = nn.Linear(300, 40)
    assert torch.equal(
        stored(linear, "bf16").rows(slice(None)), linear.weight.detach().bfloat16().float()
    )


def as_floats(model, weights: str):
    """The same model with the dequantised values as ordinary weights."""
    plain = load_model()
    compact(model, weights)
    for name, part in plain.named_modules():
        if type(part) is nn.Linear and isinstance(
            stored := model.get_submodule(name), CompactLinear
        ):
            part.weight.data = stored.rows(slice(None))
    codebook = model.audio_invert_tower.lm_head.rows(slice(None))
    plain.audio_tower.embed_tokens.weight.data = codebook
    return plain


@pytest.mark.parametrize("name", ["f1_s2s_greedy", "f12_s2s_batch_leftpad_quirk"])
@pytest.mark.parametrize("weights", STORED)
def test_a_model_decodes_as_one_with_the_dequantised_weights(weights, name, way):
    case, inputs, _ = load_case(name)
    model = load_model()
    plain = as_floats(model, weights)
    options = options_of(case)
    rows, speech = generate(model, inputs, options)
    wanted_rows, wanted_speech = generate(plain, inputs, options)
    assert torch.equal(rows, wanted_rows)
    assert all(map(torch.equal, speech, wanted_speech))


@pytest.mark.parametrize("weights", STORED)
def test_float_weights_of_the_steps_are_released(weights):
    model = load_model()
    compact(model, weights)
    generate(model, *_prompt(4))
    inside = [model.language_model, model.audio_invert_tower]
    assert not any(type(x) is nn.Linear for part in inside for x in part.modules())
    stored = [
        layer.weight for part in inside for layer in part.modules()
        if isinstance(layer, CompactLinear)
    ]  # fmt: skip
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in stored}
    assert sum(storages.values()) == sum(x.nbytes for x in stored)  # joined ones are views
    assert isinstance(model.audio_tower.embed_tokens, CompactEmbedding)


def _prompt(steps: int):
    case, inputs, _ = load_case("f1_s2s_greedy")
    return inputs, replace(options_of(case), max_new_tokens=steps)


@pytest.mark.parametrize("weights", ("fp32", *STORED))
def test_voice_chat_loads_them(weights):
    chat = VoiceChat.from_pretrained(TINY_A, device="cpu", weights=weights)
    layers = [x for x in chat.model.modules() if isinstance(x, CompactLinear)]
    assert bool(layers) == (weights != "fp32")
    assert all(x.dtype == torch.float32 for x in chat.model.parameters())
    reply = chat.ask(audio=question(), sampling=Sampling(greedy=True, max_new_tokens=4))
    assert len(reply.speech_tokens)


def test_fp32_changes_no_id():
    sampling = Sampling(greedy=True, max_new_tokens=12)
    replies = [
        VoiceChat.from_pretrained(TINY_A, device="cpu", **given).ask(
            audio=question(), sampling=sampling
        )
        for given in ({}, {"weights": "fp32"})
    ]
    assert torch.equal(replies[0].speech_tokens, replies[1].speech_tokens)
    assert replies[0].text == replies[1].text


def test_a_checkpoint_in_half_precision_is_stored_without_detour():
    if not NANO_MODEL.is_dir():
        pytest.skip("Nano is not here")
    model = FunAudioChatForConditionalGeneration.from_pretrained(NANO_MODEL, dtype="auto")
    assert model.dtype == torch.float16
    wanted = FunAudioChatForConditionalGeneration.from_pretrained(NANO_MODEL, dtype=torch.float32)
    for each in (model, wanted):
        compact(each, "int8")
    name = "language_model.model.layers.0.mlp.down_proj"
    found = model.float().get_submodule(name)
    assert torch.equal(found.weight, wanted.get_submodule(name).weight)
    assert torch.equal(found.scale, wanted.get_submodule(name).scale)


def test_a_model_with_stored_weights_is_neither_saved_nor_trained(tmp_path):
    chat = VoiceChat.from_pretrained(TINY_A, device="cpu", weights="int8")
    with pytest.raises(FunAudioChatError, match="weights='int8' cannot be saved; load it without"):
        chat.model.save_pretrained(tmp_path)
    with pytest.raises(FunAudioChatError, match="weights='int8' cannot be trained"):
        chat.model.train()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"weights": "int2"}, "weights is 'int2'; use one of fp32, bf16, int8, int4"),
        ({"weights": "int8", "dtype": "bfloat16"}, "computes in float32 and dtype is bfloat16"),
        ({"weights": "fp32", "torch_dtype": torch.float16}, "computes in float32 and dtype is"),
        ({"weights": "int8", "device_map": "auto"}, "excludes device_map"),
        ({"weights": "bf16", "quantization_config": {}}, "excludes quantization_config"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_loaded(given, message, monkeypatch):
    monkeypatch.setattr(voice_chat, "FunAudioChatForConditionalGeneration", None)
    with pytest.raises(FunAudioChatError, match=message):
        VoiceChat.from_pretrained(TINY_A, device="cpu", **given)


def test_other_devices_and_mixtures_of_experts_are_refused():
    plain = SimpleNamespace(text_config=SimpleNamespace(model_type="qwen3"))
    with pytest.raises(FunAudioChatError, match="the device is cuda:1; on a GPU use"):
        check_weights("bf16", torch.device("cuda:1"), plain, {})
    check_weights("fp32", torch.device("cuda:1"), plain, {})
    with pytest.raises(FunAudioChatError, match="weights='int4' needs a CUDA GPU"):
        check_weights("int4", torch.device("cpu"), plain, {})
    with pytest.raises(FunAudioChatError, match="weights='int4' excludes device_map"):
        check_weights("int4", torch.device("cuda"), plain, {"device_map": "auto"})
    mixture = SimpleNamespace(text_config=SimpleNamespace(model_type="qwen3_moe", num_experts=8))
    with pytest.raises(FunAudioChatError, match="the experts of a qwen3_moe backbone"):
        check_weights("bf16", torch.device("cpu"), mixture, {})


@pytest.mark.parametrize(("weights", "kind"), [("int8", "Linear8bitLt"), ("int4", "Linear4bit")])
def test_the_backbone_of_a_small_card_is_quantized_and_nothing_else(weights, kind):
    """bitsandbytes also runs on a CPU, which stands in for the GPU here."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    case, inputs, outputs = load_case("f1_s2s_greedy")
    model = FunAudioChatForConditionalGeneration.from_pretrained(
        TINY_A, quantization_config=gpu_quantization(weights, torch.float32), dtype=torch.float32
    ).eval()
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if hasattr(m, "weight")}
    layers = {kinds[name] for name in kinds if ".layers." in name and name.endswith("_proj")
              and name.startswith("language_model")}  # fmt: skip
    assert layers == {kind}
    assert {
        name for name, found in kinds.items() if found == kind and "language" not in name
    } == set()
    model.sp_gen_kwargs.update(case["sp_gen_kwargs"])
    _, speech = model.generate(**inputs, **case["kwargs"])
    assert speech.shape[0] == outputs["audio_ids"].shape[0] and speech.shape[1] % 5 == 0
