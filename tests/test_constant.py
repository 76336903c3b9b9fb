# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The prompts a checkpoint was trained with stay the same bytes."""

import hashlib
import runpy
from pathlib import Path

import pytest

CONSTANTS = runpy.run_path(str(Path(__file__).parents[1] / "utils" / "constant.py"))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("SPOKEN_S2M_PROMPT", "9b409be9920866e5"),
        ("FUNCTION_CALLING_PROMPT", "92c5e74becff91bd"),
    ],
)
def test_prompt_bytes_are_unchanged(name, digest):
    assert hashlib.sha256(CONSTANTS[name].encode()).hexdigest().startswith(digest)


def test_prompts_build_on_the_default_ones():
    assert CONSTANTS["SPOKEN_S2M_PROMPT"].startswith(CONSTANTS["DEFAULT_S2M_PROMPT"] + " ")
    assert CONSTANTS["FUNCTION_CALLING_PROMPT"].startswith(CONSTANTS["DEFAULT_S2T_PROMPT"] + "\n")
