# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Decoding position by position gives what the transformer's own forward gives."""

import pytest
import torch
from torch import nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3Config,
    Qwen3Model,
    Qwen3MoeConfig,
    Qwen3MoeModel,
)

from funaudiochat import decoder_kernel, decoder_stack, prompt_blocks
from funaudiochat.decoder_stack import advance_together, follow, known_prompt
from funaudiochat.modeling_common import cache_argument
from funaudiochat.prompt_blocks import run_blocks

WIDTH, PROMPT = 48, 13
SIZES = {
    "vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 100, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 12,
}  # fmt: skip
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
KNOWN = {
    "qwen3": lambda: Qwen3Model(Qwen3Config(**SIZES)),
    "llama": lambda: LlamaModel(LlamaConfig(**SIZES)),
    "llama with biases": lambda: LlamaModel(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    ),
    "mixture": lambda: Qwen3MoeModel(Qwen3MoeConfig(**{**SIZES, "head_dim": 8}, **MIXTURE)),
}
STARTS = {"one": [0], "equal": [0, 0, 0], "padded": [4, 0, 9], "many": [0] * 9}


def transformer(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = KNOWN[kind]().eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def inputs(rows: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt [B, L, D] and what follows [steps, B, D]."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(rows, PROMPT, WIDTH, generator=generator)
    return prompt, torch.randn(steps, rows, WIDTH, generator=generator)


@torch.no_grad()
def followed(model: nn.Module, prompt: torch.Tensor, starts: list[int]):
    """Continue a prompt whose rows start at these positions."""
    places = torch.arange(PROMPT)
    mask = (places >= torch.tensor(starts)[:, None]).long() if any(starts) else None
    positions = (places - torch.tensor(starts)[:, None]).clamp(min=0)
    cache = DynamicCache()
    model(
        inputs_embeds=prompt, attention_mask=mask, position_ids=positions, use_cache=True,
        **cache_argument(model, cache),
    )  # fmt: skip
    return follow(model, cache, mask)


@torch.no_grad()
def own_forward(model: nn.Module, prompt, following, starts: list[int]) -> torch.Tensor:
    """[steps, B, D] by whole rows without padding, one at a time."""
    outputs = []
    for row, start in enumerate(starts):
        whole = torch.cat([prompt[row, start:], following[:, row]])
        outputs.append(model(inputs_embeds=whole[None]).last_hidden_state[0, PROMPT - start :])
    return torch.stack(outputs, 1)


@torch.no_grad()
def run(positions, following: torch.Tensor) -> torch.Tensor:
    return torch.stack([positions.advance(hidden) for hidden in following])


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("kind", KNOWN)
def test_positions_are_those_of_the_own_forward(kind, starts, way, monkeypatch):
    monkeypatch.setattr(decoder_stack, "SPARE_POSITIONS", 2)  # the cache grows on the way
    model = transformer(kind)
    prompt, following = inputs(len(starts), 20)
    wanted = own_forward(model, prompt, following, starts)
    positions = followed(model, prompt, starts)
    assert type(positions).__name__ == "_StaticPositions"
    torch.testing.assert_close(run(positions, following), wanted, atol=2e-5, rtol=1e-4)


def test_the_kernel_gives_a_row_the_same_numbers_whatever_stands_beside_it():
    if decoder_kernel.kernel() is None:
        pytest.skip("no C++ compiler")
    model, starts = transformer("qwen3"), STARTS["padded"]
    prompt, following = inputs(3, 6)
    together = run(followed(model, prompt, starts), following)
    for row in range(3):
        alone = run(
            followed(model, prompt[row : row + 1], starts[row : row + 1]),
            following[:, row : row + 1],
        )
        # The prompts run through PyTorch, which sums a batch in another order.
        torch.testing.assert_close(together[:, row], alone[:, 0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen3", "mixture", "other"])
def test_batches_that_run_together_get_what_each_gets_alone(kind, way, monkeypatch):
    monkeypatch.setattr(decoder_stack, "SPARE_POSITIONS", 2)
    model = other_kind() if kind == "other" else transformer(kind)
    starts = ([4, 0, 9], [0], [0] * 9)
    prompts = [inputs(len(own), 20) for own in starts]
    wanted = [own_forward(model, *each, own) for each, own in zip(prompts, starts, strict=True)]
    batches = [followed(model, each, own) for (each, _), own in zip(prompts, starts, strict=True)]
    sizes, begun = [len(own) for own in starts], [0, 0, 0]
    for turn in range(40):
        meeting = [i for i in range(3) if begun[i] < 20 and (turn + i) % (i + 2)]
        if not meeting:
            continue
        hidden = torch.cat([prompts[i][1][begun[i]] for i in meeting])
        with torch.no_grad():
            out = advance_together([batches[i] for i in meeting], hidden)
        for i, rows in zip(meeting, out.split([sizes[i] for i in meeting]), strict=True):
            torch.testing.assert_close(rows, wanted[i][begun[i]], atol=2e-5, rtol=1e-4)
            begun[i] += 1
    assert begun == [20, 20, 20]


def test_the_kernel_gives_rows_of_several_batches_the_same_bits_as_alone():
    if decoder_kernel.kernel() is None:
        pytest.skip("no C++ compiler")
    model, count = transformer("qwen3"), 11  # more than the kernel takes at once
    prompt, following = inputs(count, 6)
    one_by_one = [[followed(model, row[None], [0]) for row in prompt] for _ in range(2)]
    alone = torch.cat([run(one, following[:, [row]]) for row, one in enumerate(one_by_one[0])], 1)
    together = torch.stack([advance_together(one_by_one[1], hidden) for hidden in following])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("head_size, length", [(12, 1), (12, 50), (32, 600), (64, 97)])
def test_a_prompt_in_blocks_is_that_of_the_own_forward(head_size, length, monkeypatch):
    monkeypatch.setattr(prompt_blocks, "CPU_POSITIONS", 40)
    torch.manual_seed(0)
    model = Qwen3Model(Qwen3Config(**{**SIZES, "head_dim": head_size})).eval()
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(2, length + 3, WIDTH, generator=generator)
    with torch.no_grad():
        wanted = model(inputs_embeds=whole).last_hidden_state[:, length - 1 :]
        found, positions = run_blocks(known_prompt(model, whole[:, :length]))
        later = [positions.advance(whole[:, at]) for at in range(length, length + 3)]
    torch.testing.assert_close(torch.stack([found, *later], 1), wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
def test_600_positions_through_pytorchs_operations_are_one_graph(monkeypatch):
    """What capturing it on a GPU needs: nothing asks the host or depends on length or rows."""
    monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)
    model, steps = transformer("qwen3"), 600
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    # Else a number of rows that happens to be a number of heads would count as one.
    monkeypatch.setattr(torch.fx.experimental._config, "use_duck_shape", False)
    compiled = torch.compile(
        decoder_stack._advance_torch, backend=counting, fullgraph=True, dynamic=True
    )
    batches = ([4, 0, 9], [0, 0], [3, 1, 0, 0, 7])
    for starts in batches:
        prompt, following = inputs(len(starts), steps // len(batches))
        wanted = run(followed(model, prompt, starts), following)
        positions = followed(model, prompt, starts)
        for hidden, expected in zip(following, wanted, strict=True):
            positions.make_room(1)
            with torch.no_grad():
                got = compiled([positions], hidden, *positions.layers.table(positions.room))
            positions.count(1)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert len(graphs) == 1


def test_threads_do_not_change_a_number():
    if decoder_kernel.kernel() is None:
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    wide = Qwen3Model(Qwen3Config(**{**SIZES, "hidden_size": 512, "intermediate_size": 1024}))
    hidden = torch.randn(5, 2, 512)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            positions = followed(wide.eval(), torch.zeros(2, PROMPT, 512), [0, 0])
            found.append(run(positions, hidden))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def other_kind():
    return Qwen2Model(Qwen2Config(**{k: v for k, v in SIZES.items() if k != "head_dim"})).eval()


class Adapter(nn.Linear):
    """Stands where an adapter's or a quantised module would."""

    def forward(self, x):
        return super().forward(x) + 1


def adapted():
    model = transformer("qwen3")
    model.layers[1].mlp.down_proj.__class__ = Adapter
    return model


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("make", [other_kind, adapted])
def test_other_transformers_use_their_own_forward(make, starts):
    model = make()
    prompt, following = inputs(len(starts), 4)
    wanted = own_forward(model, prompt, following, starts)
    got = run(followed(model, prompt, starts), following)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)


def test_under_autocast_layers_run_as_the_own_forward_does():
    model = transformer("qwen3")
    prompt, following = inputs(1, 3)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = own_forward(model, prompt, following, [0])
        got = run(followed(model, prompt, [0]), following)
    torch.testing.assert_close(got, wanted, atol=0.1, rtol=0.1)


def test_a_model_that_decoded_is_saved_trained_and_moved_like_any_other(tmp_path, way):
    model = transformer("qwen3")
    prompt, following = inputs(2, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(followed(model, prompt, [0, 3]), following)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model.save_pretrained(tmp_path)
    loaded = Qwen3Model.from_pretrained(tmp_path)
    assert all(torch.equal(x, before[name]) for name, x in loaded.state_dict().items())

    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(inputs_embeds=prompt).last_hidden_state.square().mean().backward()
    optimizer.step()
    wanted = own_forward(model, prompt, following, [0, 0])
    got = run(followed(model, prompt, [0, 0]), following)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-4)

    model = model.double()  # parts what was joined
    wanted = own_forward(model, prompt.double(), following.double(), [0, 0])
    got = run(followed(model, prompt.double(), [0, 0]), following.double())
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)  # norms are float32 in both


def test_a_compiler_that_fails_leaves_pytorchs_operations(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "c++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho no >&2; exit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    decoder_kernel.kernel.cache_clear()
    try:
        assert decoder_kernel.kernel() is None
    finally:
        decoder_kernel.kernel.cache_clear()
    assert "decoding uses PyTorch's operations" in caplog.text and "no" in caplog.text
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    try:
        assert decoder_kernel.kernel() is None
    finally:
        decoder_kernel.kernel.cache_clear()
