# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Damaged folders and hostile values: one error of ours, or it works; never another traceback."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.errors import FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.golden import TINY_A
from tests.helpers.tiny_folders import build

BLANK = "<|audio_bos|><|AUDIO|><|audio_eos|>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return build(tmp_path_factory.mktemp("tiny"))


def damage(path, seed: int) -> None:
    """Cut the file, or change some bytes of its beginning, where structure is."""
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    if seed % 2:
        del data[rng.randrange(len(data)) :]
    else:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(min(len(data), 3000))] = rng.randrange(256)
    path.write_bytes(data)


def load_model(folder):
    FunAudioChatForConditionalGeneration.from_pretrained(folder)


def answer(chat):
    """Two steps of a sampled spoken answer, and two of a text answer."""
    sampling = Sampling(max_new_tokens=2, seed=0)
    chat.ask("Hello", audio=(np.full(4000, 0.1, dtype=np.float32), 16000), sampling=sampling)
    chat.ask("Hello", speech=False, sampling=sampling)


def use_model(folder):
    answer(VoiceChat.from_pretrained(folder, device="cpu"))


def use_detokenizer(folder):
    chat = VoiceChat.from_pretrained(TINY_A, device="cpu")
    chat.detokenizer = CosyVoice3Detokenizer.from_pretrained(folder)
    chat.speaker = torch.ones(192)
    answer(chat)


@pytest.mark.parametrize(
    "index, name, use",
    [
        (0, "config.json", use_model),
        (0, "generation_config.json", use_model),
        (0, "model.safetensors", use_model),
        (0, "processor_config.json", use_model),
        (0, "chat_template.jinja", use_model),
        (0, "tokenizer.json", use_model),
        (0, "tokenizer_config.json", use_model),
        (0, "preprocessor_config.json", use_model),
        (0, "speech_tokenizer/tokenizer.json", use_model),
        (1, "cosyvoice3.yaml", use_detokenizer),
        (1, "flow.pt", use_detokenizer),
        (1, "hift.pt", use_detokenizer),
    ],
)
def test_damaged_files_raise_our_error_or_answer(folders, tmp_path, index, name, use):
    refused = 0
    for seed in range(10):
        folder = tmp_path / str(seed)
        shutil.copytree(folders[index], folder)
        damage(folder / name, seed)
        try:
            use(folder)
        except FunAudioChatError as error:
            refused += 1
            assert name in str(error) or str(folder) in str(error)
        shutil.rmtree(folder)
    assert refused


def test_a_missing_text_tokenizer_is_our_error(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "model")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(FunAudioChatError, match="tokenizer knows no words"):
        use_model(tmp_path / "model")


@pytest.mark.parametrize("field", ["d_model", "output_dim", "group_size", "codebook_size"])
@pytest.mark.parametrize("value", [0, -1, None, "many", 1e9])
def test_absurd_sizes_in_the_config_are_refused(tmp_path, field, value):
    shutil.copytree(TINY_A, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["audio_config"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(FunAudioChatError):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    "part, field, value",
    [
        ("text_config", "vocab_size", 10**9),
        ("text_config", "intermediate_size", -1),
        ("text_config", "num_hidden_layers", 10**9),
        ("text_config", "hidden_act", "many"),
        ("text_config", "rms_norm_eps", None),
        ("text_config", "audio_bos_index", None),
        ("text_config", "sil_index", 10**9),
        ("audio_config", "crq_transformer_config", None),
        ("audio_config", "crq_transformer_config", {"num_hidden_layers": 30}),
        ("text_config", "intermediate_size", 1 << 20),
        ("audio_config", "continuous_features_mode", "both"),
        ("audio_config", "encoder_attention_heads", 7),
    ],
)
def test_other_values_no_model_can_be_built_from_are_refused(tmp_path, part, field, value):
    shutil.copytree(TINY_A, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config[part][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(FunAudioChatError):
        load_model(tmp_path / "model")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
entries = st.one_of(
    st.text(max_size=40),
    st.builds(json.dumps, json_values),
    st.fixed_dictionaries({}, optional={"token": json_values, "path": json_values}),
    st.lists(st.floats(allow_nan=True, width=32), max_size=50).map(
        lambda x: np.array(x, dtype=np.float32)
    ),
    st.integers(0, 3).map(lambda n: np.zeros((2,) * n)),
    st.none(),
    st.just(torch.zeros(3, 4)),
)


@settings(max_examples=150, deadline=None)
@given(entry=entries)
def test_any_audio_entry_is_taken_or_refused(entry):
    processor = test_any_audio_entry_is_taken_or_refused.processor
    try:
        result = processor(text=BLANK, audio=[entry], return_tensors="pt")
    except FunAudioChatError as error:
        assert str(error)
    else:
        assert result["input_ids"].shape[0] == 1


test_any_audio_entry_is_taken_or_refused.processor = FunAudioChatProcessor.from_pretrained(TINY_A)
