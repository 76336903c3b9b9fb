# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Decoding equals recorded ids, and every row of a batch equals its single run."""

import pytest
import torch
from test_modeling import load_case, load_model, names

from funaudiochat.generation_funaudiochat import GenerationOptions, generate, prefill, step

# f10 and f11 recorded what the original does to a row after its own end.
EXACT = [n for n in names("e") + names("f") if n[:3] not in ("f10", "f11")]
BATCHES = ["f10_s2s_batch_equal", "f11_s2s_batch_text_eos", "e4_s2t_batch_leftpad"]


def options_of(case: dict) -> GenerationOptions:
    fields = {**case["kwargs"], **case["sp_gen_kwargs"]}
    fields["eos_token_ids"] = tuple(fields.pop("eos_token_id"))
    return GenerationOptions(**fields)


@pytest.mark.parametrize("name", EXACT)
def test_ids_equal_recorded(name):
    case, inputs, outputs = load_case(name)
    before = {key: value.clone() for key, value in inputs.items()}
    rows, speech = generate(load_model(), inputs, options_of(case))
    new = rows[:, inputs["input_ids"].shape[1] :]
    assert new.tolist() == outputs["generated_ids"].tolist()
    assert [codes.tolist() for codes in speech] == outputs["audio_ids"].tolist()
    assert all(torch.equal(inputs[key], value) for key, value in before.items())


def single(inputs: dict, row: int) -> dict:
    """One row of a batch without its padding; each row of these cases has one audio."""
    one = {key: value[row : row + 1] for key, value in inputs.items()}
    kept = one["attention_mask"][0].bool()
    for key in ("input_ids", "attention_mask"):
        one[key] = one[key][:, kept]
    return one


@pytest.mark.parametrize("name", BATCHES)
def test_batch_rows_equal_single_runs(name):
    case, inputs, _ = load_case(name)
    model, options = load_model(), options_of(case)
    rows, speech = generate(model, inputs, options)
    for index in range(len(rows)):
        alone, alone_speech = generate(model, single(inputs, index), options)
        steps = alone.shape[1] - int(inputs["attention_mask"][index].sum())
        prompt = inputs["input_ids"].shape[1]
        assert rows[index, prompt : prompt + steps].tolist() == alone[0, -steps:].tolist()
        assert speech[index].tolist() == alone_speech[0].tolist()


def test_interleaved_talkers_equal_what_each_gives_alone():
    first, second = load_case("f1_s2s_greedy"), load_case("f2_s2s_reppen12")
    model = load_model()
    options = [options_of(first[0]), options_of(second[0])]
    states = [prefill(model, case[1], o) for case, o in zip((first, second), options, strict=True)]
    for _ in range(12):
        for state, option in zip(states, options, strict=True):
            step(model, state, option)
    for state, case in zip(states, (first, second), strict=True):
        assert state.rows[0, -12:].tolist() == case[2]["generated_ids"][0, :12].tolist()
        assert state.speech[0].tolist() == case[2]["audio_ids"][0, : 11 * 5].tolist()


def test_training_after_generating_gives_the_recorded_loss():
    case, inputs, _ = load_case("f1_s2s_greedy")
    model = load_model()
    generate(model, inputs, options_of(case))
    train_case, train_inputs, _ = load_case("d1_train_batch")
    loss = model(**train_inputs).loss.item()
    assert loss == pytest.approx(train_case["losses"]["loss"], rel=1e-5)


def test_text_only_answer_never_runs_the_head():
    case, inputs, _ = load_case("e1_s2t_greedy")
    model = load_model()
    del model.audio_invert_tower
    rows, speech = generate(model, inputs, options_of(case))
    assert rows.shape[1] > inputs["input_ids"].shape[1]
    assert speech[0].numel() == 0
