# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speed of decoding on a mid-size random model: `python benchmarks/generation.py`.

Two threads, float32, greedy; medians of seven interleaved pairs in one process.
"""

import resource
import time

import torch
from common import chat_model, parameters, ratio, seconds_of
from transformers import DynamicCache

from funaudiochat.generation_funaudiochat import GenerationOptions, generate, prefill, step

STEPS = 30


def prompt(model, seconds: float) -> dict[str, torch.Tensor]:
    """A question of this length, as the processor gives it."""
    frames, codes = round(seconds * 100), round(seconds * 25)
    groups = -(-codes // 5)
    width = groups * 5
    ids = torch.cat([torch.arange(20), torch.full((groups,), 4000), torch.arange(20)])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "speech_ids": torch.full((1, width), 6563),
        "speech_attention_mask": (torch.arange(width) < codes).long()[None],
        "input_features": torch.randn(1, 128, frames, generator=torch.Generator().manual_seed(1)),
        "feature_attention_mask": torch.ones(1, frames, dtype=torch.long),
        "feature_exist_mask": torch.tensor([True]),
    }


def options(speech: bool) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=STEPS, eos_token_ids=(-1,), pad_token_id=4004,
        disable_speech=not speech, force_text_abos=speech,
    )


@torch.no_grad()
def bare_calls(model, inputs, rows: torch.Tensor, speech: torch.Tensor) -> None:
    """The modules a decode loop must call, with the ids known beforehand and nothing else."""
    head, group = model.audio_invert_tower, 5
    cache, head_cache = DynamicCache(), DynamicCache()
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    hidden = model.encode(inputs["input_ids"], past_key_values=cache, **audio)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    length = inputs["input_ids"].shape[1]
    last = torch.tensor([6561])
    for index in range(STEPS):
        if index:
            embeds = model.get_input_embeddings()(rows[:, length + index - 1 : length + index])
            fed = embeds
            if index > 1:
                codes = speech[None, (index - 2) * group : (index - 1) * group]
                fed = (embeds + model.audio_tower(codes).last_hidden_state) / 2
            hidden = model.language_model.model(
                inputs_embeds=fed, past_key_values=cache, use_cache=True
            ).last_hidden_state
        fine, start = head.expand(hidden + embeds), 0
        for stop in range(fine.shape[1] - group + 1, fine.shape[1] + 1):
            head.next_scores(fine[:, start:stop], last, head_cache)
            start = stop
        model.language_model.lm_head(hidden[:, -1])


def copy_bandwidth() -> float:
    """Bytes per second that a large copy reads and writes."""
    source = torch.empty(64 * 2**20)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(seconds_of(lambda: target.copy_(source)) for _ in range(5))
    return 2 * source.numel() * 4 / best


def main() -> None:
    torch.set_num_threads(2)
    model = chat_model()
    print(f"model: {parameters(model) / 1e6:.0f} M parameters")
    inputs = prompt(model, 4)
    rows, speech = generate(model, inputs, options(True))

    whole, bare, share = ratio(
        lambda: generate(model, inputs, options(True)),
        lambda: bare_calls(model, inputs, rows, speech[0]),
    )
    print(f"S2S: {STEPS / whole:.1f} steps/s, {5 * STEPS / whole:.0f} codes/s")
    print(f"decode loop over its bare module calls: {share:.3f} (aim 1.10)")

    text_inputs = {k: inputs[k][:, :40] for k in ("input_ids", "attention_mask")}
    text_inputs["input_ids"] = text_inputs["input_ids"].clamp(max=3999)
    backbone = model.language_model
    ours, plain, share = ratio(
        lambda: generate(model, text_inputs, options(False)),
        lambda: backbone.generate(
            **text_inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False,
            pad_token_id=4004,
        ),
    )
    print(f"S2T: {STEPS / ours:.1f} tokens/s; over the backbone's own generate: {share:.3f} (1.05)")

    def first_group() -> None:
        state = prefill(model, inputs, options(True))
        step(model, state, options(True))
        step(model, state, options(True))

    print(f"first group after {1000 * min(seconds_of(first_group) for _ in range(5)):.0f} ms")
    long, short = prompt(model, 60), prompt(model, 30)
    _, _, share = ratio(
        lambda: prefill(model, long, options(True)), lambda: prefill(model, short, options(True))
    )
    print(f"prefill of 60 s over 30 s: {share:.2f} (2.2)")

    bandwidth = copy_bandwidth()
    head, text = model.audio_invert_tower, model.language_model
    read = 4 * (parameters(text) + 5 * parameters(head))
    state = prefill(model, inputs, options(True))
    step(model, state, options(True))
    times = []
    for _ in range(40):
        start = time.perf_counter()
        step(model, state, options(True))
        times.append(time.perf_counter() - start)
    took = sorted(times)[len(times) // 2]
    print(
        f"S2S step {1000 * took:.1f} ms; floor by weights read ({read / 2**20:.0f} MiB at "
        f"{bandwidth / 2**30:.1f} GiB/s): {1000 * read / bandwidth:.1f} ms, ratio "
        f"{took * bandwidth / read:.2f}"
    )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
