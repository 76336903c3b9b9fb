# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Cases recorded from the reference, and the tiny model they were recorded with."""

import json

from safetensors.torch import load_file

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden"
TINY_A = GOLDEN / "model" / "models" / "tiny_a"

CASES = GOLDEN / "model" / "cases"


def load_case(name: str):
    folder = CASES / name
    inputs, outputs = (load_file(folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
    return json.loads((folder / "case.json").read_text()), inputs, outputs


def load_model(attention: str = "sdpa", **audio_overrides) -> FunAudioChatForConditionalGeneration:
    config = FunAudioChatConfig.from_pretrained(TINY_A)
    for key, value in audio_overrides.items():
        setattr(config.audio_config, key, value)
    return FunAudioChatForConditionalGeneration.from_pretrained(
        TINY_A, config=config, attn_implementation=attention
    ).eval()


def names(group: str) -> list[str]:
    return sorted(p.name for p in CASES.iterdir() if p.name.startswith(group))


def options_of(case: dict) -> GenerationOptions:
    fields = {**case["kwargs"], **case["sp_gen_kwargs"]}
    fields["eos_token_ids"] = tuple(fields.pop("eos_token_id"))
    return GenerationOptions(**fields)
