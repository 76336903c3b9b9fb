# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The flow equals recorded results, and chunk by chunk equals one shot under the same mask."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from funaudiochat.cosyvoice3.config import ChunkSchedule, FlowConfig
from funaudiochat.cosyvoice3.flow import Flow
from tests.helpers.cosyvoice3_folders import CASES, GOLDEN, RECORDED_MASK, close

TINY = FlowConfig(dim=64, depth=2, heads=2, dim_head=32, lookahead_channels=48)


@pytest.fixture(scope="module")
def data():
    return load_file(GOLDEN / "cases.safetensors")


@pytest.fixture(scope="module")
def flow():
    model = Flow(TINY)
    model.load_state_dict(load_file(GOLDEN / "flow_tiny.safetensors"))
    return model.eval()


@pytest.mark.parametrize(
    "name, chunked, padded",
    [
        ("full", False, False),
        ("chunked", True, False),
        ("full_padded", False, True),
        ("chunked_padded", True, True),
    ],
)
def test_estimator_equals_recorded(flow, data, name, chunked, padded):
    x, cond, mu = (data[f"dit.{key}"].transpose(1, 2) for key in ("x", "cond", "mu"))
    mask = RECORDED_MASK.mask(x.shape[1]) if chunked else None
    valid = data["dit.mask_padded"][:, 0].bool() if padded else None
    estimator = flow.decoder.estimator
    with torch.no_grad():
        conditions = estimator.conditions(cond, mu, data["dit.spks"])
        out = estimator(x, conditions, estimator.modulations(data["dit.t"]), mask, valid)
    expected = data[f"dit.{name}.out"].transpose(1, 2)
    if valid is not None:
        out, expected = out[valid], expected[valid]
    close(out, expected, 5e-5)


def test_layers_of_the_estimator_equal_recorded(data):
    estimator = Flow(TINY).eval()
    estimator.load_state_dict(load_file(GOLDEN / "flow_tiny.safetensors"))
    estimator = estimator.decoder.estimator
    parts = {
        "time_embed": estimator.time_embed,
        "input_embed": estimator.input_embed,
        "block0_attn": estimator.transformer_blocks[0].attn,
        "block0": estimator.transformer_blocks[0],
        "block1": estimator.transformer_blocks[1],
    }
    found: dict[str, list] = {name: [] for name in parts}
    for name, module in parts.items():
        module.register_forward_hook(lambda _, args, output, name=name: found[name].append(output))
    normed: list = []
    estimator.proj_out.register_forward_pre_hook(lambda _, args: normed.append(args[0]))
    x, cond, mu = (data[f"dit.{key}"].transpose(1, 2) for key in ("x", "cond", "mu"))
    with torch.no_grad():
        conditions = estimator.conditions(cond, mu, data["dit.spks"])
        estimator(x, conditions, estimator.modulations(data["dit.t"]))
    for name, outputs in {**found, "norm_out": normed}.items():
        close(outputs[0], data[f"dit.full.{name}"], 5e-5)


def test_lookahead_layer_equals_recorded(flow, data):
    codes = data["pre.in"]
    with torch.no_grad():
        waiting, _ = flow.pre_lookahead_layer(codes, None)
        padded = torch.nn.functional.pad(codes, (0, 0, 0, 3))
        final, _ = flow.pre_lookahead_layer(padded, None)
    close(waiting, data["pre.ctx_out"], 1e-5)
    close(final, data["pre.final_out"], 1e-5)


def test_solver_equals_recorded_in_every_step(flow, data):
    seen = []
    handle = flow.decoder.estimator.register_forward_hook(
        lambda _, args, output: seen.append((args[0][0].T, output.transpose(1, 2)))
    )
    mel = flow.solve(
        data["cfm.mu"].transpose(1, 2),
        data["cfm.spks"],
        data["cfm.noise"][:, :, :24].transpose(1, 2),
        data["cfm.cond"].transpose(1, 2),
    )
    handle.remove()
    inputs, outputs = (torch.stack(values) for values in zip(*seen, strict=True))
    close(inputs, data["cfm.x_in_each_step"], 1e-4)
    close(outputs, data["cfm.estimator_out_each_step"], 1e-4)
    close(mel.transpose(1, 2), data["cfm.out"], 1e-4)
    times = flow.times()[0]
    close(times, data["cfm.t_each_step"], 1e-7)


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("flow.")])
def test_mel_equals_recorded(flow, data, name):
    case = CASES[name]
    codes = data.get(f"{name}.tokens", data["flow.tokens"][:, : case["n_tokens"]])
    prompt = {}
    if case["prompt"]:
        prompt = {
            "prompt_tokens": data["flow.prompt_token"],
            "prompt_mel": data["flow.prompt_feat"],
        }
    mel = flow.one_shot(
        codes,
        data["flow.embedding"],
        data["cfm.noise"],
        schedule=RECORDED_MASK if case["streaming"] else None,
        final=case["finalize"],
        **prompt,
    )
    close(mel, data[f"{name}.mel"], 1e-4)


def next_chunk(flow, state, tokens, speaker, noise):
    chunk = flow.begin_chunk(state, tokens, speaker, noise)
    while not flow.solve_step([chunk]):
        pass
    return chunk.x.transpose(1, 2)


@pytest.mark.parametrize(
    "schedule",
    [RECORDED_MASK, ChunkSchedule(), ChunkSchedule(1, 1.5, 12, 15), ChunkSchedule(4, 3.0, 20, 0)],
)
@pytest.mark.parametrize("count", [1, 3, 37, 80])
def test_chunks_join_to_one_shot_under_the_same_mask(flow, data, schedule, count):
    codes, noise = data["flow.tokens"][:, :count], data["cfm.noise"]
    speaker = flow.speaker(data["flow.embedding"]).detach()
    state, start, index, parts = flow.new_state(schedule), 0, 0, []
    while start < count:
        stop = min(start + schedule.chunk_tokens(index), count)
        parts.append(
            next_chunk(
                flow, state, codes[:, start : stop + 3], speaker, noise[:, :, 2 * start : 2 * stop]
            )
        )
        start, index = stop, index + 1
    whole = flow.one_shot(codes, data["flow.embedding"], noise, schedule=schedule)
    close(torch.cat(parts, dim=2), whole, 1e-4)


def test_with_a_left_limit_the_caches_stop_growing(flow, data):
    schedule = ChunkSchedule(5, 1.0, 5, 20)
    speaker = flow.speaker(data["flow.embedding"]).detach()
    state, sizes = flow.new_state(schedule), []
    for index in range(14):
        codes = data["flow.tokens"][:, 5 * index : 5 * index + 8]
        noise = data["cfm.noise"][:, :, 10 * index : 10 * index + 10]
        next_chunk(flow, state, codes, speaker, noise)
        sizes.append(state.cache.keys_values.numel())
    assert sizes[0] < sizes[4] and set(sizes[4:]) == {sizes[4]}


@pytest.mark.parametrize("cfg_scale", [0.7, 0.0])
def test_chunks_solved_together_equal_those_solved_alone(data, cfg_scale):
    flow = Flow(replace(TINY, cfg_scale=cfg_scale))
    flow.load_state_dict(load_file(GOLDEN / "flow_tiny.safetensors"))
    flow.freeze()
    schedule, counts = ChunkSchedule(5, 1.0, 5, 12), (6, 1, 4)

    def inputs(reply, index):
        start = 7 * reply + 5 * index
        noise = data["cfm.noise"][:, :, 10 * index : 10 * index + 10]
        return data["flow.tokens"][:, start : start + 8], speakers[reply], noise

    speakers = [flow.speaker(data["flow.embedding"] * sign) for sign in (1, -1, 0.5)]
    alone = []
    for reply, count in enumerate(counts):
        state = flow.new_state(schedule)
        alone.append([next_chunk(flow, state, *inputs(reply, index)) for index in range(count)])
    states = [flow.new_state(schedule) for _ in counts]
    for reply, state in enumerate(states):  # replies of different lengths meet in their last chunk
        for index in range(counts[reply] - 1):
            next_chunk(flow, state, *inputs(reply, index))
    chunks = [
        flow.begin_chunk(state, *inputs(reply, counts[reply] - 1))
        for reply, state in enumerate(states)
    ]
    while not flow.solve_step(chunks):
        pass
    for chunk, expected in zip(chunks, alone, strict=True):
        close(chunk.x.transpose(1, 2), expected[-1], 1e-5)
