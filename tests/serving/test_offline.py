# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""vLLM's own engine reads our folders, and answers spoken questions as we do, token for token."""

import os

import pytest
import torch

from funaudiochat.generation_funaudiochat import GenerationOptions, generate
from funaudiochat.vllm_plugin import loads_attention
from serving.vllm_server import ENVIRONMENT
from utils.constant import AUDIO_TEMPLATE, DEFAULT_S2T_PROMPT

MOST_TOKENS = 24
_NOISE = 1e-3  # of log-probabilities in float32; measured about 1e-5


def prompt_of(chat) -> str:
    turns = [
        {"role": "system", "content": DEFAULT_S2T_PROMPT},
        {"role": "user", "content": AUDIO_TEMPLATE},
    ]
    return chat.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


@pytest.fixture(scope="module")
def theirs(model_folder, chat, questions):
    """vLLM's results for all questions, batched as its scheduler likes."""
    # The engine in this process, so that starting it is cheap.
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(model_folder), dtype="float32", enforce_eager=True, skip_mm_profiling=True,
        max_model_len=1024, limit_mm_per_prompt={"audio": 1},
    )
    prompts = [
        {"prompt": prompt_of(chat), "multi_modal_data": {"audio": sound}} for sound in questions
    ]
    sampling = SamplingParams(temperature=0, max_tokens=MOST_TOKENS, logprobs=2)
    return llm.generate(prompts, sampling, use_tqdm=False)


@pytest.fixture(scope="module")
def ours(chat, questions):
    """Prompt ids, inputs and answer ids of each question, one by one."""
    options = GenerationOptions.from_config(
        chat.model.generation_config, text_greedy=True, disable_speech=True
    )
    options = GenerationOptions(**{**options.__dict__, "max_new_tokens": MOST_TOKENS})
    results = []
    for wave, _ in questions:
        inputs = dict(chat.processor(text=prompt_of(chat), audio=[wave], return_tensors="pt"))
        rows, _ = generate(chat.model, inputs, options)
        length = inputs["input_ids"].shape[1]
        results.append((inputs, rows[0, :length].tolist(), rows[0, length:].tolist()))
    return results


def scores_along(model, inputs: dict, answer: list[int]) -> torch.Tensor:
    """Our log-probabilities [T, V] at every position of an answer."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer])], dim=1)
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        logits = model(input_ids=ids, disable_speech=True, **audio).logits[0]
    return logits[-len(answer) - 1 : -1].float().log_softmax(-1)


def test_the_mel_encoder_of_this_vllm_loads_now(model_folder):
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    from vllm.model_executor.models.funaudiochat import FunAudioChatAudioAttention

    assert loads_attention(FunAudioChatAudioAttention)


def test_prompts_are_the_same_ids(ours, theirs):
    assert [prompt for _, prompt, _ in ours] == [result.prompt_token_ids for result in theirs]


def test_answers_are_equal_but_for_ties_within_rounding(chat, ours, theirs):
    noise, gaps = 0.0, {}
    for index, ((inputs, _, mine), result) in enumerate(zip(ours, theirs, strict=True)):
        other = list(result.outputs[0].token_ids)
        scores = scores_along(chat.model, inputs, other)
        for position, top in enumerate(result.outputs[0].logprobs):
            for token, found in top.items():
                noise = max(noise, abs(float(scores[position, token]) - found.logprob))
        if mine != other:
            pairs = zip(mine, other, strict=False)
            first = next(n for n, (a, b) in enumerate(pairs) if a != b)
            gaps[index] = float(scores[first, mine[first]] - scores[first, other[first]])
    print(f"{len(ours) - len(gaps)} of {len(ours)} answers equal; log-probabilities differ by at "
          f"most {noise:.1e}; gap at each first difference: {gaps}")
    assert noise < _NOISE
    # Two scores, each off by the noise at most, can only swap when they are twice as close.
    assert all(gap <= 2 * noise for gap in gaps.values())
