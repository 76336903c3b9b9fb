# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The folder served: FUNAUDIOCHAT_SERVING_MODEL, or a tiny random one. What it is asked: the
audio of FUNAUDIOCHAT_SERVING_AUDIO (files, folders, JSONL of dialogues; as in a PATH), or
questions spoken here.
"""

import os
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest

from funaudiochat.voice_chat import VoiceChat
from tests.serving.builders import QUESTIONS, build_tiny_model
from tests.serving.compare import RATE_HZ, read_audio
from tests.serving.vllm_server import vllm_server


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    if find_spec("vllm") is None and "FUNAUDIOCHAT_SERVING_URL" not in os.environ:
        pytest.skip("needs vLLM in an environment of its own: tests/serving/run_vllm.sh")
    given = os.environ.get("FUNAUDIOCHAT_SERVING_MODEL")
    return Path(given) if given else build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def questions() -> list[tuple]:
    """Fifty spoken questions, (samples, rate)."""
    given = os.environ.get("FUNAUDIOCHAT_SERVING_AUDIO", "")
    sources = [Path(part) for part in given.split(os.pathsep) if part]
    spoken = all((QUESTIONS / f"{index:02d}.wav").is_file() for index in range(50))
    if not sources and not spoken and find_spec("hibari") is None:
        pytest.skip("needs the voice of `pip install hibari-tts==0.2.1` to speak questions")
    return [(waveform, RATE_HZ) for waveform in read_audio(sources, 50)]


@pytest.fixture(scope="session")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server") / "vllm.log"


@pytest.fixture(scope="session")
def url(model_folder, log):
    """Of a server of the folder: FUNAUDIOCHAT_SERVING_URL, or one of our own."""
    given = os.environ.get("FUNAUDIOCHAT_SERVING_URL")
    with nullcontext(given) if given else vllm_server(model_folder, log) as url:
        yield url


@pytest.fixture(scope="session")
def chat(model_folder) -> VoiceChat:
    return VoiceChat.from_pretrained(model_folder, device="cpu")
