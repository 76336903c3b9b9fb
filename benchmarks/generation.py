# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speed of decoding on a mid-size random model: `python benchmarks/generation.py`.

Two threads, float32, greedy; medians of seven interleaved pairs in one process. Decoding is
timed from the second step on; the prompt is measured separately.
"""

import statistics
import time

import torch
from common import THREADS, Report, chat_model, parameters, ratio, seconds_of, style_of_report
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DynamicCache, PreTrainedTokenizerFast

from funaudiochat.constants import GROUP_SIZE, TOKEN_FPS
from funaudiochat.events import SpeechTokens
from funaudiochat.generation_funaudiochat import generate, prefill, step, step_together, stream
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.modeling_common import cache_argument
from funaudiochat.prompt_blocks import run_blocks

STEPS, SESSION_STEPS = 40, 10
VOCABULARY = 4096
AUDIO, PAD, END, START_CODE, PAD_CODE = 4000, 4005, 4004, 6561, 6563


def prompt(seconds: float) -> dict[str, torch.Tensor]:
    """Build the model inputs of a question of this length."""
    frames, tokens = round(seconds * 100), round(seconds * TOKEN_FPS)
    groups = -(-tokens // GROUP_SIZE)
    width = groups * GROUP_SIZE
    ids = torch.cat([torch.arange(20), torch.full((groups,), AUDIO), torch.arange(20)])[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "speech_ids": torch.full((1, width), PAD_CODE),
        "speech_attention_mask": (torch.arange(width) < tokens).long()[None],
        "input_features": torch.randn(1, 128, frames, generator=torch.Generator().manual_seed(1)),
        "feature_attention_mask": torch.ones(1, frames, dtype=torch.long),
        "feature_exist_mask": torch.tensor([True]),
    }


def text_prompt() -> dict[str, torch.Tensor]:
    ids = torch.arange(40)[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def tokenizer() -> PreTrainedTokenizerFast:
    words = WordLevel({f"word{index} ": index for index in range(VOCABULARY)}, unk_token="word0 ")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


def options(speech: bool) -> GenerationOptions:
    return GenerationOptions(
        max_new_tokens=STEPS,
        eos_token_ids=(-1,),
        pad_token_id=PAD,
        disable_speech=not speech,
        force_text_abos=speech,
    )


def decode_loop(model, inputs) -> float:
    """Return the seconds of all steps but the first."""
    chosen = options(True)
    state = prefill(model, inputs, chosen)
    step(model, state, chosen)
    start = time.perf_counter()
    while state.step_count < STEPS and not bool(state.ended.all()):
        step(model, state, chosen)
    return time.perf_counter() - start


def sessions(model, inputs, count: int, together: bool) -> float:
    """Return the seconds that the later steps of several sessions take, together or in turn."""
    chosen = options(True)
    runs = [(prefill(model, inputs, chosen), chosen) for _ in range(count)]
    step_together(model, runs)
    start = time.perf_counter()
    for _ in range(SESSION_STEPS):
        for stepped in [runs] if together else [[run] for run in runs]:
            step_together(model, stepped)
    return time.perf_counter() - start


@torch.no_grad()
def own_modules(model, inputs, rows: torch.Tensor, speech: torch.Tensor) -> float:
    """Return the seconds of the same steps with transformers' modules and known ids."""
    backbone, head = model.language_model, model.audio_invert_tower
    embed, embed_token = model.get_input_embeddings(), model.audio_tower.embed_tokens
    cache, head_cache = DynamicCache(), DynamicCache()
    length = inputs["input_ids"].shape[1]
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    hidden = run_blocks(model.encode(inputs["input_ids"], past_key_values=cache, **audio))
    fine = head.expand(hidden + embed(inputs["input_ids"])) + embed_token(torch.tensor(START_CODE))
    head.crq_transformer(
        inputs_embeds=head.input_matching(fine),
        use_cache=True,
        **cache_argument(head.crq_transformer, head_cache),
    )
    groups = speech.view(-1, GROUP_SIZE)
    start = time.perf_counter()
    for index in range(1, STEPS):
        embeds = fed = embed(rows[:, length + index - 1 : length + index])
        if index > 1:
            fed = (embeds + model.audio_tower(groups[None, index - 2]).last_hidden_state) / 2
        hidden = backbone.model(
            inputs_embeds=fed, use_cache=True, **cache_argument(backbone.model, cache)
        ).last_hidden_state
        fine = head.pre_matching(hidden + embeds).view(1, GROUP_SIZE, -1)
        tokens = groups[index - 1]
        for position in range(GROUP_SIZE):
            before = fine[:, position : position + 1] + embed_token(tokens[position])
            out = head.crq_transformer(
                inputs_embeds=head.input_matching(before),
                use_cache=True,
                **cache_argument(head.crq_transformer, head_cache),
            ).last_hidden_state
            head.lm_head(head.output_matching(out))
        backbone.lm_head(hidden)
    return time.perf_counter() - start


def copy_bandwidth() -> float:
    """Return the bytes per second that a large copy reads and writes."""
    source = torch.empty(64 * 2**20)
    target = torch.empty_like(source)
    target.copy_(source)
    best = min(seconds_of(lambda: target.copy_(source)) for _ in range(9))
    return 2 * source.numel() * source.element_size() / best


def step_bytes(model) -> int:
    """Return the bytes of weights one step reads: the backbone once, the head five times."""
    backbone, head = model.language_model, model.audio_invert_tower
    once = parameters(backbone) - parameters(backbone.get_input_embeddings())
    once += parameters(head.pre_matching)
    each = parameters(head) - parameters(head.pre_matching)
    return 4 * (once + GROUP_SIZE * each)


def first_group(model, words, inputs) -> float:
    """Return the seconds from the inputs to the first speech tokens."""
    start = time.perf_counter()
    for event in stream(model, words, prefill(model, inputs, options(True)), options(True)):
        if isinstance(event, SpeechTokens):
            break
    return time.perf_counter() - start


def text_stream(model, words) -> list:
    """Return all events of a text reply."""
    return list(stream(model, words, prefill(model, text_prompt(), options(False)), options(False)))


def measure(model) -> Report:
    report = Report(f"random model of {parameters(model) / 1e6:.0f} M parameters")
    inputs, words = prompt(4), tokenizer()
    rows, speech = generate(model, inputs, options(True))

    loop = ratio(
        lambda: decode_loop(model, inputs), lambda: own_modules(model, inputs, rows, speech[0])
    )
    report.add("S2S steps per second (text tokens)", (STEPS - 1) / loop.first_s, "")
    report.add("S2S tokens per second", GROUP_SIZE * (STEPS - 1) / loop.first_s, "")
    report.add("decode loop over transformers' own modules", loop.share, "", 0.7)

    for count, aim in ((4, 1.8), (8, 2.5)):
        share = ratio(
            lambda count=count: sessions(model, inputs, count, True),
            lambda: sessions(model, inputs, 1, True),
        ).share
        report.add(f"S2S step of {count} sessions together over one session's", share, "", aim)
    share = ratio(
        lambda: sessions(model, inputs, 4, True), lambda: sessions(model, inputs, 4, False)
    ).share
    report.add("S2S step of 4 sessions together over one after another", share, "")

    plain = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    text = ratio(
        lambda: seconds_of(lambda: text_stream(model, words)),
        lambda: seconds_of(
            lambda: model.language_model.generate(**text_prompt(), **plain, pad_token_id=PAD)
        ),
    )
    report.add("S2T tokens per second", STEPS / text.first_s, "")
    report.add("streamed text answer over the backbone's own generate", text.share, "", 1.05)

    first = statistics.median(first_group(model, words, inputs) for _ in range(7))
    report.add("first group of a 4 s question", 1000 * first, "ms")
    long, short = prompt(60), prompt(30)
    share = ratio(
        lambda: seconds_of(lambda: prefill(model, long, options(True))),
        lambda: seconds_of(lambda: prefill(model, short, options(True))),
    )
    report.add("prefill of a 60 s question", 1000 * share.first_s, "ms")
    report.add("prefill of 60 s over 30 s", share.share, "", 2.2)

    bandwidth, needed = copy_bandwidth(), step_bytes(model)
    took = loop.first_s / (STEPS - 1)
    report.add("copy bandwidth", bandwidth / 2**30, "GiB/s")
    report.add("weights an S2S step reads", needed / 2**20, "MiB")
    report.add("S2S step", 1000 * took, "ms")
    report.add("S2S step over its memory floor", took * bandwidth / needed, "")
    return report


def main() -> None:
    style = style_of_report(__doc__.splitlines()[0])
    torch.set_num_threads(THREADS)
    measure(chat_model()).show(style)


if __name__ == "__main__":
    main()
