# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The prompts a checkpoint was trained with stay the same bytes."""

import ast
import hashlib
import runpy

import pytest

from funaudiochat import constants
from tests.helpers import ROOT

PATH = ROOT / "utils" / "constant.py"
CONSTANTS = runpy.run_path(str(PATH))


def test_it_imports_nothing_so_that_engines_can_execute_it_alone():
    nodes = ast.walk(ast.parse(PATH.read_text(encoding="utf-8")))
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("SPOKEN_S2M_PROMPT", "9b409be9920866e5"),
        ("FUNCTION_CALLING_PROMPT", "92c5e74becff91bd"),
    ],
)
def test_prompt_bytes_are_unchanged(name, digest):
    assert hashlib.sha256(CONSTANTS[name].encode()).hexdigest().startswith(digest)


VALUES = {
    "DEFAULT_S2T_PROMPT": "You are asked to generate text tokens.",
    "DEFAULT_S2M_PROMPT": "You are asked to generate both text and speech tokens at the same time.",
    "AUDIO_TEMPLATE": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    "AUDIO_PAD_TOKEN": "<|audio_pad|>",
    "AUDIO_BOS_TOKEN": "<|audio_bos|>",
    "TOKEN_FPS": 25,
    "DEFAULT_SP_GEN_KWARGS": {
        "text_greedy": False,
        "only_crq_sampling": True,
        "disable_speech": False,
        "force_text_abos": True,
    },
    "DEFAULT_S2M_GEN_KWARGS": {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.9,
        "top_k": 0,
        "num_beams": 1,
        "max_new_tokens": 512,
        "repetition_penalty": 1.2,
        "length_penalty": 1.0,
        "eos_token_id": 151645,
        "pad_token_id": 151643,
    },
    "MAX_HISTORY_TURNS": 8,
    "TOKEN_HOP_LEN": 15,
    "PRE_LOOKAHEAD_LEN": 3,
    "MAX_TTS_TOKENS": 200,
    "MAX_TTS_HISTORY": 500,
}


def test_other_names_keep_their_values():
    assert {name: CONSTANTS[name] for name in VALUES} == VALUES


def test_prompts_build_on_the_default_ones():
    assert CONSTANTS["SPOKEN_S2M_PROMPT"].startswith(CONSTANTS["DEFAULT_S2M_PROMPT"] + " ")
    assert CONSTANTS["FUNCTION_CALLING_PROMPT"].startswith(CONSTANTS["DEFAULT_S2T_PROMPT"] + "\n")


def test_the_package_and_the_reference_path_agree():
    """Programs written for the reference import ``utils.constant``; the package has its own."""
    ours = vars(constants)
    shared = {name for name in CONSTANTS if name.isupper()} & ours.keys()
    assert shared >= {"SPOKEN_S2M_PROMPT", "FUNCTION_CALLING_PROMPT", "AUDIO_TEMPLATE", "TOKEN_FPS"}
    assert {name: ours[name] for name in shared} == {name: CONSTANTS[name] for name in shared}
