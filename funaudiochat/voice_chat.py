# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The high-level interface: a conversation with a model loaded in this process."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funaudiochat.constants import (
    AUDIO_TEMPLATE,
)
from funaudiochat.conversation import Conversation
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.flow import ChunkSchedule
from funaudiochat.cosyvoice3.voices import choose_voice, installed_voices, load_voices
from funaudiochat.device import resolve_device
from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError
from funaudiochat.events import AudioChunk, Event, Latency, Reply, ReplyDone, TextDelta, Usage
from funaudiochat.generation_funaudiochat import prefill, stream
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.register import register_funaudiochat
from funaudiochat.sampling import SAMPLING_VALUES, Sampling, StopTexts, speech_sampling
from funaudiochat.tool_calls import (
    CALL_OPENS,
    parse_tool_calls,
)
from funaudiochat.turns import (
    Turn,
    call_problems,
    drop_oldest,
    dropped_rounds,
    recent,
)

_SAMPLE_RATE_HZ = 16000
_GROUPS_PER_SECOND = 5
_ANSWER_SHARE = 4  # of the context: a quarter is kept for the answer while rounds can give way


class VoiceChat(Conversation):
    """One conversation: ask by voice or text, hear or read the answer.

    Args:
        model, processor: of one checkpoint folder.
        detokenizer: turns codes into sound; without it speech is returned as codes.
        speaker: [192] voice of the answers.
        system: system prompt; None for the one the checkpoint was trained with.
    """

    def __init__(
        self,
        model: FunAudioChatForConditionalGeneration,
        processor: FunAudioChatProcessor,
        detokenizer: CosyVoice3Detokenizer | None = None,
        speaker: Tensor | None = None,
        system: str | None = None,
    ) -> None:
        super().__init__(system)
        self.model, self.processor = model, processor
        self.detokenizer, self.speaker = detokenizer, speaker

    @classmethod
    def from_pretrained(
        cls,
        model_path: str | Path,
        tts_path: str | Path | None = None,
        device: str = "auto",
        dtype: str | torch.dtype | None = None,
        voice: str | None = None,
        tts_device: str | None = None,
        voices_file: str | Path | None = None,
        system: str | None = None,
        **model_options: Any,
    ) -> VoiceChat:
        """Load the folders of the language model and, for spoken answers, the detokenizer.

        Args:
            device: "auto", "cpu", "cuda", "cuda:1", "mps", of the language model.
            dtype: "auto", as without it, is the checkpoint's own on a GPU and float32 on a CPU;
                ``torch_dtype`` is its older name.
            voice: name in the voice file.
            tts_device: of the detokenizer, ``device`` if None.
            model_options: for the language model's own ``from_pretrained``:
                ``attn_implementation``, ``quantization_config``, ``device_map`` (the model then
                stays where that puts it).

        Raises:
            CheckpointError, VoiceError: a folder or voice cannot be used; says what to do.
        """
        register_funaudiochat()  # or the tokenizers' loader warns of an unknown config
        place = resolve_device(device)
        older = model_options.pop("torch_dtype", None)
        if dtype is not None and older is not None and dtype != older:
            raise FunAudioChatError(f"dtype is {dtype} and torch_dtype {older}; give one of them")
        dtype = dtype or older or "auto"
        if dtype == "auto" and place.type == "cpu":
            dtype = torch.float32
        model = FunAudioChatForConditionalGeneration.from_pretrained(
            model_path, dtype=dtype, **model_options
        ).eval()
        if "device_map" not in model_options:
            model = model.to(place)
        processor = FunAudioChatProcessor.from_pretrained(model_path)
        detokenizer = speaker = None
        if tts_path is not None:
            detokenizer = CosyVoice3Detokenizer.from_pretrained(
                tts_path, place if tts_device is None else resolve_device(tts_device)
            )
            voices = load_voices(voices_file) if voices_file else installed_voices(tts_path)
            speaker = choose_voice(voices, voice)
        _check_fit(model, processor, detokenizer)
        return cls(model, processor, detokenizer, speaker, system)

    def spoken(self, codes: Tensor) -> Tensor:
        """Codes [T] of a group without those of start, end and padding, which are no sound."""
        return codes[codes < self.model.config.audio_config.bos_token_id].cpu()

    def _max_seconds(self) -> float:
        return self.model.config.text_config.max_position_embeddings / _GROUPS_PER_SECOND

    def _fit(
        self, system: Turn, history: list[Turn], turn: Turn
    ) -> tuple[dict[str, Tensor], list[Turn]]:
        """Build the model's inputs -> these, and the history without the rounds that gave way.

        Raises:
            AudioError, FunAudioChatError: the question alone exceeds the context.
        """
        limit = self.model.config.text_config.max_position_embeddings
        while True:
            inputs = self._inputs([system, *history, turn])
            length = inputs["input_ids"].shape[1]
            if length < (limit - limit // _ANSWER_SHARE if history else limit):
                return inputs, history
            if not history:
                raise self._too_long(turn, length, limit)
            history = drop_oldest(history)

    def _too_long(self, turn: Turn, length: int, limit: int) -> FunAudioChatError:
        if turn.audio is None:
            return FunAudioChatError(
                f"the text needs {length} positions and the model has {limit}: ask with a "
                "shorter text, system prompt or tool list"
            )
        return AudioError(
            f"the question needs {length} positions and the model has {limit}, "
            f"{_GROUPS_PER_SECOND} for every second of sound: ask with less than "
            f"{self._max_seconds():.0f} s"
        )

    def _inputs(self, turns: list[Turn]) -> dict[str, Tensor]:
        """Build the model's inputs of a prompt, on its device."""
        messages = []
        for turn in turns:
            for words, wave in turn.messages(self.processor.tokenizer):
                if wave is not None:
                    words = f"{AUDIO_TEMPLATE}\n{words}" if words else AUDIO_TEMPLATE
                messages.append({"role": turn.role, "content": words})
        text = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        waves = [t.audio for t in turns if t.audio is not None]
        inputs = self.processor(text=text, audio=waves, return_tensors="pt")
        return dict(inputs.to(self.model.device))

    def _options(
        self, prompt: int, speech: bool, sampling: Sampling, calls: bool = False
    ) -> GenerationOptions:
        tokenizer = self.processor.tokenizer
        settings = copy.deepcopy(self.model.generation_config)
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        if speech:
            settings.update(**speech_sampling(settings))
            settings.update(max_new_tokens=2048)
            settings.update(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
            # Sampled text must not open speech and be silent at once (rule 62).
            text = self.model.config.text_config
            pair = [text.audio_bos_index, text.sil_index]
            settings.update(bad_words_ids=[*(settings.bad_words_ids or ()), pair])
        elif settings.eos_token_id is None:
            settings.update(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
        settings.update(**sampling.given(*SAMPLING_VALUES, "max_new_tokens"))
        text_greedy = sampling.takes_best_text(speech)
        if sampling.greedy:
            settings.update(do_sample=False)
        elif not text_greedy:
            settings.update(do_sample=True)
        options = GenerationOptions.from_config(
            settings,
            prompt,
            text_greedy=text_greedy,
            disable_speech=not speech,
            force_text_abos=speech,
        )
        if not calls:
            options = replace(options, suppressed_ids=tool_call_ids(tokenizer))
        room = self.model.config.text_config.max_position_embeddings - prompt
        return replace(options, max_new_tokens=min(options.max_new_tokens, room))

    def _answer(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> Iterator[Event]:
        began, timings = time.monotonic(), Latency()
        before = recent(self._history)
        inputs, kept = self._fit(self._system(tools, speech), before, turn)
        remember = self._recorder(kept, turn, tools, speech)
        calls = bool(tools) and not speech
        options = self._options(inputs["input_ids"].shape[1], speech, sampling, calls)
        generator = None
        if sampling.seed is not None:
            generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
        voice = None
        if speech and self.detokenizer is not None:
            if self.speaker is None:
                raise FunAudioChatError("a detokenizer needs a speaker vector; give speaker=")
            voice = self.detokenizer.stream(self.speaker, schedule)
        text, codes, waves = "", [], []
        stops = StopTexts(sampling.stop)
        state = prefill(self.model, inputs, options, generator)
        for event in stream(self.model, self.processor.tokenizer, state, options):
            if isinstance(event, TextDelta):
                given = stops.push(event.text)
                if given:
                    text += given
                    timings.first_text_s = timings.first_text_s or time.monotonic() - began
                    remember(text)
                    yield TextDelta(given)
                if stops.found:
                    break
                continue
            spoken = self.spoken(event.tokens)
            codes.append(spoken)
            remember(text)
            yield event
            if voice is not None:
                samples = voice.push(spoken).numpy()
                if len(samples):
                    timings.first_audio_s = timings.first_audio_s or time.monotonic() - began
                    waves.append(samples)
                    yield AudioChunk(samples)
        if rest := stops.push("", last=True):
            text += rest
            yield TextDelta(rest)
        if voice is not None:
            samples = voice.finish().numpy()
            waves.append(samples)
            if len(samples):
                timings.first_audio_s = timings.first_audio_s or time.monotonic() - began
                yield AudioChunk(samples)
        said = remember(text)
        timings.total_s = time.monotonic() - began
        yield ReplyDone(
            Reply(
                text=text,
                speech_tokens=torch.cat(codes) if codes else torch.empty(0, dtype=torch.long),
                audio=np.concatenate(waves) if voice is not None else None,
                sample_rate_hz=0 if self.detokenizer is None else self.detokenizer.sample_rate_hz,
                tool_calls=parse_tool_calls(text)[0],
                problems=call_problems(said) + dropped_rounds(kept, before),
                latency=timings,
                usage=Usage(inputs["input_ids"].shape[1], state.step_count),
                finish_reason="stop" if stops.found or bool(state.ended.all()) else "length",
            )
        )


def tool_call_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the id that opens a tool call, where the tokenizer has one for it."""
    id_ = tokenizer.get_added_vocab().get(CALL_OPENS)
    return () if id_ is None else (id_,)


def _check_fit(
    model: FunAudioChatForConditionalGeneration,
    processor: FunAudioChatProcessor,
    detokenizer: CosyVoice3Detokenizer | None,
) -> None:
    """Raise CheckpointError for parts of different checkpoints, or wrong speech sampling."""
    speech_sampling(model.generation_config)
    audio = model.config.audio_config
    for what, said, wanted in (
        ("codes in a group", processor.audio_group_size, audio.group_size),
        ("mel bins", processor.feature_extractor.feature_size, audio.num_mel_bins),
        (
            f"as id of {processor.audio_token}",
            processor.tokenizer.convert_tokens_to_ids(processor.audio_token),
            model.config.audio_token_index,
        ),
    ):
        if said != wanted:
            raise CheckpointError(
                f"the processor's files say {said} {what}, config.json says {wanted}; take all "
                "files from one checkpoint"
            )
    if detokenizer is not None and audio.bos_token_id > detokenizer.flow.config.vocab_size:
        raise CheckpointError(
            f"the model speaks {audio.bos_token_id} codes and the detokenizer knows "
            f"{detokenizer.flow.config.vocab_size}; name the one made for it with --tts-path"
        )
