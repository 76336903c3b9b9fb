# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The planner of served memory, and the table of ``docs/serving.md`` that comes from it."""

import json
from functools import cache

import pytest
from typer.testing import CliRunner

from funaudiochat.cli import app
from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.errors import FunAudioChatError
from funaudiochat.serving_plan import ACTIVATION_BYTES, plan_own, plan_serving
from tests.helpers import ROOT

CONFIG_8B = ROOT / "training" / "configs" / "model_8b.json"
GIB = 1 << 30


@cache
def plan(gib: int, tensor: int = 1, pipeline: int = 1):
    return plan_serving(FunAudioChatConfig.from_pretrained(CONFIG_8B), gib * GIB, tensor, pipeline)


def spaced(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def memory_table() -> str:
    rows = [
        "| tensor × pipeline | weights on each GPU | a position "
        "| in 24 GiB | in 40 GiB | in 80 GiB |",
        "|---|---|---|---|---|---|",
    ]
    for tensor, pipeline in ((1, 1), (2, 1), (4, 1), (4, 2)):
        plans = [plan(gib, tensor, pipeline) for gib in (24, 40, 80)]
        fits = " | ".join(spaced(p.positions) for p in plans)
        rows.append(
            f"| {tensor} × {pipeline} | {plans[0].weights / GIB:.1f} GiB "
            f"| {plans[0].position // 1024} KiB | {fits} |"
        )
    return "\n".join(rows)


def test_the_guide_has_the_planners_figures():
    assert memory_table() in (ROOT / "docs" / "serving.md").read_text()


CARDS = (8, 12, 16, 24)


@cache
def own(gib: int, weights: str):
    return plan_own(FunAudioChatConfig.from_pretrained(CONFIG_8B), gib * GIB, weights)


def card_table() -> str:
    rows = [
        "| `weights` | in all | a position | "
        + " | ".join(f"in {gib} GiB" for gib in CARDS)
        + " |",
        "|---" * (len(CARDS) + 3) + "|",
    ]
    for weights, name in (("bf16", "None"), ("int8", '"int8"'), ("int4", '"int4"')):
        plans = [own(gib, weights) for gib in CARDS]
        fits = " | ".join(spaced(p.positions) if p.positions else "-" for p in plans)
        rows.append(
            f"| `{name}` | {plans[0].weights / GIB:.1f} GiB | {plans[0].position // 1024} KiB "
            f"| {fits} |"
        )
    return "\n".join(rows)


def test_the_guide_says_which_weights_fit_which_card():
    assert card_table() in (ROOT / "docs" / "python-api.md").read_text()


def test_only_the_layers_of_the_backbone_shrink():
    """The published 8B model has 36 layers of 192,937,984 weights; an int4 one takes 4.5 bits."""
    layers = 36 * 192_937_984
    assert own(24, "bf16").weights - own(24, "int8").weights == layers
    assert own(24, "int8").weights - own(24, "int4").weights == layers * 7 // 16
    assert own(24, "int4").positions > own(24, "bf16").positions > 0 == own(8, "bf16").positions
    mixture = FunAudioChatConfig(text_config={"model_type": "qwen3_moe"})
    with pytest.raises(FunAudioChatError, match="does not reach the experts of a qwen3_moe"):
        plan_own(mixture, 80 * GIB, "int8")


def test_the_command_plans_either_engine():
    command = ["plan-serving", str(CONFIG_8B), "--gpu-memory", "16GiB"]
    assert "DOES NOT FIT" in CliRunner().invoke(app, command).output
    small = CliRunner().invoke(app, [*command, "--weights", "int4"])
    assert small.exit_code == 0 and "int4 weights of the backbone on 1 GPUs" in small.output
    both = CliRunner().invoke(app, [*command, "--weights", "int4", "--tensor-parallel", "2"])
    assert "leave out the parallel options" in str(both.exception or both.output)


def test_weights_are_those_of_the_published_checkpoint_without_its_head():
    sizes = json.loads((ROOT / "tests" / "golden" / "manifest_8b.json").read_text())
    head = sizes["parameters_by_top_module"]["audio_invert_tower"]
    assert plan(24).weights == 2 * (sizes["total_parameters_unique"] - head)


def test_the_cache_takes_what_weights_and_activations_leave():
    found = plan(24)
    used = found.weights + ACTIVATION_BYTES + found.positions * found.position
    assert 0 <= 0.85 * 24 * GIB - used < found.position
    assert plan(16).positions == 0


def test_more_gpus_divide_the_backbone_only():
    one, four, eight = plan(24), plan(24, 4), plan(24, 4, 2)
    assert (four.position * 4, eight.position * 8) == (one.position, one.position)
    assert one.weights / 4 < four.weights < one.weights / 3
    assert four.weights / 2 < eight.weights < four.weights


def test_what_vllm_cannot_serve_is_refused():
    config = FunAudioChatConfig.from_pretrained(CONFIG_8B)
    with pytest.raises(FunAudioChatError, match="8 GPUs cannot divide the 20 heads of the mel"):
        plan_serving(config, 80 * GIB, tensor_parallel=8)
    sparse = FunAudioChatConfig.from_pretrained(CONFIG_8B.with_name("model_30b_a3b.json"))
    with pytest.raises(FunAudioChatError, match="dense Qwen3"):
        plan_serving(sparse, 80 * GIB)


def test_the_command_says_whether_it_fits():
    command = ["plan-serving", str(CONFIG_8B), "--gpu-memory"]
    good, bad = (CliRunner().invoke(app, [*command, size]) for size in ("24GiB", "16GiB"))
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "16.56 GiB" in good.output and "positions fit" in good.output
    assert "DOES NOT FIT" in bad.output
