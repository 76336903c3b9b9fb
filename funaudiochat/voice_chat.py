# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The high-level interface: a conversation with a model loaded in this process."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from funaudiochat.compact_weights import check_weights, compact, gpu_quantization
from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.constants import MAX_NEW_TOKENS, STEPS_PER_SECOND
from funaudiochat.conversation import Conversation
from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.voices import choose_voice, installed_voices, load_voices
from funaudiochat.device import resolve_device
from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError
from funaudiochat.events import (
    AudioChunk,
    Event,
    Latency,
    Reply,
    ReplyDone,
    SpeechTokens,
    TextDelta,
    Usage,
)
from funaudiochat.generation_funaudiochat import (
    DecodingState,
    DueStep,
    ReadPrompt,
    SteppedEvents,
    read_prompt,
    stream_steps,
)
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.hub import resolve_pair
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.prompt_blocks import PromptBlock
from funaudiochat.register import register_funaudiochat
from funaudiochat.sampling import (
    SAMPLING_VALUES,
    Sampling,
    StopTexts,
    speech_sampling,
)
from funaudiochat.tool_calls import CALL_OPENS, parse_tool_calls
from funaudiochat.turns import (
    Turn,
    call_problems,
    drop_oldest,
    dropped_rounds,
    recent,
    render_prompt,
)

_REPLY_SHARE = 4  # a quarter of the context is kept for the reply as long as rounds can be dropped


class VoiceChat(Conversation):
    """Hold one conversation with a model in this process, by voice or text.

    Args:
        model: the language model.
        processor: of the same checkpoint folder.
        detokenizer: turns speech tokens into audio; without it replies hold the tokens only.
        speaker: [192], the voice of the replies.
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
        # The newest prompt of written and of spoken replies. Branches share it, and a reply takes
        # it out while it runs, so that no two write to the same positions.
        self._read_prompts: dict[bool, ReadPrompt] = {}

    @classmethod
    def from_pretrained(
        cls,
        model_path: str | Path | None = None,
        tts_path: str | Path | None = None,
        device: str = "auto",
        dtype: str | torch.dtype | None = None,
        voice: str | None = None,
        tts_device: str | None = None,
        voices_file: str | Path | None = None,
        system: str | None = None,
        weights: str | None = None,
        **model_options: Any,
    ) -> VoiceChat:
        """Load a language model and, for spoken replies, a detokenizer.

        Without arguments the default pair is loaded: the folders that the environment variables
        FUNAUDIOCHAT_MODEL and FUNAUDIOCHAT_TTS name, else the downloaded official ones, else Nano.

        Args:
            model_path: folder of the language model; None for the default pair.
            tts_path: folder of the detokenizer. With ``model_path`` and without this, replies hold
                speech tokens but no audio.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps", for the language model.
            dtype: of the language model. "auto" and None stand for the checkpoint's own dtype on a
                GPU and float32 on a CPU. ``torch_dtype`` is the older name.
            voice: name of a voice; None for the default one.
            tts_device: device of the detokenizer; None for ``device``.
            voices_file: file of voices; None for those installed with the detokenizer.
            system: system prompt; None for the one the checkpoint was trained with.
            weights: how the weights that every step of decoding reads are stored; None for
                ``dtype``. On a CPU "fp32", "bf16" or "int8" (one scale a row), for arithmetic in
                float32; the latter two are for models that are neither trained nor saved. On a
                CUDA GPU "int8" or "int4", for the layers of the backbone alone (bitsandbytes).
            model_options: passed to the language model's own ``from_pretrained``:
                ``attn_implementation``, ``quantization_config``, ``device_map`` (the model then
                stays on the devices that it names).

        Raises:
            CheckpointError: a folder cannot be used; the message says what to do.
            VoiceError: there is no such voice.
            FunAudioChatError: there is no such device, or it or another option excludes
                ``weights``.
        """
        if model_path is None:
            model_path, tts_path = resolve_pair(None, tts_path)
        register_funaudiochat()  # or the tokenizers' loader warns of an unknown config
        model_device = resolve_device(device)
        older = model_options.pop("torch_dtype", None)
        if dtype is not None and older is not None and dtype != older:
            raise FunAudioChatError(f"dtype is {dtype} and torch_dtype {older}; give one of them")
        dtype = dtype or older or "auto"
        config = FunAudioChatConfig.from_pretrained(model_path)
        asked = {} if dtype == "auto" else {"dtype": dtype}
        check_weights(weights, model_device, config, asked | model_options)
        stored = weights in ("bf16", "int8") and model_device.type == "cpu"
        if weights in ("int8", "int4") and not stored:
            dtype = torch.bfloat16 if dtype == "auto" else dtype
            model_options["quantization_config"] = gpu_quantization(weights, dtype)
            model_options["device_map"] = {"": model_device}
        elif stored:
            dtype = "auto"  # each layer is stored as it is read, without a copy in float32
        elif weights == "fp32" or (dtype == "auto" and model_device.type == "cpu"):
            dtype = torch.float32
        model = FunAudioChatForConditionalGeneration.from_pretrained(
            model_path, dtype=dtype, **model_options
        ).eval()
        if weights is not None and stored:
            compact(model, weights)
            model = model.float()
        if "device_map" not in model_options:
            model = model.to(model_device)
        processor = FunAudioChatProcessor.from_pretrained(model_path)
        detokenizer = speaker = None
        if tts_path is not None:
            detokenizer = CosyVoice3Detokenizer.from_pretrained(
                tts_path, model_device if tts_device is None else resolve_device(tts_device)
            )
            voices = load_voices(voices_file) if voices_file else installed_voices(tts_path)
            speaker = choose_voice(voices, voice)
        _check_fit(model, processor, detokenizer)
        return cls(model, processor, detokenizer, speaker, system)

    def _max_seconds(self) -> float:
        return self.model.config.text_config.max_position_embeddings / STEPS_PER_SECOND

    def _fit(
        self, system: Turn, history: list[Turn], turn: Turn
    ) -> tuple[dict[str, Tensor], list[Turn]]:
        """Return the model's inputs, and the history without the rounds dropped to make room.

        Raises:
            AudioError: the audio of the question alone exceeds the context.
            FunAudioChatError: its text alone exceeds the context.
        """
        limit = self.model.config.text_config.max_position_embeddings
        while True:
            inputs = self.prepare([[system, *history, turn]])
            length = inputs["input_ids"].shape[1]
            if length < (limit - limit // _REPLY_SHARE if history else limit):
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
            f"{STEPS_PER_SECOND} for every second of audio: ask with less than "
            f"{self._max_seconds():.0f} s"
        )

    def prepare(self, conversations: Sequence[Sequence[Turn]]) -> dict[str, Tensor]:
        """Build the model's inputs for a batch of conversations, padded on the left, on its device.

        Each conversation begins with its system turn and ends with the user's.
        """
        inputs = self.processor(
            text=[render_prompt(self.processor, turns) for turns in conversations],
            audio=[t.audio for turns in conversations for t in turns if t.audio is not None],
            return_tensors="pt",
            padding_side="left",
        )
        return dict(inputs.to(self.model.device))

    def generation_options(
        self, prompt_length: int, speech: bool, sampling: Sampling, offers_tools: bool = False
    ) -> GenerationOptions:
        """Return how a reply is decoded: the checkpoint's settings, changed by the caller's.

        Args:
            prompt_length: positions of the prompt; the reply gets what is left of the context.
            speech: whether the reply is spoken.
            sampling: the caller's.
            offers_tools: whether the reply may open a tool call.
        """
        tokenizer = self.processor.tokenizer
        settings = copy.deepcopy(self.model.generation_config)
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        if speech:
            settings.update(**speech_sampling(settings))
            settings.update(max_new_tokens=MAX_NEW_TOKENS)
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
            prompt_length,
            text_greedy=text_greedy,
            disable_speech=not speech,
            force_text_abos=speech,
        )
        if not offers_tools:
            options = replace(options, suppressed_ids=_tool_call_ids(tokenizer))
        room = self.model.config.text_config.max_position_embeddings - prompt_length
        return replace(options, max_new_tokens=min(options.max_new_tokens, room))

    def _answer(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> SteppedEvents[Event]:
        return SteppedEvents(self.model, self._steps(turn, tools, speech, sampling, schedule))

    def _steps(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> Generator[Event | DueStep | PromptBlock]:
        """Yield the events of a reply, and each block and step of the model when it is due."""
        began, latency = time.monotonic(), Latency()
        before = recent(self._history)
        inputs, kept = self._fit(self._system(tools, speech), before, turn)
        remember = self._recorder(kept, turn, tools, speech)
        self.prompt_steps = inputs["input_ids"].shape[1]
        options = self.generation_options(
            self.prompt_steps, speech, sampling, bool(tools) and not speech
        )
        generator = None
        if sampling.seed is not None:
            generator = torch.Generator(self.model.device).manual_seed(sampling.seed)
        voice = None
        if speech and self.detokenizer is not None:
            if self.speaker is None:
                raise FunAudioChatError("a detokenizer needs a speaker vector; give speaker=")
            voice = self.detokenizer.stream(self.speaker, schedule)
        text, tokens, chunks = "", [], []
        stops = StopTexts(sampling.stop)
        asked = (self._system(tools, speech), *kept, turn)
        audios = [each.audio for each in asked if each.audio is not None]
        read = self._read_prompts.pop(speech, None)
        state = yield from read_prompt(self.model, inputs, options, generator, read, audios)
        for event in self._decode(state, options, audios, speech):
            if isinstance(event, DueStep | PromptBlock):
                yield event
                continue
            if isinstance(event, TextDelta):
                given = stops.push(event.text)
                if given:
                    text += given
                    latency.first_text_s = latency.first_text_s or time.monotonic() - began
                    remember(text)
                    yield TextDelta(given)
                if stops.found:
                    break
                continue
            tokens.append(event.spoken)
            remember(text)
            yield event
            if voice is not None:
                samples = voice.push(event.spoken).numpy()
                if len(samples):
                    latency.first_audio_s = latency.first_audio_s or time.monotonic() - began
                    chunks.append(samples)
                    yield AudioChunk(samples)
        if rest := stops.push("", last=True):
            text += rest
            yield TextDelta(rest)
        if voice is not None:
            samples = voice.finish().numpy()
            chunks.append(samples)
            if len(samples):
                latency.first_audio_s = latency.first_audio_s or time.monotonic() - began
                yield AudioChunk(samples)
        said = remember(text)
        latency.total_s = time.monotonic() - began
        yield ReplyDone(
            Reply(
                text=text,
                speech_tokens=torch.cat(tokens) if tokens else torch.empty(0, dtype=torch.long),
                audio=np.concatenate(chunks) if voice is not None else None,
                sample_rate_hz=0 if self.detokenizer is None else self.detokenizer.sample_rate_hz,
                tool_calls=parse_tool_calls(text)[0],
                problems=call_problems(said) + dropped_rounds(kept, before),
                latency=latency,
                usage=Usage(self.prompt_steps, state.step_count),
                finish_reason="stop" if stops.found or bool(state.ended.all()) else "length",
            )
        )

    def _decode(
        self, state: DecodingState, options: GenerationOptions, audios: list[Any], speech: bool
    ) -> Generator[TextDelta | SpeechTokens | DueStep | PromptBlock]:
        """Decode a prompt that was read; keep what was read of it, also if the reply is left."""
        prompt = state.token_ids[0]
        try:
            yield from stream_steps(self.model, self.processor.tokenizer, state, options)
        finally:
            head = None if state.head is None else state.head.positions
            self._read_prompts[speech] = ReadPrompt(prompt, audios, state.positions, head)


def _tool_call_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the id of ``<tool_call>``, none if the tokenizer has no token for it."""
    id_ = tokenizer.get_added_vocab().get(CALL_OPENS)
    return () if id_ is None else (id_,)


def _check_fit(
    model: FunAudioChatForConditionalGeneration,
    processor: FunAudioChatProcessor,
    detokenizer: CosyVoice3Detokenizer | None,
) -> None:
    """Raise CheckpointError for parts of different checkpoints or invalid sampling defaults."""
    speech_sampling(model.generation_config)
    audio = model.config.audio_config
    for what, said, wanted in (
        ("speech tokens per group", processor.audio_group_size, audio.group_size),
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
                "files from the same checkpoint"
            )
    if detokenizer is not None and audio.bos_token_id > detokenizer.flow.config.vocab_size:
        raise CheckpointError(
            f"the model speaks {audio.bos_token_id} speech tokens and the detokenizer knows "
            f"{detokenizer.flow.config.vocab_size}; name the one made for it with --tts-path"
        )
