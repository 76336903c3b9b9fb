# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""vLLM's own engine reads our folders, and answers spoken questions as we do, token for token."""

from importlib.util import find_spec

import pytest

from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.vllm_plugin import loads_attention
from tests.serving.compare import compare, engine_answers, own_answers

MOST_TOKENS = 24

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs an environment of its own: run_vllm.sh"
)


@pytest.fixture(scope="module")
def comparison(model_folder, chat, questions):
    waveforms = [waveform for waveform, _ in questions]
    theirs = engine_answers(model_folder, chat, waveforms, MOST_TOKENS)
    found = compare(chat, waveforms, own_answers(chat, waveforms, MOST_TOKENS), theirs)
    print(found)
    return found


def test_the_plugin_makes_folders_and_mel_encoder_known(model_folder):
    from transformers import AutoProcessor
    from vllm.plugins import load_general_plugins
    from vllm.transformers_utils.config import get_config

    load_general_plugins()
    from vllm.model_executor.models.funaudiochat import FunAudioChatAudioAttention

    assert loads_attention(FunAudioChatAudioAttention)
    # No remote code, and vLLM's own registration of the same type, made here, breaks nothing.
    assert get_config(model_folder, trust_remote_code=False).model_type == "funaudiochat"
    assert isinstance(AutoProcessor.from_pretrained(model_folder), FunAudioChatProcessor)


def test_answers_are_equal_but_for_ties_within_rounding(comparison, questions):
    assert comparison.answers == len(questions) and comparison.is_equal
