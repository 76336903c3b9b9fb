# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A fresh joint checkpoint of an LLM, Whisper's encoder and a small LLM."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, WhisperModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from funaudiochat.errors import CheckpointError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers.starting_folders import CODES, tokenizer, write_all, write_llm, write_whisper
from training.init_model import SPECIAL, init_model


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def joint(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("joint")
    init_model(**sources, out=out, codes=CODES)
    return out


def load(folder):
    return FunAudioChatForConditionalGeneration.from_pretrained(folder).eval()


def test_the_backbone_answers_text_as_the_llm_does(sources, joint):
    llm = AutoModelForCausalLM.from_pretrained(sources["llm"]).eval()
    ids = torch.tensor([tokenizer()("what is left of the old tower?").input_ids])
    model = load(joint)
    known = llm.config.vocab_size
    with torch.no_grad():
        ours = model(ids, disable_speech=True).logits[..., :known]
        torch.testing.assert_close(ours, llm(ids).logits, atol=1e-5, rtol=0)
    assert model.config.text_config.rope_parameters == llm.config.rope_parameters


def test_rope_of_backbone_and_head_is_kept_in_both_forms(sources, joint):
    saved = json.loads((joint / "config.json").read_text())
    head = saved["audio_config"]["crq_transformer_config"]
    for part, source in ((saved["text_config"], "llm"), (head, "head")):
        rope = json.loads((sources[source] / "config.json").read_text())["rope_parameters"]
        assert part["rope_parameters"] == rope
        assert part["rope_theta"] == rope["rope_theta"] and part["rope_scaling"] is None


def test_the_mel_encoder_equals_whispers_own_within_one_window(sources, joint):
    """Two seconds fill one window, in which both attend to everything.

    Known differences: Whisper normalises its 50 Hz positions and stops there; ours averages pairs
    of them first, and then projects to the backbone's width.
    """
    whisper = WhisperModel.from_pretrained(sources["audio_encoder"]).encoder.eval()
    whisper.config.max_source_positions = 100
    whisper.embed_positions = torch.nn.Embedding.from_pretrained(
        whisper.embed_positions.weight[:100]
    )
    tower = load(joint).continuous_audio_tower
    mel = torch.randn(128, 200, generator=torch.Generator().manual_seed(3))
    seen = {}
    whisper.layer_norm.register_forward_pre_hook(lambda _, given: seen.update(hidden=given[0][0]))
    tower.layers[-1].register_forward_hook(lambda *given: seen.update(ours=given[2][0]))
    with torch.no_grad():
        normed = whisper(mel[None]).last_hidden_state[0]
        ours = tower(mel, torch.tensor([200]), speech_maxlen=50).last_hidden_state[0]
        torch.testing.assert_close(seen["ours"], seen["hidden"], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(tower.ln_post(seen["hidden"]), normed, atol=2e-5, rtol=1e-5)
        pairs = seen["hidden"].unflatten(0, (-1, 2)).mean(1)
        expected = tower.proj(whisper.layer_norm(pairs))
    assert isinstance(whisper, WhisperEncoder) and ours.abs().max() > 0.01
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)


def test_the_head_holds_the_small_llm_and_the_rest_is_drawn_by_the_seed(sources, joint, tmp_path):
    head = load_file(sources["head"] / "model.safetensors")
    weights = load(joint).state_dict()
    for key, tensor in head.items():
        if key.startswith(("model.layers.", "model.norm.")):
            ours = weights[key.replace("model.", "audio_invert_tower.crq_transformer.", 1)]
            assert torch.equal(ours, tensor)
    assert weights["audio_tower.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.05)
    init_model(**sources, out=tmp_path / "same", codes=CODES)
    init_model(**sources, out=tmp_path / "other", codes=CODES, seed=1)
    same, other = (load(tmp_path / name).state_dict() for name in ("same", "other"))
    assert all(torch.equal(weights[key], same[key]) for key in weights)
    assert not torch.equal(
        weights["audio_tower.embed_tokens.weight"], other["audio_tower.embed_tokens.weight"]
    )


def test_special_tokens_follow_the_vocabulary_and_have_rows(sources, joint):
    before, config = len(tokenizer()), load(joint).config
    processor = FunAudioChatProcessor.from_pretrained(joint)
    ids = processor.tokenizer.convert_tokens_to_ids(list(SPECIAL))
    assert ids == list(range(before, before + len(SPECIAL)))
    text = config.text_config
    assert [config.audio_token_index, text.audio_bos_index, text.audio_eos_index] == ids[:3]
    assert text.sil_index == ids[4] and text.vocab_size > max(ids)
    assert config.audio_config.codebook_size == CODES + 4
    codes = "<|audio_bos|>[AU0000][AU0124]<|audio_eos|><|audio_pad|>"
    read = processor.speech_tokenizer(codes, add_special_tokens=False).input_ids
    assert read == [CODES, 0, 124, CODES + 1, CODES + 2]
    layout = {
        "vocab.json",
        "merges.txt",
        "preprocessor_config.json",
        "generation_config.json",
        "processor_config.json",
        "speech_tokenizer",
        "model.safetensors.index.json",
    }
    assert layout <= {path.name for path in joint.iterdir()}


@pytest.mark.parametrize("kind", [{"tie_word_embeddings": True}, {"experts": 4}])
def test_tied_and_mixture_of_experts_backbones_load(sources, tmp_path, kind):
    llm = write_llm(tmp_path / "llm", **kind)
    init_model(**{**sources, "llm": llm}, out=tmp_path / "out", codes=CODES)
    model, ids = load(tmp_path / "out"), torch.tensor([[5, 6, 7]])
    reference = AutoModelForCausalLM.from_pretrained(llm).eval()
    with torch.no_grad():
        expected = reference(ids).logits
        ours = model(ids, disable_speech=True).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_folders_of_another_kind_are_refused(sources, tmp_path):
    def refuses(match, **changes):
        with pytest.raises(CheckpointError, match=match):
            init_model(**{**sources, **changes}, out=tmp_path / "out", codes=CODES)
        assert not (tmp_path / "out").exists()

    refuses("holds a whisper model; this part must be qwen3", llm=sources["audio_encoder"])
    refuses("no readable config.json", head=tmp_path)
    changed = write_whisper(tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    weights["encoder.embed_positions.weight"] += 1
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    refuses("position table of its own", audio_encoder=changed)
    weights.pop("encoder.layers.1.fc1.weight")
    weights.pop("encoder.embed_positions.weight")
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    refuses("no weights for continuous_audio_tower.layers.1.fc1.weight", audio_encoder=changed)


def test_the_command_says_where_the_parameters_come_from(sources, tmp_path):
    options = [f"--{name.replace('_', '-')}={path}" for name, path in sources.items()]
    done = subprocess.run(
        [sys.executable, "-m", "funaudiochat.cli", "init", *options, f"--out={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "backbone" in done.stdout and "fresh" in done.stdout
    assert load(tmp_path / "out").config.audio_config.codebook_size == 6565
