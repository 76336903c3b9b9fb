# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Parity of the model's parts, forward pass and training step with recorded results."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)

from funaudiochat import modeling_funaudiochat as modeling
from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.register import register_funaudiochat
from tests.helpers.golden import GOLDEN, TINY_A, load_case, load_model, names


def mode_of(case: dict) -> dict[str, str]:
    mode = case.get("config_overrides", {}).get("audio_config.continuous_features_mode")
    return {"continuous_features_mode": mode} if mode else {}


@pytest.mark.parametrize("name", names("a"))
def test_mel_encoder_equals_recorded(name):
    case, inputs, outputs = load_case(name)
    result = load_model().continuous_audio_tower(
        inputs["features"],
        inputs["feature_lens"],
        speech_maxlen=case["kwargs"]["speech_maxlen"],
    )
    torch.testing.assert_close(
        result.last_hidden_state, outputs["last_hidden_state"], atol=2e-5, rtol=0
    )
    lengths = load_model().continuous_audio_tower._get_feat_extract_output_lengths(
        inputs["feature_lens"]
    )
    for key, found in zip(("aftercnn_lens", "output_lens"), lengths, strict=True):
        assert found.tolist() == outputs[key].tolist()


def test_many_audios_are_encoded_as_each_alone():
    tower = load_model().continuous_audio_tower
    lengths = [37, 500, 210, 0, 999, 640, 90, 800, 333, 720]  # more than are encoded at a time
    audios = [torch.randn(tower.config.num_mel_bins, frames) for frames in lengths]
    positions = max(lengths) // 4

    def encoded(items: list[torch.Tensor]) -> torch.Tensor:
        frames = torch.tensor([item.shape[1] for item in items])
        return tower(torch.cat(items, 1), frames, speech_maxlen=positions).last_hidden_state

    with torch.no_grad():
        together, alone = encoded(audios), torch.cat([encoded([audio]) for audio in audios])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together.abs().amax((1, 2)) > 0).tolist() == [frames > 0 for frames in lengths]


@pytest.mark.parametrize("name", names("b"))
def test_speech_token_encoder_equals_recorded(name):
    case, inputs, outputs = load_case(name)
    result = load_model(**mode_of(case)).audio_tower(**inputs)
    torch.testing.assert_close(
        result.last_hidden_state, outputs["last_hidden_state"], atol=1e-5, rtol=0
    )
    for index, state in enumerate(result.hidden_states):
        torch.testing.assert_close(state, outputs[f"hidden_states_{index}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", names("c"))
def test_forward_equals_recorded(name, attention):
    case, inputs, outputs = load_case(name)
    with torch.no_grad():
        result = load_model(attention, **mode_of(case))(**inputs)
    kept = inputs["attention_mask"].bool()
    pairs = {
        "text_logits": (result.logits, kept),
        "last_hidden_state": (result.last_hidden_state, kept),
        "lm_inputs_embeds": (result.inputs_embeds, kept),
        "speech_logits": (result.speech_logits, kept.repeat_interleave(5, dim=1)),
    }
    for key, (value, mask) in pairs.items():
        if key in outputs:
            torch.testing.assert_close(value[mask], outputs[key][mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", names("d"))
def test_training_step_equals_recorded_and_leaves_inputs_alone(name, attention):
    case, inputs, outputs = load_case(name)
    before = {key: value.clone() for key, value in inputs.items()}
    model = load_model(attention).train()
    result = model(**inputs)
    result.loss.backward()
    for key, value in before.items():
        assert torch.equal(inputs[key], value), f"{key} was changed in place"
    for key, expected in case["losses"].items():
        if expected is None:
            assert getattr(result, key) is None
        else:
            assert getattr(result, key).item() == pytest.approx(expected, rel=1e-5)
    if result.speech_logits is not None and "speech_logits" in outputs:
        kept = inputs["attention_mask"].bool()
        for value, expected, mask in (
            (result.logits, outputs["text_logits"], kept),
            (result.speech_logits, outputs["speech_logits"], kept.repeat_interleave(5, dim=1)),
            (result.inputs_embeds, outputs["lm_inputs_embeds"], kept),
        ):
            torch.testing.assert_close(value[mask], expected[mask], atol=1e-4, rtol=1e-4)
    parameters = dict(model.named_parameters())
    for part, expected in case["grad_norms"].items():
        grads = [
            p.grad
            for key, p in parameters.items()
            if p.grad is not None and (part == "total" or key.startswith(f"{part}."))
        ]
        norm = torch.cat([g.flatten() for g in grads]).norm().item() if grads else 0.0
        assert norm == pytest.approx(expected, rel=1e-4), part
    assert parameters["continuous_audio_tower.audio_bos_eos_token.weight"].grad is None
    for key, expected in outputs.items():
        if key.startswith("grad."):
            actual = parameters[key.removeprefix("grad.")].grad
            limit = 1e-4 * expected.abs().max().item()
            torch.testing.assert_close(actual, expected, atol=limit, rtol=0)


@pytest.mark.parametrize("name", names("d"))
def test_each_part_sees_the_recorded_labels(name):
    _, inputs, outputs = load_case(name)
    model, seen = load_model(), []
    compute = model._cross_entropy

    def recording(logits, targets):
        seen.append(targets)
        return compute(logits, targets)

    model._cross_entropy = recording
    model(**inputs)
    assert torch.equal(seen[0], outputs["text_labels"][:, 1:])
    if "speech_labels" in outputs:
        assert torch.equal(seen[1], outputs["speech_labels"][:, 5:])


@pytest.mark.parametrize("name", ["c1_forward_1audio", "d3_train_text_only"])
def test_the_head_is_fed_the_recorded_vectors(name):
    _, inputs, outputs = load_case(name)
    model, fed = load_model(), []
    model.audio_invert_tower.crq_transformer.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    torch.testing.assert_close(fed[0], outputs["crq_inputs_embeds"], atol=1e-4, rtol=1e-4)


def test_fine_positions_equal_recorded():
    _, inputs, outputs = load_case("d4_train_packed")
    fine = load_model().audio_invert_tower._fine_positions(inputs["position_ids"])
    assert fine.tolist() == outputs["crq_position_ids"].tolist()


def test_packed_rows_reach_the_back_ends_as_restarting_positions_without_a_mask():
    """What flash attention needs to keep samples apart; the others understand it too."""
    _, inputs, _ = load_case("d4_train_packed")
    model, calls = load_model(), []
    for part in (model.language_model.model, model.audio_invert_tower.crq_transformer):
        part.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
        )
    with torch.no_grad():
        model(**inputs)
    ids = inputs["attention_mask"][inputs["attention_mask"] > 0]
    for call, repeat in zip(calls, (1, 5), strict=True):
        lengths = [repeat * int((ids == n).sum()) for n in ids.unique()]
        expected = torch.cat([torch.arange(n) for n in lengths])[None]
        assert torch.equal(call["position_ids"], expected)
        assert call.get("attention_mask") is None
        assert call["inputs_embeds"].shape[:2] == expected.shape


def test_keys_and_shapes_equal_the_8b_manifest():
    fields = json.loads((GOLDEN / "config_8b.json").read_text())
    manifest = json.loads((GOLDEN / "manifest_8b.json").read_text())
    with torch.device("meta"):
        model = FunAudioChatForConditionalGeneration(FunAudioChatConfig(**fields))
    state = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert len(state) == manifest["num_keys"]
    assert state == manifest["keys"]
    assert sum(p.numel() for p in model.parameters()) == manifest["total_parameters_unique"]


def test_saving_drops_the_tied_matrix_and_reloads(tmp_path):
    model = load_model()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "audio_invert_tower.lm_head.weight" not in saved
    again = FunAudioChatForConditionalGeneration.from_pretrained(tmp_path)
    assert again.audio_invert_tower.lm_head.weight is again.audio_tower.embed_tokens.weight
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_auto_classes_know_the_model_after_registering_twice():
    register_funaudiochat()
    register_funaudiochat()
    folder = TINY_A
    assert isinstance(AutoConfig.from_pretrained(folder), FunAudioChatConfig)
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM, AutoModelForMultimodalLM):
        model = auto_class.from_pretrained(folder)
        assert isinstance(model, FunAudioChatForConditionalGeneration)


def test_registering_after_another_program_registered_the_same_type_works():
    class Foreign(PretrainedConfig):
        model_type = "funaudiochat"

    AutoConfig.register("funaudiochat", Foreign, exist_ok=True)
    register_funaudiochat()
    folder = TINY_A
    assert isinstance(AutoConfig.from_pretrained(folder), FunAudioChatConfig)
    assert Foreign().model_type == "funaudiochat"


def test_placeholder_mismatch_names_both_numbers():
    _, inputs, _ = load_case("c1_forward_1audio")
    inputs["speech_attention_mask"] = inputs["speech_attention_mask"].clone()
    inputs["speech_attention_mask"][:, 10:] = 0
    with pytest.raises(ValueError, match=r"placeholders.*2 groups"):
        load_model()(**inputs)


def test_gradient_checkpointing_gives_the_same_gradients():
    _, inputs, _ = load_case("d1_train_batch")
    gradients = []
    for enabled in (False, True):
        model = load_model().train()
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert all(
                layer.gradient_checkpointing for layer in model.continuous_audio_tower.layers
            )
        model(**inputs).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        if expected is not None:
            torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=1e-5)


def test_a_block_diagonal_mask_means_the_same_as_sample_numbers():
    _, inputs, _ = load_case("d4_train_packed")
    model, ids = load_model(), inputs["attention_mask"]
    same = (ids[:, :, None] == ids[:, None, :]) & (ids[:, :, None] > 0)
    visible = torch.tril(same)[:, None]
    blocks = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = model(**inputs)
        result = model(**{**inputs, "attention_mask": blocks})
    assert result.loss.item() == pytest.approx(expected.loss.item(), rel=1e-6)


@pytest.mark.parametrize("labelled", [True, False], ids=["targets", "none"])
@pytest.mark.parametrize("name", [n for n in names("d") if n != "d3_train_text_only"])
def test_computing_only_what_is_learned_changes_no_loss_and_no_gradient(
    name, labelled, monkeypatch
):
    monkeypatch.setattr(modeling, "LOSS_POSITIONS", 7)  # several parts, the last one shorter
    _, inputs, _ = load_case(name)
    if not labelled:
        inputs["labels"] = torch.full_like(inputs["labels"], -100)
        inputs["labels"][:, -1] = inputs["input_ids"][:, -1]
    whole, lean = load_model().train(), load_model().train()
    lean.lean_losses = True
    outputs = [model(**inputs) for model in (whole, lean)]
    for output in outputs:
        output.loss.backward()
    assert outputs[1].logits is None and outputs[1].speech_logits is None
    torch.testing.assert_close(outputs[1].text_loss, outputs[0].text_loss, rtol=1e-6, atol=0)
    if labelled:
        torch.testing.assert_close(
            outputs[1].speech_loss, outputs[0].speech_loss, rtol=1e-6, atol=0
        )
    else:  # nothing to learn: the head does not run, and no loss of 0 dilutes the others' mean
        assert outputs[1].speech_loss is None and outputs[0].speech_loss == 0
    torch.testing.assert_close(outputs[1].loss, outputs[0].loss, rtol=1e-6, atol=0)
    gradients = dict(lean.named_parameters())
    for key, parameter in whole.named_parameters():
        if parameter.grad is not None:
            mine = gradients[key].grad
            mine = torch.zeros_like(parameter) if mine is None else mine
            torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-4)


def test_audio_without_targets_adds_a_speech_loss_of_zero():
    _, inputs, _ = load_case("d1_train_batch")
    labels = torch.full_like(inputs["labels"], -100)
    labels[:, -1] = inputs["input_ids"][:, -1]
    result = load_model()(**{**inputs, "labels": labels})
    assert result.speech_loss.item() == 0
    result.loss.backward()


def test_training_on_text_alone_runs_no_head_and_gives_it_no_gradient():
    model = load_model().train()
    ids = torch.arange(20)[None]
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    output.loss.backward()
    assert output.speech_logits is None and torch.equal(output.loss, output.text_loss)
    assert all(p.grad is None for p in model.audio_invert_tower.crq_transformer.parameters())
    assert all(p.grad is not None for p in model.language_model.model.layers.parameters())
    assert model.eval()(input_ids=ids).speech_logits is not None


def test_half_scale_of_untranscribed_audio_can_be_switched_off():
    _, inputs, _ = load_case("d1_train_batch")
    assert not inputs["text_attention_mask"].all()
    model = load_model()
    with torch.no_grad():
        halved = model(**inputs).inputs_embeds
        model.config.halve_untranscribed_audio = False
        full = model(**inputs).inputs_embeds
    changed = (halved - full).abs().amax(-1) > 0
    torch.testing.assert_close(full[changed], 2 * halved[changed], atol=1e-6, rtol=1e-6)
    placeholders = inputs["input_ids"] == model.config.audio_token_index
    assert 0 < changed.sum() < placeholders.sum()
