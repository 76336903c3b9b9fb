# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Parallel text and speech decoding as a function of explicit state.

``prefill`` makes a :class:`DecodingState`, ``step`` advances it by one 5 Hz position, ``generate``
loops over both. Nothing of a request is kept on the model, and every row of a batch is decoded as
it would be alone: left padding never enters the refined head, and a row that ended stays silent.

Shapes: ``B`` rows, ``L`` prompt length, ``G`` group size, ``H`` text width, ``C`` codes.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one run.

    Attributes:
        max_new_tokens: steps at most.
        eos_token_ids: text ids that end a row.
        pad_token_id: text id of a row after its end.
        do_sample, temperature, top_k, top_p, repetition_penalty: act on text and codes.
        text_greedy: text takes the arg-max of its raw scores; codes keep the settings above.
        disable_speech: text only; the refined head never runs.
        force_text_abos: the first text id is the one that opens speech.
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
    repetition_penalty: float | None = None
    text_greedy: bool = False
    disable_speech: bool = False
    force_text_abos: bool = True
    only_crq_sampling: bool = True

    def processors(self) -> Any:
        """Score processors in the order of transformers: penalty, temperature, top-k, top-p."""
        found = LogitsProcessorList()
        if self.repetition_penalty not in (None, 1.0):
            found.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.do_sample:
            if self.temperature not in (None, 1.0):
                found.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k:
                found.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1.0:
                found.append(TopPLogitsWarper(self.top_p))
        return found


@dataclass
class SpeechHeadState:
    """Cache and mask of the refined head, and the code each row chose last."""

    cache: DynamicCache
    mask: Tensor  # [B, fine positions]
    last_codes: Tensor  # [B]


@dataclass
class DecodingState:
    """Everything one run needs between two steps."""

    rows: Tensor  # [B, L + steps] text ids, prompt included
    mask: Tensor  # [B, L + steps]
    cache: DynamicCache
    hidden: Tensor  # [B, S, H] backbone output not yet consumed by the head
    text_embeds: Tensor  # [B, S, H] text embedding of the same positions
    in_speech: Tensor  # bool [B]
    ended: Tensor  # bool [B]
    speech: list[Tensor]  # per row, codes so far with end groups
    has_group: Tensor  # bool [B], the last step gave the row a group
    head: SpeechHeadState | None = None
    generator: torch.Generator | None = None
    step_count: int = 0
    # transformers types its lists for LongTensor, which no indexing of a Tensor yields.
    processors: Any = field(default_factory=LogitsProcessorList)


@dataclass(frozen=True)
class StepOutput:
    """What one step added: text ids [B], and per row a group [G] or None outside speech."""

    text_ids: Tensor
    groups: list[Tensor | None]


def _choose(
    scores: Tensor, options: GenerationOptions, generator: torch.Generator | None
) -> Tensor:
    """[B, V] float32 -> [B]."""
    if not options.do_sample:
        return scores.argmax(-1)
    return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]


def _positions(mask: Tensor) -> Tensor:
    """Positions from a mask: cumulative count minus one, 1 at masked places."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)


@torch.no_grad()
def prefill(
    model: FunAudioChatForConditionalGeneration,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: torch.Generator | None = None,
) -> DecodingState:
    """Run the prompt through the backbone.

    Args:
        inputs: what the processor gives: ``input_ids`` [B, L], ``attention_mask`` and audio.
    """
    rows = inputs["input_ids"]
    mask = inputs.get("attention_mask", torch.ones_like(rows))
    cache = DynamicCache()
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    out = model(
        input_ids=rows,
        attention_mask=mask,
        position_ids=_positions(mask),
        past_key_values=cache,
        use_cache=True,
        disable_speech=True,
        **audio,
    )
    off = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    return DecodingState(
        rows=rows,
        mask=mask,
        cache=cache,
        hidden=out.last_hidden_state,
        text_embeds=model.get_input_embeddings()(rows),
        in_speech=off,
        ended=off.clone(),
        speech=[rows.new_empty(0) for _ in rows],
        has_group=off.clone(),
        generator=generator,
        processors=options.processors(),
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
        _advance_backbone(model, state)
    codes = None
    if not options.disable_speech:
        codes = _head_group(model, state, options)

    scores = model.language_model.lm_head(state.hidden[:, -1]).float()
    if options.text_greedy:
        text_ids = scores.argmax(-1)
    else:
        text_ids = _choose(state.processors(state.rows, scores), options, state.generator)
    if state.step_count == 0 and options.force_text_abos:
        text_ids = torch.full_like(text_ids, text_config.audio_bos_index)
    text_ids = text_ids.masked_fill(state.ended, options.pad_token_id)

    appended = text_ids.clone()
    groups: list[Tensor | None] = [None] * len(text_ids)
    state.has_group = state.in_speech.clone()
    if codes is not None:
        finishing = (codes == audio_config.eos_token_id).any(1) & state.in_speech
        codes = codes.masked_fill(finishing[:, None], audio_config.eos_token_id)
        appended = appended.masked_fill(finishing, text_config.audio_eos_index)
        for row in state.in_speech.nonzero()[:, 0].tolist():
            groups[row] = codes[row]
            state.speech[row] = torch.cat([state.speech[row], codes[row]])
        state.in_speech = state.in_speech & ~finishing
    ends = torch.tensor(options.eos_token_ids, device=text_ids.device)
    state.ended = state.ended | torch.isin(text_ids, ends)
    state.rows = torch.cat([state.rows, appended[:, None]], dim=1)
    state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
    state.step_count += 1
    return StepOutput(text_ids=text_ids, groups=groups)


def _advance_backbone(model: FunAudioChatForConditionalGeneration, state: DecodingState) -> None:
    """Feed the last text id, averaged with the last group where a row speaks (rule 40)."""
    embeds = model.get_input_embeddings()(state.rows[:, -1:])
    inputs = embeds
    speaking = state.in_speech & state.has_group
    if speaking.any():
        group = model.config.audio_config.group_size
        blank = state.rows.new_zeros(group)
        last = torch.stack(
            [
                codes[-group:] if on else blank
                for codes, on in zip(state.speech, speaking.tolist(), strict=True)
            ]
        )
        vectors = model.audio_tower(last).last_hidden_state
        inputs = torch.where(speaking[:, None, None], (embeds + vectors) / 2, embeds)
    state.hidden = model.language_model.model(
        inputs_embeds=inputs,
        attention_mask=state.mask,
        position_ids=_positions(state.mask)[:, -1:],
        past_key_values=state.cache,
        use_cache=True,
    ).last_hidden_state
    state.text_embeds = embeds


def _head_group(
    model: FunAudioChatForConditionalGeneration, state: DecodingState, options: GenerationOptions
) -> Tensor:
    """Choose G codes [B, G], one cached pass each (rules 42-45, 47)."""
    head, audio = model.audio_invert_tower, model.config.audio_config
    embed = model.audio_tower.embed_tokens
    group = audio.group_size
    fine = head.pre_matching(state.hidden + state.text_embeds).unflatten(-1, (group, -1))
    fine = fine.flatten(1, 2)
    if state.head is None:
        codes = state.rows.new_full((len(fine),), audio.bos_token_id)
        mask = state.mask.repeat_interleave(group, dim=1)
        state.head = SpeechHeadState(DynamicCache(), mask, codes)
    else:
        added = state.head.mask.new_ones(len(fine), group)
        state.head.mask = torch.cat([state.head.mask, added], dim=1)
    total, start = state.head.mask.shape[1], 0
    chosen: list[Tensor] = []
    raw: list[Tensor] = []
    for index in range(group):
        seen = total - group + index + 1
        stop = fine.shape[1] - group + index + 1
        hidden = fine[:, start:stop] + embed(state.head.last_codes)[:, None]
        start = stop
        mask = state.head.mask[:, :seen]
        out: Any = head.crq_transformer(
            inputs_embeds=head.input_matching(hidden),
            attention_mask=mask,
            position_ids=_positions(mask)[:, -hidden.shape[1] :],
            past_key_values=state.head.cache,
            use_cache=True,
        ).last_hidden_state
        scores = head.lm_head(head.output_matching(out[:, -1])).float()
        raw.append(scores)
        if state.processors:
            current = torch.stack(chosen, 1) if chosen else state.rows.new_empty(len(scores), 0)
            # Histories differ in length from row to row, so each row is processed by itself.
            scores = torch.cat(
                [
                    state.processors(torch.cat([history, now])[None], row[None])
                    for history, now, row in zip(state.speech, current, scores, strict=True)
                ]
            )
        state.head.last_codes = _choose(scores, options, state.generator)
        chosen.append(state.head.last_codes)
    if options.only_crq_sampling:
        return torch.stack(chosen, dim=1)
    # The checkpoint's own rule for this option: the flat history is cut into G equal runs, so
    # each position sees the codes of another stretch of the reply, not of its own column.
    return torch.stack(
        [
            _choose(state.processors(history.view(group, -1), rows), options, state.generator)
            for history, rows in zip(state.speech, torch.stack(raw, dim=1), strict=True)
        ]
    )


def generate(
    model: FunAudioChatForConditionalGeneration,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Decode until every row ended or ``max_new_tokens`` steps were made.

    Returns:
        Text rows [B, L + steps] with the prompt, and per row its codes [G * groups], the end
        group included where the row finished its speech.
    """
    state = prefill(model, inputs, options, generator)
    while state.step_count < options.max_new_tokens and not bool(state.ended.all()):
        step(model, state, options)
    return state.rows, state.speech
