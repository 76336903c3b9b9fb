# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What is asked, and the folder served: FUNAUDIOCHAT_SERVING_MODEL, or a tiny random one."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile

from funaudiochat.conversation import VoiceChat
from serving.builders import QUESTIONS, build_tiny_model, speak_questions


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    if find_spec("vllm") is None:
        pytest.skip("needs vLLM in an environment of its own: tests/serving/run_vllm.sh")
    given = os.environ.get("FUNAUDIOCHAT_SERVING_MODEL")
    return Path(given) if given else build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def questions() -> list[tuple]:
    """Fifty spoken questions, (samples, rate)."""
    paths = [QUESTIONS / f"{index:02d}.wav" for index in range(50)]
    if not all(path.is_file() for path in paths):
        if find_spec("hibari") is None:
            pytest.skip("needs the voice of `pip install hibari-tts==0.2.1` to speak questions")
        paths = speak_questions(QUESTIONS, 50)
    return [soundfile.read(path, dtype="float32") for path in paths]


@pytest.fixture(scope="session")
def chat(model_folder) -> VoiceChat:
    return VoiceChat.from_pretrained(model_folder, device="cpu")
