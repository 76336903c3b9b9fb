# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The kernel chooses what PyTorch's operations choose, with the draws of ``torch.multinomial``."""

import ctypes
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funaudiochat import decoder_kernel
from funaudiochat.choices import SpeechChoices, choose
from funaudiochat.generation_options import GenerationOptions

OPTIONS = GenerationOptions(max_new_tokens=1, eos_token_ids=(1,), pad_token_id=0)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(count)]


def as_a_loop(scores, options, processors, histories, own) -> list[int]:
    """Rows one by one, through transformers' processors and ``torch.multinomial``."""
    found = []
    for row, history, generator in zip(scores, histories, own, strict=True):
        ready = processors(history[None], row[None])
        if options.do_sample:
            ready = torch.multinomial(ready.softmax(-1), 1, generator=generator)
        else:
            ready = ready.argmax(-1)
        found.append(ready.item())
    return found


def by_kernel(kernel, choices: SpeechChoices, scores: torch.Tensor) -> list[int]:
    """The next token of every row; -1 for those that are left to PyTorch."""
    kernel.choose.restype = ctypes.c_int64
    found = []
    for choice, row in zip(choices.for_kernel(), scores.clone(), strict=True):
        noise = ctypes.c_void_p(choice.noise)
        found.append(
            kernel.choose(
                ctypes.byref(choice), noise, ctypes.c_void_p(row.data_ptr()), len(row), None, 0
            )
        )
    return found


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    size=st.sampled_from([40, 129, 6565]),
    spread=st.sampled_from([0.1, 1.0, 3.0, 10.0]),
    ties=st.sampled_from([0, 0, 4]),
    banned=st.sampled_from([0, 0, 20]),
    do_sample=st.sampled_from([True, True, False]),
    repetition_penalty=st.sampled_from([None, 0.8, 1.2]),
    temperature=st.sampled_from([None, 0.3, 1.5]),
    top_k=st.sampled_from([0, 1, 20, 300, 7000]),
    top_p=st.sampled_from([None, 1e-6, 0.5, 0.9, 0.999, 1 - 1e-6]),
    min_p=st.sampled_from([None, None, 0.1]),
)
def test_both_ways_choose_what_a_loop_over_the_rows_does(seed, size, spread, ties, banned, **given):
    options, rows = replace(OPTIONS, **given), 3
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, rows, size, generator=generator) * spread
    if ties:
        scores = (scores * ties).round() / ties
    scores[..., torch.randperm(size, generator=generator)[:banned]] = -torch.inf
    histories = [torch.randint(size, (length,), generator=generator) for length in (0, 7, 90)]
    _, processors = options.processors(3, torch.device("cpu"))
    own, kernel = generators(rows), decoder_kernel.kernel()
    found = SpeechChoices(options, processors, histories, generators(rows), (2, size))
    before = histories
    for index in range(2):
        wanted = as_a_loop(scores[index], options, processors, before, own)
        if kernel is not None:
            tokens = by_kernel(kernel, found, scores[index])
            assert all(a in (b, -1) for a, b in zip(tokens, wanted, strict=True))
        found.choose(scores[index])
        assert found.tokens[:, -1].tolist() == wanted
        before = [torch.cat([x, found.tokens[r]]) for r, x in enumerate(histories)]


def test_the_kernel_leaves_few_choices_to_pytorch():
    kernel = decoder_kernel.kernel()
    if kernel is None:
        pytest.skip("no C++ compiler")
    options = replace(OPTIONS, do_sample=True, temperature=0.8, top_p=0.9, repetition_penalty=1.2)
    scores = 4 * torch.randn(300, 6565, generator=torch.Generator().manual_seed(0))
    empty = [torch.empty(0, dtype=torch.long)] * 300
    found = SpeechChoices(options, [], empty, torch.Generator().manual_seed(1), (1, 6565))
    assert by_kernel(kernel, found, scores).count(-1) < 15


@pytest.mark.parametrize("rows", [1, 3])
def test_a_generator_for_all_rows_gives_the_draws_of_multinomial(rows):
    options, scores = replace(OPTIONS, do_sample=True), torch.randn(rows, 400)
    one, other = generators(1) * 1, generators(1) * 1
    for _ in range(5):
        wanted = torch.multinomial(scores.softmax(-1), 1, generator=one[0])[:, 0]
        assert torch.equal(choose(scores, options, other[0]), wanted)


def test_scores_that_are_not_numbers_are_an_error():
    scores = torch.full((1, 50), torch.nan)
    with pytest.raises(RuntimeError, match="not numbers"):
        choose(scores, replace(OPTIONS, do_sample=True), None)
