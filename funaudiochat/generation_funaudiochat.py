# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Parallel text and speech decoding as a function of explicit state.

``prefill`` makes a :class:`DecodingState`, ``step`` advances it by one 5 Hz position, ``generate``
and ``stream`` loop over both. Nothing of a request is kept on the model, and every row of a batch
is decoded as it would be alone: only the prompt knows of padding, and a row that ended stays
silent.

Shapes: ``B`` rows, ``L`` prompt length, ``G`` group size, ``H`` text width, ``C`` codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from funaudiochat.decoder_stack import Positions, follow
from funaudiochat.errors import CheckpointError, FunAudioChatError
from funaudiochat.events import SpeechTokens, TextDelta

if TYPE_CHECKING:  # the model offers `generate`, so it imports this module
    from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration


# One generator a row makes a sampled row of a batch what it is alone.
Randomness = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one run.

    Attributes:
        max_new_tokens: steps at most.
        eos_token_ids: text ids that end a row.
        pad_token_id: text id of a row after its end.
        do_sample, temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size,
            min_new_tokens: act on text and codes.
        bad_words_ids: sequences banned from the text.
        suppressed_ids: text ids that are never chosen, greedily or not.
        text_greedy: text takes the arg-max of its raw scores; codes keep the settings above.
        disable_speech: text only; the refined head never runs.
        force_text_abos: the first text id is the one that opens speech, spoken or not (rule 48).
        only_crq_sampling: return the codes the head fed itself; else choose each group anew
            from its five score rows (rule 55).
    """

    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppressed_ids: tuple[int, ...] = ()
    text_greedy: bool = False
    disable_speech: bool = False
    force_text_abos: bool = False
    only_crq_sampling: bool = True

    @classmethod
    def from_config(cls, config: Any, prompt_length: int = 0, **speech: bool) -> GenerationOptions:
        """Settings of a checkpoint's ``generation_config.json``, changed by the caller's.

        Args:
            config: a ``GenerationConfig``.
            prompt_length: turns its ``max_length`` and ``min_length`` into new tokens, where it
                does not count those itself.
            speech: ``text_greedy``, ``disable_speech``, ``force_text_abos``,
                ``only_crq_sampling``.

        Raises:
            FunAudioChatError: beam search or another setting that parallel decoding does not
                know, no end id, or a prompt as long as ``max_length``.
        """
        _refuse_unknown_settings(config)
        # What the config does not say keeps this class's default, so flags never become None.
        values = {f.name: getattr(config, f.name, None) for f in fields(cls)}
        found: dict[str, Any] = {name: v for name, v in values.items() if v is not None}
        ends = config.eos_token_id
        found["eos_token_ids"] = tuple(ends if isinstance(ends, list) else [ends])
        if ends is None:
            raise FunAudioChatError(
                "no end id is known; give eos_token_id or a generation_config.json"
            )
        found["pad_token_id"] = config.pad_token_id
        if config.pad_token_id is None:
            found["pad_token_id"] = found["eos_token_ids"][0]
        if config.max_new_tokens is None:
            longest = getattr(config, "max_length", None)
            # 20 is what older configs say when nothing was said.
            found["max_new_tokens"] = 512 if longest in (None, 20) else longest - prompt_length
        if found["max_new_tokens"] < 1:
            raise FunAudioChatError(
                f"the prompt's {prompt_length} tokens leave no room for an answer; raise "
                "max_new_tokens or max_length"
            )
        if not config.min_new_tokens and getattr(config, "min_length", None):
            found["min_new_tokens"] = max(0, config.min_length - prompt_length)
        found["bad_words_ids"] = tuple(tuple(word) for word in config.bad_words_ids or ())
        found["do_sample"] = bool(config.do_sample)
        if config.top_k is None:
            found["top_k"] = 50  # what transformers samples from when nothing is said
        return cls(**{**found, **speech})

    def processors(self, prompt_length: int, device: torch.device) -> tuple[Any, Any]:
        """Score processors of text and of codes, in the order of transformers' own list.

        The codes get all but the banned words (rule 36).
        """
        text, codes = LogitsProcessorList(), LogitsProcessorList()
        both = (text, codes)
        if self.repetition_penalty not in (None, 1.0):
            _extend(both, RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            _extend(both, NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.bad_words_ids:
            words = [list(word) for word in self.bad_words_ids]
            _extend((text,), NoBadWordsLogitsProcessor(words, list(self.eos_token_ids)))
        if self.min_new_tokens:
            _extend(
                both,
                MinNewTokensLengthLogitsProcessor(
                    prompt_length, self.min_new_tokens, list(self.eos_token_ids), str(device)
                ),
            )
        if self.do_sample:
            if self.temperature not in (None, 1.0):
                _extend(both, TemperatureLogitsWarper(self.temperature))
            if self.top_k:
                _extend(both, TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1.0:
                _extend(both, TopPLogitsWarper(self.top_p))
            if self.min_p is not None:
                _extend(both, MinPLogitsWarper(self.min_p))
        return text, codes


# Settings of transformers that would change the answer; left out, they must not be ignored.
_UNKNOWN_SETTINGS = (
    "assistant_early_exit",
    "begin_suppress_tokens",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "max_time",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "top_h",
    "typical_p",
    "watermarking_config",
)
_OTHER_RESULTS = (
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
_NEUTRAL: tuple[Any, ...] = (None, 0, 1, [])  # also False, 0.0 and 1.0


def _refuse_unknown_settings(config: Any) -> None:
    if (config.num_beams or 1) > 1:
        raise FunAudioChatError(
            "beam search cannot decode text and speech in parallel; use num_beams=1"
        )
    if (getattr(config, "num_return_sequences", None) or 1) > 1:
        raise FunAudioChatError("one answer per row is decoded; repeat the row for more")
    forms = [name for name in _OTHER_RESULTS if getattr(config, name, None)]
    if forms:
        raise FunAudioChatError(
            f"the result is a pair of text and speech ids; {', '.join(forms)} cannot be had"
        )
    unknown = [n for n in _UNKNOWN_SETTINGS if getattr(config, n, None) not in _NEUTRAL]
    if unknown:
        raise FunAudioChatError(
            f"parallel decoding of text and speech does not know {', '.join(unknown)}; give no "
            "such setting, and remove it from generation_config.json"
        )


def check_generation_file(folder: Any, vocabulary: int) -> None:
    """Check a folder's ``generation_config.json``, if it has one.

    transformers passes over a file it cannot read, and takes values of any type.

    Raises:
        CheckpointError: no answer can be decoded by it; the message names the fields.
    """
    path = Path(folder) / "generation_config.json"
    if not path.exists():
        return
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        faults = _faults(settings, vocabulary)
        if not faults:
            GenerationConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises many kinds
        faults = [str(error)]
    if faults:
        raise CheckpointError(
            f"generation_config.json in {folder} is wrong: {'; '.join(faults)}. Mend it, or "
            "download the folder again with `funaudiochat download`"
        )


# What makes a value of the file one to decode by, and how to call such values.
_Check = tuple[str, Callable[[Any], bool]]


def _whole(least: int) -> _Check:
    return f"a whole number from {least}", lambda value: type(value) is int and value >= least


def _number(most: int, zero: bool = True) -> _Check:
    def fits(value: Any) -> bool:
        return type(value) in (int, float) and 0 <= value <= most and (zero or value > 0)

    return f"a number {'from' if zero else 'above'} 0, at most {most}", fits


def _faults(settings: Any, vocabulary: int) -> list[str]:
    if not isinstance(settings, dict):
        return [f"it holds {settings!r:.40}, no settings"]

    def is_id(value: Any) -> bool:
        return type(value) is int and 0 <= value < vocabulary

    def are_ids(value: Any) -> bool:
        return isinstance(value, list) and len(value) > 0 and all(map(is_id, value))

    def are_words(value: Any) -> bool:
        return isinstance(value, list) and all(map(are_ids, value))

    ids = f"ids below {vocabulary}"
    checks: dict[str, _Check] = {
        "do_sample": ("true or false", lambda value: isinstance(value, bool)),
        "eos_token_id": (f"one of the {ids} or a list of such", lambda v: is_id(v) or are_ids(v)),
        "pad_token_id": (f"one of the {ids}", is_id),
        "bad_words_ids": (f"a list of lists of {ids}", are_words),
        "temperature": _number(100, zero=not settings.get("do_sample")),
        "repetition_penalty": _number(100, zero=False),
        "top_p": _number(1),
        "min_p": _number(1),
    }
    for name in ("max_new_tokens", "max_length", "num_beams", "num_return_sequences"):
        checks[name] = _whole(1)
    for name in ("min_new_tokens", "min_length", "top_k", "no_repeat_ngram_size"):
        checks[name] = _whole(0)
    return [
        f"{name} is {settings[name]!r:.40}, not {kind}"
        for name, (kind, fits) in checks.items()
        if settings.get(name) is not None and not fits(settings[name])
    ]


def _extend(lists: tuple[Any, ...], processor: Any) -> None:
    for processors in lists:
        processors.append(processor)


@dataclass
class SpeechHeadState:
    """Where the refined head stands, and the code each row chose last."""

    positions: Positions
    last_codes: Tensor  # [B]


@dataclass
class DecodingState:
    """Everything one run needs between two steps."""

    rows: Tensor  # [B, L + steps] text ids, prompt included
    mask: Tensor | None  # [B, L + steps]; None when no row is padded
    positions: Positions  # of the backbone
    hidden: Tensor  # [B, S, H] backbone output not yet consumed by the head
    text_embeds: Tensor  # [B, S, H] text embedding of the same positions
    in_speech: Tensor  # bool [B]
    ended: Tensor  # bool [B]
    ends: Tensor  # [*] text ids that end a row
    speech: list[Tensor]  # per row, codes so far with end groups
    has_group: Tensor  # bool [B], the last step gave the row a group
    # transformers types its lists for LongTensor, which no indexing of a Tensor yields.
    text_processors: list[Any]  # one for all rows, or one per row if some are padded
    code_processors: Any
    head: SpeechHeadState | None = None
    generator: Randomness = None
    step_count: int = 0


@dataclass(frozen=True)
class StepOutput:
    """What one step added: text ids [B], and per row a group [G] or None outside speech."""

    text_ids: Tensor
    groups: list[Tensor | None]


def _choose(scores: Tensor, options: GenerationOptions, generator: Randomness) -> Tensor:
    """[B, V] float32 -> [B]."""
    if not options.do_sample:
        return scores.argmax(-1)
    shares = scores.softmax(-1)
    if not isinstance(generator, list):
        return torch.multinomial(shares, 1, generator=generator)[:, 0]
    rows = zip(shares, generator, strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=own) for row, own in rows])


def _positions(mask: Tensor) -> Tensor:
    """Positions from a mask: cumulative count minus one, 1 at masked places."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)


@torch.no_grad()
def prefill(
    model: FunAudioChatForConditionalGeneration,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: Randomness = None,
) -> DecodingState:
    """Run the prompt through the backbone.

    Args:
        inputs: what the processor gives: ``input_ids`` [B, L], ``attention_mask`` and audio; rows
            padded on the right are padded on the left in the state.

    Raises:
        FunAudioChatError: an empty prompt, or speech of a checkpoint without refined head.
    """
    rows = inputs["input_ids"]
    if not rows.numel():
        raise FunAudioChatError("the prompt holds no tokens; build it with the processor")
    if not options.disable_speech and not model.config.audio_config.enable_audio_invert_tower:
        raise FunAudioChatError("this checkpoint has no refined head; set disable_speech")
    mask = inputs.get("attention_mask")
    if mask is not None and bool(mask.all()):
        mask = None  # lets the attention kernels run without one
    elif mask is not None and not bool(mask[:, -1].all()):
        # Every row goes on from its last place, so padding on the right moves to the left.
        order = mask.argsort(dim=1, stable=True)
        rows, mask = rows.gather(1, order), mask.gather(1, order)
    cache = DynamicCache()
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    hidden = model.encode(
        input_ids=rows,
        attention_mask=mask,
        position_ids=None if mask is None else _positions(mask),
        past_key_values=cache,
        **audio,
    )
    off = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    padding = [0] if mask is None else (mask == 0).sum(1).tolist()
    processors = [options.processors(rows.shape[1] - count, rows.device) for count in padding]
    return DecodingState(
        rows=rows,
        mask=mask,
        positions=follow(model.language_model.model, cache, mask),
        hidden=hidden,
        text_embeds=model.get_input_embeddings()(rows),
        in_speech=off,
        ended=off.clone(),
        ends=torch.tensor(options.eos_token_ids, device=rows.device),
        speech=[rows.new_empty(0) for _ in rows],
        has_group=off.clone(),
        text_processors=[text for text, _ in processors],
        code_processors=processors[0][1],
        generator=generator,
    )


@torch.no_grad()
def step(
    model: FunAudioChatForConditionalGeneration, state: DecodingState, options: GenerationOptions
) -> StepOutput:
    """Advance every row by one text id and, in speech, one group of codes (rules 39-50)."""
    text_config, audio_config = model.config.text_config, model.config.audio_config
    opened = state.rows[:, -1] == text_config.audio_bos_index
    state.in_speech = (state.in_speech | opened) & ~state.ended
    if state.step_count:
        _advance_backbone(model, state, options)
    codes: Tensor | None = None
    code_scores: Tensor | None = None
    if not options.disable_speech:
        codes, code_scores = _head_group(model, state, options)

    scores = model.language_model.lm_head(state.hidden[:, -1]).float().to(state.rows.device)
    if options.suppressed_ids:
        scores[:, list(options.suppressed_ids)] = -torch.inf
    if state.step_count < (options.min_new_tokens or 0):
        scores[:, state.ends] = -torch.inf  # the arg-max of raw scores passes no processor
    if options.text_greedy:
        text_ids = scores.argmax(-1)
    else:
        text_ids = _choose(_process_text(state, scores), options, state.generator)
    if state.step_count == 0 and options.force_text_abos:
        text_ids = torch.full_like(text_ids, text_config.audio_bos_index)
    text_ids = text_ids.masked_fill(state.ended, options.pad_token_id)

    appended = text_ids
    groups: list[Tensor | None] = [None] * len(text_ids)
    if codes is not None:
        speaking = state.in_speech.tolist()
        if code_scores is not None and any(speaking):
            codes = _choose_again(state, code_scores, codes, speaking, options)
        state.has_group = state.in_speech
        finishing = (codes == audio_config.eos_token_id).any(1) & state.in_speech
        codes = codes.masked_fill(finishing[:, None], audio_config.eos_token_id)
        appended = appended.masked_fill(finishing, text_config.audio_eos_index)
        for row, on in enumerate(speaking):
            if on:
                groups[row] = codes[row]
                state.speech[row] = torch.cat([state.speech[row], codes[row]])
        state.in_speech = state.in_speech & ~finishing
    state.ended = state.ended | torch.isin(text_ids, state.ends)
    state.rows = torch.cat([state.rows, appended[:, None]], dim=1)
    if state.mask is not None:
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
    state.step_count += 1
    return StepOutput(text_ids=text_ids, groups=groups)


def _advance_backbone(
    model: FunAudioChatForConditionalGeneration, state: DecodingState, options: GenerationOptions
) -> None:
    """Feed the last text id, averaged with the last group where a row speaks (rule 40)."""
    embeds = model.get_input_embeddings()(state.rows[:, -1:])
    inputs = embeds
    if not options.disable_speech:
        speaking = state.in_speech & state.has_group
        flags = speaking.tolist()
        if any(flags):
            group = model.config.audio_config.group_size
            blank = state.rows.new_zeros(group)
            last = torch.stack(
                [
                    codes[-group:] if on else blank
                    for codes, on in zip(state.speech, flags, strict=True)
                ]
            )
            vectors = model.audio_tower(last).last_hidden_state.to(embeds.device)
            inputs = torch.where(speaking[:, None, None], (embeds + vectors) / 2, embeds)
    state.hidden = state.positions.advance(inputs[:, 0])[:, None]
    state.text_embeds = embeds


def _head_group(
    model: FunAudioChatForConditionalGeneration, state: DecodingState, options: GenerationOptions
) -> tuple[Tensor, Tensor | None]:
    """Choose G codes [B, G], one cached pass each (rules 42-45, 47).

    Also gives their raw scores [B, G, C] if the returned group is to be chosen anew from them.
    """
    head, audio = model.audio_invert_tower, model.config.audio_config
    # A device map may have put the head elsewhere; choices are made beside the text rows.
    fine = head.expand(state.hidden + state.text_embeds.to(state.hidden.device))
    before = fine.shape[1] - audio.group_size  # only the prompt has more positions than a group
    chosen: list[Tensor] = []
    raw: list[Tensor] = []
    for index in range(before, fine.shape[1]):
        at = state.head
        if at is None:
            at, scores = _first_scores(model, state, fine[:, : index + 1])
            state.head = at
        else:
            scores = head.next_scores(fine[:, index], at.last_codes, at.positions)
        scores = scores.to(state.rows.device)
        raw.append(scores)
        if state.code_processors:
            scores = _process_codes(state, chosen, scores)
        at.last_codes = _choose(scores, options, state.generator)
        chosen.append(at.last_codes)
    again = None if options.only_crq_sampling else torch.stack(raw, dim=1)
    return torch.stack(chosen, dim=1), again


def _first_scores(
    model: FunAudioChatForConditionalGeneration, state: DecodingState, fine: Tensor
) -> tuple[SpeechHeadState, Tensor]:
    """Run the head over the prompt's positions [B, S, H]: the scores [B, C] of its first code."""
    audio = model.config.audio_config
    mask = positions = None
    if state.mask is not None:
        mask = state.mask.repeat_interleave(audio.group_size, dim=1)[:, : fine.shape[1]]
        positions = _positions(mask)
    start = state.rows.new_full((len(fine),), audio.bos_token_id)
    scores, found = model.audio_invert_tower.first_scores(fine, start, mask, positions)
    return SpeechHeadState(found, start), scores


def _choose_again(
    state: DecodingState,
    scores: Tensor,
    codes: Tensor,
    speaking: list[bool],
    options: GenerationOptions,
) -> Tensor:
    """The groups of speaking rows chosen anew from scores [B, G, C] (rule 55): [B, G].

    The checkpoint's own rule: the flat history is cut into G equal runs, so each position sees
    the codes of another stretch of the reply, not of its own column.
    """
    group, own = codes.shape[1], state.generator
    generators = own if isinstance(own, list) else [own] * len(codes)
    rows = [
        _choose(state.code_processors(history.view(group, -1), rows), options, generator)
        if on
        else kept
        for history, rows, kept, on, generator in zip(
            state.speech, scores, codes, speaking, generators, strict=True
        )
    ]
    return torch.stack(rows)


def _process_text(state: DecodingState, scores: Tensor) -> Tensor:
    """[B, V] -> [B, V]; padding is no part of a row, or the row would not equal its single run."""
    if state.mask is None:
        return state.text_processors[0](state.rows, scores)
    return torch.cat(
        [
            process(row[kept.bool()][None], one[None])
            for process, row, kept, one in zip(
                state.text_processors, state.rows, state.mask, scores, strict=True
            )
        ]
    )


def _process_codes(state: DecodingState, chosen: list[Tensor], scores: Tensor) -> Tensor:
    """[B, C] -> [B, C]; histories differ in length, so each row is processed by itself."""
    now = torch.stack(chosen, 1) if chosen else state.rows.new_empty(len(scores), 0)
    return torch.cat(
        [
            state.code_processors(torch.cat([history, codes])[None], row[None])
            for history, codes, row in zip(state.speech, now, scores, strict=True)
        ]
    )


def generate(
    model: FunAudioChatForConditionalGeneration,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: Randomness = None,
    streamer: Any = None,
) -> tuple[Tensor, list[Tensor]]:
    """Decode until every row ended or ``max_new_tokens`` steps were made.

    Args:
        generator: of all rows together, or a list with one for each.
        streamer: gets ``put`` with the prompt [B, L], then per step the text ids [B] and, while
            a row speaks, the groups [B, G]; ``end`` at the end (rule 57).

    Returns:
        Text rows [B, L + steps] with the prompt, and per row its codes [G * groups], the end
        group included where the row finished its speech.
    """
    state = prefill(model, inputs, options, generator)
    audio = model.config.audio_config
    if streamer is not None:
        streamer.put(state.rows.cpu())
    while state.step_count < options.max_new_tokens and not bool(state.ended.all()):
        out = step(model, state, options)
        if streamer is None:
            continue
        streamer.put(out.text_ids.cpu())
        if any(group is not None for group in out.groups):
            silent = out.text_ids.new_full((audio.group_size,), audio.pad_token_id)
            streamer.put(torch.stack([silent if g is None else g for g in out.groups]).cpu())
    if streamer is not None:
        streamer.end()
    return state.rows, state.speech


def spoken_tokens(model: FunAudioChatForConditionalGeneration, tokens: Tensor) -> Tensor:
    """Return speech tokens [T] without those of start, end and padding, on the CPU."""
    return tokens[tokens < model.config.audio_config.bos_token_id].cpu()


def stream(
    model: FunAudioChatForConditionalGeneration,
    tokenizer: Any,
    state: DecodingState,
    options: GenerationOptions,
) -> Iterator[TextDelta | SpeechTokens]:
    """Decode one prefilled row, yielding text and speech; leave the loop to cancel.

    The pieces joined are the text ``generate`` gives, without special tokens and those that
    steer speech (start, end, silence), and the groups joined are its codes.

    Args:
        tokenizer: of the text backbone, a fast one.
        state: one row; it tells afterwards how many steps were made and whether the row ended.
    """
    if len(state.rows) != 1:
        raise FunAudioChatError("stream decodes one row; call step for a batch")
    text = model.config.text_config
    silent = {text.audio_bos_index, text.audio_eos_index, text.sil_index}
    said: list[int] = []
    decoder, emitted = DecodeStream(skip_special_tokens=True), 0
    while state.step_count < options.max_new_tokens and not bool(state.ended.all()):
        out = step(model, state, options)
        token = int(state.rows[0, -1])
        if token not in silent:
            said.append(token)
            piece = decoder.step(tokenizer.backend_tokenizer, token)
            if piece:
                emitted += len(piece)
                yield TextDelta(piece)
        if out.groups[0] is not None:
            yield SpeechTokens(out.groups[0], spoken_tokens(model, out.groups[0]))
    # What the decoder still holds back is a character that never became whole.
    rest = tokenizer.backend_tokenizer.decode(said, skip_special_tokens=True)[emitted:]
    if rest:
        yield TextDelta(rest)
