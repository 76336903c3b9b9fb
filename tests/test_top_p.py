# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Top-p without a sort of all scores keeps what transformers' own filter keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

from funaudiochat.generation_options import GenerationOptions
from funaudiochat.top_p import TopPFilter

SIZE = 6565
IDS = torch.zeros(1, 1, dtype=torch.long)


def drawn(seed: int, spread: float, ties: int, banned: int, rows: int) -> torch.Tensor:
    """Scores [rows, SIZE]; rounded to so many steps if there are to be ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, SIZE, generator=generator) * spread
    if ties:
        scores = (scores * ties).round() / ties
    scores[:, torch.randperm(SIZE, generator=generator)[:banned]] = -torch.inf
    return scores


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    spread=st.sampled_from([0.0, 0.1, 1.0, 3.0, 10.0, 100.0]),
    ties=st.sampled_from([0, 1, 4, 1000]),
    banned=st.sampled_from([0, 50, SIZE - 300, SIZE - 3]),
    top_p=st.sampled_from([0.0, 1e-6, 0.05, 0.5, 0.9, 0.95, 0.999, 1 - 1e-6]),
    rows=st.sampled_from([1, 3]),
)
def test_scores_and_draws_are_those_of_the_sort(seed, spread, ties, banned, top_p, rows):
    scores = drawn(seed, spread, ties, banned, rows)
    wanted, found = (kind(top_p)(IDS, scores) for kind in (TopPLogitsWarper, TopPFilter))
    assert torch.equal(found, wanted)
    draws = [
        torch.multinomial(x.softmax(-1), 1, generator=torch.Generator().manual_seed(seed))
        for x in (wanted, found)
    ]
    assert torch.equal(*draws)


@pytest.mark.parametrize("offset", [-1e-7, 0.0, 1e-7])
def test_a_mass_that_just_reaches_p_is_decided_as_by_the_sort(offset):
    probabilities = torch.full((1, SIZE), 0.5 / (SIZE - 4))
    probabilities[0, :4] = 0.125
    scores = probabilities.log()
    for top_p in (0.125, 0.25, 0.5):
        wanted, found = (
            kind(top_p + offset)(IDS, scores) for kind in (TopPLogitsWarper, TopPFilter)
        )
        assert torch.equal(found, wanted)


def test_the_usual_choice_needs_no_sort_of_all_scores(monkeypatch):
    scores = drawn(0, 3.0, 0, 0, 1)
    wanted = TopPLogitsWarper(0.9)(IDS, scores)
    monkeypatch.setattr(torch, "sort", None)
    assert torch.equal(TopPFilter(0.9)(IDS, scores), wanted)


def test_decoding_uses_it():
    options = GenerationOptions(
        max_new_tokens=1, eos_token_ids=(1,), pad_token_id=0, do_sample=True, top_p=0.9
    )
    for processors in options.processors(1, torch.device("cpu")):
        assert [type(x) for x in processors] == [TopPFilter]
