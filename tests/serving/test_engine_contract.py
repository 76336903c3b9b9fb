# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The refined head under an engine, as vLLM-Omni mounts and drives it.

The engine builds ``FunAudioChatDecoder`` with a config class of its own, keeps every request's
state itself, hands it in by attributes before a step and takes it out after, and interleaves the
requests. Their speech tokens must equal what our own generation gives each of them alone.
"""

import copy
import json
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache

import funaudiochat
from funaudiochat.cosyvoice3.voices import DEFAULT_VOICE
from funaudiochat.generation_funaudiochat import generate
from funaudiochat.hub import VOICES_FILE
from funaudiochat.modeling_common import cache_argument
from funaudiochat.modeling_funaudiochat import FunAudioChatDecoder
from funaudiochat.prompt_blocks import run_blocks
from tests.helpers.golden import TINY_A, load_case, load_model, options_of

# Greedy, with a repetition penalty, and sampled; two of them end their speech on the way.
CASES = [
    "f1_s2s_greedy",
    "f2_s2s_reppen12",
    "f3_s2s_finish_midway",
    "f4_s2s_finish_reppen12",
    "g2_s2s_sampled_text_greedy",
]
PREFIX = "audio_invert_tower."


@pytest.fixture
def decoder():
    """Built and filled as engines do, from the folder's files.

    The engine's config has nothing but attributes; the head's settings are a plain dict.
    """
    folder = TINY_A
    fields = json.loads((folder / "config.json").read_text())["audio_config"]
    decoder = FunAudioChatDecoder(SimpleNamespace(**fields)).eval()
    tensors = load_file(folder / "model.safetensors")
    weights = {k.removeprefix(PREFIX): v for k, v in tensors.items() if k.startswith(PREFIX)}
    weights["lm_head.weight"] = tensors["audio_tower.embed_tokens.weight"]
    decoder.load_state_dict(weights)
    return decoder


def test_the_head_is_built_of_any_object_with_the_fields_as_attributes(decoder):
    config = SimpleNamespace(
        **{
            name: getattr(decoder.config, name)
            for name in (
                "output_dim",
                "group_size",
                "codebook_size",
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
                "crq_transformer_config",
            )
        }
    )
    FunAudioChatDecoder(config).load_state_dict(decoder.state_dict())


@dataclass
class Request:
    """What an engine keeps of one request between its steps."""

    state: Any  # of the backbone, which is the engine's own part: hidden, text_embeds, past
    texts: list[int]
    options: Any
    processor: Any
    generator: torch.Generator
    embeds: torch.Tensor | None = None
    cache: Any = None
    spoken: torch.Tensor = field(default_factory=lambda: torch.empty(1, 0, dtype=torch.long))
    position: int = 0
    done: bool = False


def start(model, name: str) -> tuple[Request, list[int]]:
    """A request for a recorded case, and the tokens our own generation gives it."""
    case, inputs, _ = load_case(name)
    options = options_of(case)
    rows, (speech,) = generate(model, inputs, options, torch.Generator().manual_seed(5))
    ids, past = inputs["input_ids"], DynamicCache()
    length = ids.shape[1]
    _, processor = options.processors(length, torch.device("cpu"))
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = run_blocks(model.encode(ids, past_key_values=past, **audio))
    embeds = model.get_input_embeddings()(ids)
    request = Request(
        state=SimpleNamespace(hidden=hidden, text_embeds=embeds, past=past),
        texts=rows[0, length:].tolist(),
        options=options,
        processor=processor,
        generator=torch.Generator().manual_seed(5),
    )
    return request, speech.tolist()


def engine_step(model, decoder, request: Request) -> None:
    """Choose one group of tokens for a request, then the backbone's next position."""
    state, end = request.state, model.config.audio_config.eos_token_id
    decoder.crq_audio_embeds = request.embeds
    decoder.crq_past_key_values = request.cache
    decoder.crq_do_sample = request.options.do_sample
    decoder.crq_logits_processor = request.processor
    decoder.crq_speech_ids = request.spoken
    if request.options.do_sample:  # not every form of the engine has one
        decoder.crq_generator = request.generator
    masks = {}
    if request.position % 2 == 0:  # some calls have masks, which have no effect
        masks = {"attention_mask": torch.ones(1, 1), "position_ids": torch.zeros(1, 1)}
    decoder.crq_generate_forward(
        inputs_embeds=state.hidden + state.text_embeds, return_dict=True, **masks
    )
    codes = decoder.crq_generate_tokens.reshape(1, 5)
    request.embeds, request.cache = decoder.crq_audio_embeds, decoder.crq_past_key_values
    for name in ("audio_embeds", "past_key_values", "generate_tokens", "speech_ids", "generator"):
        setattr(decoder, f"crq_{name}", None)

    if request.position:  # speech is open from the forced start on
        if (codes == end).any():
            codes = torch.full_like(codes, end)
        request.spoken = torch.cat([request.spoken, codes], dim=1)
        request.done = bool((codes == end).all())
    with torch.no_grad():
        embeds = model.get_input_embeddings()(torch.tensor([[request.texts[request.position]]]))
        inputs = embeds
        if request.position:
            inputs = (embeds + model.audio_tower(codes).last_hidden_state) / 2
        state.hidden = model.language_model.model(
            inputs_embeds=inputs,
            use_cache=True,
            **cache_argument(model.language_model.model, state.past),
        ).last_hidden_state
    state.text_embeds = embeds
    request.position += 1
    request.done = request.done or request.position == len(request.texts)


def own_sampling_step(self, logits):
    """An engine's replacement: reads the list of a running group, chooses by itself."""
    now = [code.view(1, 1) for code in self.crq_generate_tokens]
    logits = self.crq_logits_processor(torch.cat([self.crq_speech_ids, *now], dim=1), logits)
    if self.crq_do_sample:
        chosen = torch.multinomial(logits.softmax(-1), 1, generator=self.crq_generator)
        return chosen, logits
    return logits.argmax(-1, keepdim=True), logits


@pytest.mark.parametrize("sampler", ["ours", "the engine's"])
def test_interleaved_requests_get_the_tokens_each_gets_alone(decoder, sampler):
    model = load_model()
    if sampler != "ours":
        decoder.sampling_step = own_sampling_step.__get__(decoder)
    started = [start(model, name) for name in CASES]
    waiting, running = [request for request, _ in started], []
    while waiting or running:
        if waiting:  # one more joins in every round
            running.append(waiting.pop(0))
        for request in running:
            engine_step(model, decoder, request)
        running = [request for request in running if not request.done]
    assert [request.spoken[0].tolist() for request, _ in started] == [own for _, own in started]
    assert all(own for _, own in started)


def test_a_request_can_be_taken_up_again_from_a_copy_of_its_state(decoder):
    model = load_model()
    request, own = start(model, "f2_s2s_reppen12")
    for _ in range(6):
        engine_step(model, decoder, request)
    other, _ = start(model, "f1_s2s_greedy")
    moved = copy.deepcopy(request)
    while not request.done:
        engine_step(model, decoder, request)
        engine_step(model, decoder, other)
    while not moved.done:
        engine_step(model, decoder, moved)
    assert request.spoken[0].tolist() == moved.spoken[0].tolist() == own


def test_a_decoder_takes_vllms_own_config_class():
    pytest.importorskip("vllm", reason="needs vLLM in its own environment (run_vllm.sh)")
    from vllm.transformers_utils.configs.funaudiochat import FunAudioChatConfig

    folder = TINY_A
    config = FunAudioChatConfig.from_pretrained(folder)
    names = set(load_model().audio_invert_tower.state_dict())
    assert set(FunAudioChatDecoder(config.audio_config).state_dict()) == names


def test_engines_find_constants_and_voice_beside_the_package():
    root = Path(funaudiochat.__file__).parent.parent
    constants = runpy.run_path(str(root / "utils" / "constant.py"))
    assert constants["DEFAULT_S2M_PROMPT"] and constants["DEFAULT_SP_GEN_KWARGS"]
    assert VOICES_FILE == root / "utils" / "new_spk2info.pt"
    if VOICES_FILE.is_file():  # `funaudiochat download --only voices` puts it there
        voices = torch.load(VOICES_FILE, weights_only=True)
        assert voices[DEFAULT_VOICE]["embedding"].shape == (1, 192)
