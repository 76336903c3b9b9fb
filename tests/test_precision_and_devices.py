# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Answers under another default precision and under autocast, and models that lie on the disk."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from funaudiochat.cosyvoice3.speech_tokenizer import log_mel
from funaudiochat.errors import FunAudioChatError
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT
from tests.helpers.cosyvoice3_folders import build_cosyvoice3_folder
from tests.helpers.golden import TINY_A
from tests.helpers.questions import question

GREEDY = Sampling(greedy=True, max_new_tokens=8)
PARTS = ("continuous_audio_tower", "audio_tower", "language_model", "audio_invert_tower")


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    tts = build_cosyvoice3_folder(tmp_path_factory.mktemp("models") / "tts")
    save_file(
        {"anna": torch.randn(192, generator=torch.Generator().manual_seed(0))},
        tts / "voices.safetensors",
    )
    return TINY_A, tts


@pytest.fixture(scope="module")
def chat(folders):
    return VoiceChat.from_pretrained(*folders, device="cpu")


@pytest.fixture(scope="module")
def answer(chat):
    return chat.branch().ask(audio=question(), sampling=GREEDY)


def assert_equal(reply, expected):
    assert reply.text == expected.text
    assert reply.speech_tokens.tolist() == expected.speech_tokens.tolist()
    assert np.array_equal(reply.audio, expected.audio)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_default_dtype_changes_no_answer(chat, answer, folders, dtype):
    with default_dtype(dtype):
        assert_equal(chat.branch().ask(audio=question(), sampling=GREEDY), answer)
        loaded = VoiceChat.from_pretrained(*folders, device="cpu")
        assert torch.get_default_dtype() == dtype
    assert_equal(loaded.ask(audio=question(), sampling=GREEDY), answer)


def test_audio_is_float32_under_autocast(chat, answer, monkeypatch):
    """The question's features and the answer's audio equal those without autocast, bit for bit."""
    samples, rate_hz = question()
    plain = chat.processor(text="<|AUDIO|>", audio=samples, sampling_rate=rate_hz)
    tokens = log_mel(samples)
    with autocast():
        mixed = chat.processor(text="<|AUDIO|>", audio=samples, sampling_rate=rate_hz)
        assert np.array_equal(mixed["input_features"], plain["input_features"])
        assert np.array_equal(log_mel(samples), tokens)
        waveform = chat.detokenizer.decode(answer.speech_tokens, chat.speaker)
        running = chat.detokenizer.stream(chat.speaker)
        parts = [running.push(answer.speech_tokens), running.finish()]
    assert np.array_equal(waveform.numpy(), answer.audio)
    running = chat.detokenizer.stream(chat.speaker)
    expected = [running.push(answer.speech_tokens), running.finish()]
    assert torch.equal(torch.cat(parts), torch.cat(expected))


@pytest.mark.parametrize("speech", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_any_dtype_answers_under_autocast(folders, dtype, speech):
    chat = VoiceChat.from_pretrained(*folders, device="cpu", dtype=dtype)
    with autocast():
        reply = chat.ask(audio=question(), speech=speech, sampling=GREEDY)
        chat.ask("and on", speech=speech, sampling=GREEDY)
    assert reply.text and (reply.audio is not None) == speech


def test_rounding_by_autocast_leaves_the_answer_of_a_trained_model():
    chat = VoiceChat.from_pretrained(
        ROOT / "pretrained_models" / "Fun-Audio-Chat-Nano", device="cpu"
    )
    asked = ROOT / "examples" / "question.wav"
    expected = chat.branch().ask(audio=asked, sampling=GREEDY)
    with autocast():
        reply = chat.branch().ask(audio=asked, sampling=GREEDY)
    assert (
        reply.text == expected.text
        and reply.speech_tokens.tolist() == expected.speech_tokens.tolist()
    )


def on_disk(*parts):
    return {**dict.fromkeys(PARTS, "cpu"), **dict.fromkeys(parts, "disk")}


IN_HEAD = ("pre_matching", "input_matching", "crq_transformer", "output_matching", "lm_head")


@pytest.mark.parametrize(
    "parts",
    [
        ("continuous_audio_tower",),
        ("language_model",),
        ("continuous_audio_tower", "language_model"),
        ("audio_invert_tower.crq_transformer", "audio_invert_tower.pre_matching"),
    ],
)
def test_parts_on_the_disk_answer_as_in_memory(answer, parts, tmp_path):
    device_map = on_disk(*parts)
    del device_map["audio_invert_tower"]
    device_map = {f"audio_invert_tower.{name}": "cpu" for name in IN_HEAD} | device_map
    chat = VoiceChat.from_pretrained(
        TINY_A, device="cpu", device_map=device_map, offload_folder=tmp_path
    )
    reply = chat.ask(audio=question(), sampling=GREEDY)
    assert (
        reply.text == answer.text and reply.speech_tokens.tolist() == answer.speech_tokens.tolist()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": on_disk("audio_tower")},
        {"device_map": on_disk("audio_invert_tower")},
        {"device_map": {"": "disk"}},
        {"device_map": "auto", "max_memory": {"cpu": 20_000}},
        {"device_map": "auto", "max_memory": {"cpu": 600_000}},
    ],
)
def test_what_cannot_lie_on_the_disk_is_named_at_load(options, tmp_path):
    with pytest.raises(FunAudioChatError, match="audio_invert_tower.lm_head, audio_tower.embed"):
        VoiceChat.from_pretrained(TINY_A, device="cpu", offload_folder=tmp_path, **options)
