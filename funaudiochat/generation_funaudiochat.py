# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Parallel text and speech decoding as a function of explicit state.

``prefill`` makes a :class:`DecodingState`, ``step`` advances it by one 5 Hz position, ``generate``
and ``stream`` loop over both. A prompt is read in blocks, between which others may take steps.
Nothing of a request is kept on the model, and every row of a batch is decoded exactly as it would
be alone: padding exists in the prompt only, and a row that has ended emits no more speech. Logits
are the model's raw output, scores are logits after processing.

``step_together`` advances several states at once, whatever their lengths and settings. Which states
those are may change from step to step: there is no batch to join or to leave.

Shapes: ``B`` rows, ``L`` prompt length, ``S`` positions not yet consumed by the refined head, ``G``
group size, ``H`` text width, ``V`` text vocabulary, ``C`` speech vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Generic, Protocol, TypeVar

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor, nn
from transformers import DynamicCache

from funaudiochat import decoder_kernel
from funaudiochat.choices import Randomness, SpeechChoices, choose
from funaudiochat.decoder_stack import Positions, Prefix, advance_together, follow, reusable
from funaudiochat.errors import FunAudioChatError
from funaudiochat.events import SpeechTokens, TextDelta
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.prompt_blocks import Blocks, PromptBlock, run_blocks


class RefinedHead(Protocol):
    """The part of a model that turns 5 Hz states into speech tokens."""

    def expand(self, hidden: Tensor) -> Tensor:
        """Widen every 5 Hz position to its G fine positions: [B, S, H] -> [B, S*G, H]."""

    def prompt(
        self,
        hidden: Tensor,
        start_tokens: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        prefix: Prefix | None,
    ) -> Blocks[tuple[Tensor, Positions]]:
        """Run the prompt [B, S, H]; return the logits [B, C] of the first speech token."""

    def next_tokens(
        self,
        fine: Tensor,
        last_tokens: Tensor,
        positions: Sequence[Positions],
        choices: Sequence[Sequence[decoder_kernel.Choice]],
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Choose the next speech tokens, or as many as can be chosen inside the head."""


class SpeechModel(Protocol):
    """The parts of a model that decoding uses."""

    @property
    def config(self) -> Any:
        """The model's ``FunAudioChatConfig``."""

    @property
    def language_model(self) -> Any:
        """The text backbone with its ``lm_head``."""

    @property
    def audio_tower(self) -> Callable[..., Any]:
        """The encoder that turns groups of speech tokens [B, G] into vectors [B, 1, H]."""

    @property
    def audio_invert_tower(self) -> RefinedHead:
        """The refined head."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the text embedding."""

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **audio: Tensor,
    ) -> Blocks[Tensor]:
        """Compute the backbone's states [B, L, H] of a prompt and fill its cache."""


@dataclass
class SpeechHeadState:
    """The refined head's positions, and the speech token each row chose last.

    Attributes:
        positions: of the head.
        last_tokens: [B].
        logits: [B, C] of the first speech token, until it is chosen.
    """

    positions: Positions
    last_tokens: Tensor
    logits: Tensor | None


@dataclass
class DecodingState:
    """Everything that a run carries from one step to the next.

    What decides how a row continues is on the CPU, so that a step waits for the device once: to
    read the ids that were chosen.
    """

    token_ids: Tensor  # [B, L + steps] text token ids, prompt included
    last_ids: Tensor  # [B] the last of them, on the CPU
    mask: Tensor | None  # [B, L + steps]; None when no row is padded
    positions: Positions  # of the backbone
    hidden: Tensor  # [B, S, H] backbone output not yet consumed by the head
    text_embeds: Tensor  # [B, S, H] text embedding of the same positions
    in_speech: Tensor  # bool [B], on the CPU
    ended: Tensor  # bool [B], on the CPU
    ends: Tensor  # [*] text ids that end a row
    suppressed: Tensor  # [*] text ids that are never chosen
    speech: list[Tensor]  # per row, its speech tokens [T] so far, end groups included
    has_group: Tensor  # bool [B], on the CPU: the last step gave the row a group
    # transformers types its lists for LongTensor, which no indexing of a Tensor yields.
    text_processors: list[Any]  # one for all rows, or one per row if some are padded
    speech_processors: Any
    head: SpeechHeadState | None = None
    head_prefix: Prefix | None = None  # what the head has read of the prompt before
    generator: Randomness = None
    step_count: int = 0


@dataclass(frozen=True)
class StepOutput:
    """The result of one step, on the CPU.

    Attributes:
        text_ids: [B].
        groups: per row a group [G], None outside speech.
    """

    text_ids: Tensor
    groups: list[Tensor | None]


@dataclass(frozen=True)
class ReadPrompt:
    """The prompt of a conversation's earlier reply, for a prompt that begins like it.

    Attributes:
        token_ids: [L].
        audios: waveforms of the prompt, in order.
        positions: of the backbone.
        head_positions: of the refined head, None if it has not read the prompt.
    """

    token_ids: Tensor
    audios: Sequence[Any]
    positions: Positions
    head_positions: Positions | None

    def shared(self, token_ids: Tensor, audios: Sequence[Any], audio_token: int) -> tuple[int, int]:
        """Return how many positions and audios another prompt [L] has in common with this one.

        The other has at least one position more, and no audio is divided.
        """
        # The reply has overwritten the last group of this prompt in the head.
        length = min(len(self.token_ids), len(token_ids)) - 1
        same = self.token_ids[:length] == token_ids[:length]
        length = int(same.long().cumprod(0).sum())
        equal = [old is new for old, new in zip(self.audios, audios, strict=False)]
        same_audios = equal.index(False) if False in equal else len(equal)
        place = torch.nn.functional.pad(token_ids == audio_token, (1, 1)).long().diff()
        starts, ends = (place.eq(edge).nonzero()[:, 0].tolist() for edge in (1, -1))
        inside = sum(end <= length for end in ends[:same_audios])
        if inside < len(starts):
            length = min(length, starts[inside])
        return length, inside


def _positions(mask: Tensor) -> Tensor:
    """Return the positions of a mask: cumulative count minus one, 1 where it is masked."""
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)


def prefill(
    model: SpeechModel,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: Randomness = None,
) -> DecodingState:
    """Run the prompt through the backbone; see :func:`read_prompt`."""
    return run_blocks(read_prompt(model, inputs, options, generator))


@torch.no_grad()
def read_prompt(
    model: SpeechModel,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: Randomness = None,
    read: ReadPrompt | None = None,
    audios: Sequence[Any] = (),
) -> Blocks[DecodingState]:
    """Run the prompt through the backbone, in blocks.

    Args:
        model: the joint model.
        inputs: the processor's output: ``input_ids`` [B, L], ``attention_mask`` and audio. Rows
            padded on the right are padded on the left in the state.
        options: settings of the run.
        generator: source of randomness for all rows together, or a list with one for each.
        read: an earlier prompt; of one row without padding, only what differs from it is read, and
            its positions become those of this run.
        audios: waveforms of the row, to compare with those of ``read``.

    Returns:
        The state before the first step.

    Raises:
        FunAudioChatError: the prompt is empty, or speech is asked of a checkpoint without a
            refined head.
    """
    token_ids = inputs["input_ids"]
    if not token_ids.numel():
        raise FunAudioChatError("the prompt holds no tokens; build it with the processor")
    if not options.disable_speech and not model.config.audio_config.enable_audio_invert_tower:
        raise FunAudioChatError("this checkpoint has no refined head; set disable_speech")
    mask = inputs.get("attention_mask")
    if mask is not None and bool(mask.all()):
        mask = None  # lets the attention kernels run without one
    elif mask is not None and not bool(mask[:, -1].all()):
        # Decoding continues from the last column, so padding on the right moves to the left.
        order = mask.argsort(dim=1, stable=True)
        token_ids, mask = token_ids.gather(1, order), mask.gather(1, order)
    audio = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    prefix, head_prefix = None, None
    if read is not None and mask is None and len(token_ids) == 1:
        prefix, head_prefix, heard = _prefixes(model, read, token_ids[0], audios, options)
        if prefix is not None:
            audio = _without_first(audio, heard)
    start = 0 if prefix is None else prefix.length
    cache = DynamicCache() if prefix is None else prefix.cache()
    hidden = yield from model.encode(
        input_ids=token_ids[:, start:],
        attention_mask=mask,
        position_ids=None if mask is None else _positions(mask),
        past_key_values=cache,
        **audio,
    )
    off = torch.zeros(len(token_ids), dtype=torch.bool)
    padding = [0] if mask is None else (mask == 0).sum(1).tolist()
    processors = [
        options.processors(token_ids.shape[1] - count, token_ids.device) for count in padding
    ]
    return DecodingState(
        token_ids=token_ids,
        last_ids=token_ids[:, -1].cpu(),
        mask=mask,
        positions=(
            follow(model.language_model.model, cache, mask)
            if prefix is None
            else prefix.followed(cache)
        ),
        hidden=hidden,
        text_embeds=model.get_input_embeddings()(token_ids[:, start:]),
        in_speech=off,
        ended=off.clone(),
        ends=token_ids.new_tensor(options.eos_token_ids),
        suppressed=token_ids.new_tensor(options.suppressed_ids),
        speech=[token_ids.new_empty(0) for _ in token_ids],
        has_group=off.clone(),
        text_processors=[text for text, _ in processors],
        speech_processors=processors[0][1],
        head_prefix=head_prefix,
        generator=generator,
    )


def _prefixes(
    model: SpeechModel,
    read: ReadPrompt,
    token_ids: Tensor,
    audios: Sequence[Any],
    options: GenerationOptions,
) -> tuple[Prefix | None, Prefix | None, int]:
    """Return what backbone and head need not read again, and how many audios that holds."""
    length, heard = read.shared(token_ids, audios, model.config.audio_token_index)
    if not length or not reusable(model.language_model.model, read.positions):
        return None, None, 0
    backbone = Prefix(read.positions, length)
    if options.disable_speech:
        return backbone, None, heard
    head: Any = model.audio_invert_tower
    if read.head_positions is None or not reusable(head.crq_transformer, read.head_positions):
        return None, None, 0  # the head needs the backbone's states of all positions
    group = model.config.audio_config.group_size
    return backbone, Prefix(read.head_positions, length * group), heard


def _without_first(audio: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the processor's audio inputs without the first audios."""
    having = audio.get("feature_exist_mask")
    with_mel = count if having is None else int(having[:count].sum())
    kept = {
        name: value[with_mel if name in ("input_features", "feature_attention_mask") else count :]
        for name, value in audio.items()
    }
    return kept if len(kept.get("speech_ids", ())) else {}


@torch.no_grad()
def step(model: SpeechModel, state: DecodingState, options: GenerationOptions) -> StepOutput:
    """Advance every row by one text id and, in speech, one group of speech tokens (rules 39-50)."""
    (output,) = step_together(model, [(state, options)])
    if isinstance(output, Exception):
        raise output
    return output


@torch.no_grad()
def step_together(
    model: SpeechModel, runs: Sequence[tuple[DecodingState, GenerationOptions]]
) -> list[StepOutput | Exception]:
    """Take one step of several states, each as :func:`step` would alone.

    The model's weights are read once for all of them; every state has its own settings, history and
    randomness.

    Returns:
        The output of each state, or the error that ended its step; a state cannot be stepped
        again after that.
    """
    steps = [_step(model, state, options) for state, options in runs]
    outputs: dict[int, StepOutput | Exception] = {}
    waiting: dict[int, _Shared] = {}

    def resume(index: int, result: Tensor | None) -> None:
        waiting.pop(index, None)
        try:
            waiting[index] = steps[index].send(result)
        except StopIteration as end:
            outputs[index] = end.value
        except Exception as error:
            outputs[index] = error

    for index in range(len(steps)):
        resume(index, None)
    while waiting:
        part = min(shared.part for shared in waiting.values())
        group = {index: shared for index, shared in waiting.items() if shared.part == part}
        results = _compute(model, part, list(group.values()))
        for index, result in zip(group, results, strict=True):
            resume(index, result)
    return [outputs[index] for index in range(len(steps))]


class _Part(IntEnum):
    """What the rows of several states compute together, in the order of a step."""

    GROUPS = 0
    BACKBONE = 1
    TEXT = 2
    EXPAND = 3
    HEAD = 4


@dataclass(frozen=True)
class _Shared:
    """A computation for the rows of one state.

    Attributes:
        inputs: [B, ...] each.
        positions: those it advances.
        choices: of the rows, for the head.
    """

    part: _Part
    inputs: tuple[Tensor, ...]
    positions: Positions | None = None
    choices: Sequence[decoder_kernel.Choice] = ()


def _compute(model: SpeechModel, part: _Part, shared: list[_Shared]) -> Sequence[Any]:
    """Compute the same part for several states in one pass; return the result of each."""
    if part == _Part.HEAD:
        return _next_tokens(model, shared)
    joined = [torch.cat(own) for own in zip(*(x.inputs for x in shared), strict=True)]
    positions = [x.positions for x in shared if x.positions is not None]
    if part == _Part.GROUPS:
        result = model.audio_tower(*joined).last_hidden_state
    elif part == _Part.BACKBONE:
        result = advance_together(positions, *joined)
    elif part == _Part.TEXT:
        result = model.language_model.lm_head(*joined).float()
    else:
        result = model.audio_invert_tower.expand(*joined)
    return result.split([len(x.inputs[0]) for x in shared])


def _next_tokens(
    model: SpeechModel, shared: list[_Shared]
) -> Sequence[tuple[Tensor, Tensor | None]]:
    # A state whose prompt has just run is one token further in its group.
    count = min(x.inputs[0].shape[1] for x in shared)
    return model.audio_invert_tower.next_tokens(
        torch.cat([x.inputs[0][:, :count] for x in shared]),
        torch.cat([x.inputs[1] for x in shared]),
        [x.positions for x in shared if x.positions is not None],
        [x.choices for x in shared],
    )


# A part of a step gives what it wants computed and is sent the result.
_Computing = Generator[_Shared, Any, Any]


def _step(model: SpeechModel, state: DecodingState, options: GenerationOptions) -> _Computing:
    text_config, audio_config = model.config.text_config, model.config.audio_config
    opened = state.last_ids == text_config.audio_bos_index
    state.in_speech = (state.in_speech | opened) & ~state.ended
    if state.step_count:
        yield from _advance_backbone(model, state, options)
    logits: Tensor = yield _Shared(_Part.TEXT, (state.hidden[:, -1],))
    tokens: Tensor | None = None
    speech_logits: Tensor | None = None
    if not options.disable_speech:
        tokens, speech_logits = yield from _head_group(model, state, options)

    logits = logits.to(state.token_ids.device)
    logits[:, state.suppressed] = -torch.inf
    if state.step_count < (options.min_new_tokens or 0):
        logits[:, state.ends] = -torch.inf  # greedy text takes the logits, past all processors
    if options.text_greedy:
        text_ids = logits.argmax(-1)
    else:
        text_ids = choose(_process_text(state, logits), options, state.generator)
    chosen, speaking = text_ids[:, None], state.in_speech.tolist()
    if tokens is not None:
        if speech_logits is not None and any(speaking):
            tokens = _choose_again(state, speech_logits, tokens, speaking, options)
        chosen = torch.cat([chosen, tokens], dim=1)
    chosen = chosen.cpu()  # the only wait for the device

    text_ids, tokens = chosen[:, 0], chosen[:, 1:]
    if state.step_count == 0 and options.force_text_abos:
        text_ids = torch.full_like(text_ids, text_config.audio_bos_index)
    text_ids = text_ids.masked_fill(state.ended, options.pad_token_id)
    appended = text_ids
    groups: list[Tensor | None] = [None] * len(text_ids)
    if not options.disable_speech:
        state.has_group = state.in_speech
        finishing = (tokens == audio_config.eos_token_id).any(1) & state.in_speech
        tokens = tokens.masked_fill(finishing[:, None], audio_config.eos_token_id)
        appended = appended.masked_fill(finishing, text_config.audio_eos_index)
        kept = tokens.to(state.token_ids.device)
        for row, on in enumerate(speaking):
            if on:
                groups[row] = tokens[row]
                state.speech[row] = torch.cat([state.speech[row], kept[row]])
        state.in_speech = state.in_speech & ~finishing
    state.ended = state.ended | torch.isin(text_ids, text_ids.new_tensor(options.eos_token_ids))
    state.last_ids = appended
    appended = appended[:, None].to(state.token_ids.device)
    state.token_ids = torch.cat([state.token_ids, appended], dim=1)
    if state.mask is not None:
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(state.mask), 1)], dim=1)
    state.step_count += 1
    return StepOutput(text_ids=text_ids, groups=groups)


def _advance_backbone(
    model: SpeechModel, state: DecodingState, options: GenerationOptions
) -> _Computing:
    """Feed the last text id, averaged with the last group where a row is in speech (rule 40)."""
    embeds = model.get_input_embeddings()(state.token_ids[:, -1:])
    inputs = embeds
    if not options.disable_speech:
        speaking = state.in_speech & state.has_group
        flags = speaking.tolist()
        if any(flags):
            group = model.config.audio_config.group_size
            blank = state.token_ids.new_zeros(group)
            last = torch.stack(
                [
                    tokens[-group:] if on else blank
                    for tokens, on in zip(state.speech, flags, strict=True)
                ]
            )
            vectors = (yield _Shared(_Part.GROUPS, (last,))).to(embeds.device)
            inputs = (embeds + vectors) / 2
            if not all(flags):
                inputs = torch.where(speaking.to(embeds.device)[:, None, None], inputs, embeds)
    hidden = yield _Shared(_Part.BACKBONE, (inputs[:, 0],), state.positions)
    state.hidden, state.text_embeds = hidden[:, None], embeds


def _head_group(model: SpeechModel, state: DecodingState, options: GenerationOptions) -> _Computing:
    """Choose a group [B, G], one cached pass per speech token (rules 42-45, 47).

    Also returns the raw logits [B, G, C] if the group is to be chosen once more from them.
    """
    audio = model.config.audio_config
    if state.head is None:
        run_blocks(read_prompt_by_head(model, state))
    at = state.head
    assert at is not None
    # A device map may have put the head elsewhere; tokens are chosen on the text's device.
    coarse = state.hidden[:, -1:] + state.text_embeds[:, -1:].to(state.hidden.device)
    fine = yield _Shared(_Part.EXPAND, (coarse,))
    shape = audio.group_size, audio.codebook_size
    choices = SpeechChoices(options, state.speech_processors, state.speech, state.generator, shape)
    while (done := choices.count) < audio.group_size:
        if at.logits is not None:
            tokens, logits, at.logits = at.last_tokens.new_empty(len(fine), 0), at.logits, None
        else:
            inputs = (fine[:, done:], at.last_tokens)
            tokens, logits = yield _Shared(_Part.HEAD, inputs, at.positions, choices.for_kernel())
        choices.add(tokens)
        if logits is not None:
            choices.choose(logits.to(state.token_ids.device))
        at.last_tokens = choices.tokens[:, -1]
    again = None if options.only_crq_sampling else torch.stack(choices.logits, dim=1)
    return choices.tokens, again


@torch.no_grad()
def read_prompt_by_head(model: SpeechModel, state: DecodingState) -> Blocks[None]:
    """Run the refined head over the prompt, in blocks; else the first spoken step does it."""
    group = model.config.audio_config.group_size
    mask = positions = None
    if state.mask is not None:
        mask = state.mask.repeat_interleave(group, dim=1)
        positions = _positions(mask)
    start = state.token_ids.new_full(
        (len(state.token_ids),), model.config.audio_config.bos_token_id
    )
    hidden = state.hidden + state.text_embeds.to(state.hidden.device)
    logits, found = yield from model.audio_invert_tower.prompt(
        hidden, start, mask, positions, state.head_prefix
    )
    state.head = SpeechHeadState(found, start, logits)


def _choose_again(
    state: DecodingState,
    logits: Tensor,
    groups: Tensor,
    speaking: list[bool],
    options: GenerationOptions,
) -> Tensor:
    """Choose the groups of the rows in speech once more (rule 55).

    The checkpoint's own rule: the flat history is cut into G equal runs, so each position of a
    group sees the speech tokens of another stretch of the reply, not of its own column.

    Args:
        state: the run's state.
        logits: [B, G, C] of the groups.
        groups: [B, G] as the head chose them.
        speaking: per row, whether it is in speech; other rows keep their group.
        options: settings of the run.

    Returns:
        The groups [B, G].
    """
    size, own = groups.shape[1], state.generator
    generators = own if isinstance(own, list) else [own] * len(groups)
    rows = [
        choose(state.speech_processors(history.view(size, -1), raw), options, generator)
        if on
        else kept
        for history, raw, kept, on, generator in zip(
            state.speech, logits, groups, speaking, generators, strict=True
        )
    ]
    return torch.stack(rows)


def _process_text(state: DecodingState, logits: Tensor) -> Tensor:
    """Turn text logits [B, V] into scores [B, V].

    Processors never see padding, or a padded row would differ from its single run.
    """
    if state.mask is None:
        return state.text_processors[0](state.token_ids, logits)
    return torch.cat(
        [
            process(row[kept.bool()][None], one[None])
            for process, row, kept, one in zip(
                state.text_processors, state.token_ids, state.mask, logits, strict=True
            )
        ]
    )


def generate(
    model: SpeechModel,
    inputs: dict[str, Tensor],
    options: GenerationOptions,
    generator: Randomness = None,
    streamer: Any = None,
) -> tuple[Tensor, list[Tensor]]:
    """Decode until every row has ended or ``max_new_tokens`` steps are done.

    Args:
        model: the joint model.
        inputs: the processor's output, as for :func:`prefill`.
        options: settings of the run.
        generator: source of randomness for all rows together, or a list with one for each.
        streamer: its ``put`` gets the prompt [B, L], then per step the text ids [B] and, while
            a row is in speech, the groups [B, G]; ``end`` is called at the end (rule 57).

    Returns:
        Text token ids [B, L + steps] with the prompt, and per row its speech tokens
        [G * groups], the end group included where the row finished its speech.

    Raises:
        FunAudioChatError: see :func:`prefill`.
    """
    state = prefill(model, inputs, options, generator)
    audio = model.config.audio_config
    if streamer is not None:
        streamer.put(state.token_ids.cpu())
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
    return state.token_ids, state.speech


def spoken_tokens(model: SpeechModel, tokens: Tensor) -> Tensor:
    """Return speech tokens [T] without those of start, end and padding, on the CPU."""
    return tokens[tokens < model.config.audio_config.bos_token_id].cpu()


@dataclass
class DueStep:
    """A step that a reply waits for, and what came of it."""

    state: DecodingState
    options: GenerationOptions
    output: StepOutput | Exception | None = None

    def taken(self) -> StepOutput:
        """Return the output of the step, or raise the error that ended it."""
        if isinstance(self.output, Exception):
            raise self.output
        assert self.output is not None
        return self.output


T = TypeVar("T")


class SteppedEvents(Iterator[T], Generic[T]):
    """The events of one reply; iterating takes its steps, unless :func:`next_events` does.

    Args:
        model: the joint model.
        items: events, before each block of the prompt a :class:`PromptBlock`, and before each
            step a :class:`DueStep` that is taken before it continues.

    Attributes:
        due: the step that comes next, None before the first one and after the last.
        reading: whether a block of the prompt comes next.
        ended: whether there are no more events.
    """

    def __init__(self, model: SpeechModel, items: Generator[T | DueStep | PromptBlock]) -> None:
        self.model, self._items = model, items
        self.due: DueStep | None = None
        self.reading = False
        self.ended = False

    def __next__(self) -> T:
        while True:
            if self.due is not None:
                _take([self])
            item = self.resume()
            if not isinstance(item, DueStep | PromptBlock):
                return item

    def resume(self) -> T | DueStep | PromptBlock:
        """Return the next event, or the step or block that comes before there is one."""
        self.due, self.reading = None, False
        try:
            item = next(self._items)
        except BaseException:
            self.ended = True
            raise
        if isinstance(item, DueStep):
            self.due = item
        self.reading = isinstance(item, PromptBlock)
        return item

    def close(self) -> None:
        """Stop generating."""
        self._items.close()


def next_events(replies: Sequence[SteppedEvents[T]]) -> list[list[T] | Exception]:
    """Take the next step of several replies of one model together.

    A reply whose prompt is being read gets one block of it before the others' step, and is in
    that step if the block was the last. One that has not begun is prepared for its first block.

    Returns:
        Of each reply, all events until its following step or block is due or it has ended, or the
        error that ended it.
    """
    found = [_until_due(reply) if reply.due is None else [] for reply in replies]
    _take([reply for reply in replies if reply.due is not None])
    for index, reply in enumerate(replies):
        early = found[index]
        if reply.due is not None and not isinstance(early, Exception):
            later = _until_due(reply)
            found[index] = later if isinstance(later, Exception) else early + later
    return found


def _take(replies: Sequence[SteppedEvents[Any]]) -> None:
    due = [reply.due for reply in replies if reply.due is not None]
    if due:
        outputs = step_together(replies[0].model, [(each.state, each.options) for each in due])
        for each, output in zip(due, outputs, strict=True):
            each.output = output


def _until_due(reply: SteppedEvents[T]) -> list[T] | Exception:
    events: list[T] = []
    try:
        while not isinstance(item := reply.resume(), DueStep | PromptBlock):
            events.append(item)
    except StopIteration:
        pass
    except Exception as error:
        return error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return RuntimeError(repr(error))  # a Rust library's panic, which must not end the others
    return events


def stream(
    model: SpeechModel,
    tokenizer: Any,
    state: DecodingState,
    options: GenerationOptions,
) -> SteppedEvents[TextDelta | SpeechTokens]:
    """Decode one prefilled row, yielding text and speech; leave the loop to cancel.

    See :func:`stream_steps` for arguments, events and errors.
    """
    return SteppedEvents(model, stream_steps(model, tokenizer, state, options))


def stream_steps(
    model: SpeechModel,
    tokenizer: Any,
    state: DecodingState,
    options: GenerationOptions,
) -> Generator[TextDelta | SpeechTokens | DueStep | PromptBlock]:
    """Decode one prefilled row; the caller takes the steps.

    The deltas joined are the text that ``generate`` returns, without special tokens and those
    that steer speech (start, end, silence); the groups joined are its speech tokens.

    Args:
        model: the joint model.
        tokenizer: of the text backbone, a fast one.
        state: one prefilled row; holds the number of steps and whether the row ended afterwards.
        options: settings of the run.

    Yields:
        Each block of the head's prompt and each step when it is due, and the step's text and group
        [G] after it was taken.

    Raises:
        FunAudioChatError: the state holds several rows.
    """
    if len(state.token_ids) != 1:
        raise FunAudioChatError("stream decodes one row; call step for a batch")
    text = model.config.text_config
    silent = {text.audio_bos_index, text.audio_eos_index, text.sil_index}
    said: list[int] = []
    decoder, emitted = DecodeStream(skip_special_tokens=True), 0
    if state.head is None and not options.disable_speech:
        yield from read_prompt_by_head(model, state)
    while state.step_count < options.max_new_tokens and not bool(state.ended.all()):
        due = DueStep(state, options)
        yield due
        out = due.taken()
        token = int(state.last_ids[0])
        if token not in silent:
            said.append(token)
            delta = decoder.step(tokenizer.backend_tokenizer, token)
            if delta:
                emitted += len(delta)
                yield TextDelta(delta)
        if out.groups[0] is not None:
            yield SpeechTokens(out.groups[0], spoken_tokens(model, out.groups[0]))
    # The decoder still holds back a character that never became complete.
    rest = tokenizer.backend_tokenizer.decode(said, skip_special_tokens=True)[emitted:]
    if rest:
        yield TextDelta(rest)
