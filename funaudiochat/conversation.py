# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Conversations: prompts, history, tools, and the high-level :class:`VoiceChat`."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from funaudiochat.audio import load_audio
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.flow import ChunkSchedule
from funaudiochat.cosyvoice3.voices import choose_voice, installed_voices, load_voices
from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError
from funaudiochat.generation_funaudiochat import (
    GenerationOptions,
    SpeechGroup,
    TextPiece,
    stream,
)
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.register import register_funaudiochat
from funaudiochat.tool_calls import (
    CALL_OPENS,
    ToolCall,
    parse_tool_calls,
    result_text,
)
from funaudiochat.turns import (
    Turn,
    call_problems,
    drop_oldest,
    dropped_rounds,
    missing_results,
    recent,
    tool_names,
)
from utils.constant import (
    AUDIO_TEMPLATE,
    DEFAULT_S2M_GEN_KWARGS,
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    FUNCTION_CALLING_PROMPT,
)

_SAMPLE_RATE_HZ = 16000
_GROUPS_PER_SECOND = 5
_SAMPLING_LIMITS = {
    "temperature": 100.0, "top_p": 1.0, "repetition_penalty": 100.0, "max_new_tokens": 1 << 20,
}
SAMPLING_VALUES = ("temperature", "top_p", "top_k", "repetition_penalty")
_ANSWER_SHARE = 4  # of the context: a quarter is kept for the answer while rounds can give way


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen; None leaves a value to the checkpoint or the speech defaults.

    Attributes:
        greedy: arg-max for text and codes.
        text_greedy: arg-max for the text. None is as the checkpoint was trained: yes, but not for
            a text answer with one of ``SAMPLING_VALUES`` given, which has nothing else to act on.
        seed: makes a sampled answer repeatable.

    Raises:
        FunAudioChatError: a value that nothing can be chosen by.
    """

    greedy: bool = False
    text_greedy: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, most in _SAMPLING_LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise FunAudioChatError(f"{name} is {value}; it must be above 0, at most {most}")
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1 << 63:
                raise FunAudioChatError(f"{name} is {value}; it must be from 0 to 2^63 - 1")

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these values that are not left to others."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def takes_best_text(self, speech: bool) -> bool:
        """Whether the text of an answer, spoken or not, is the arg-max."""
        if self.text_greedy is not None:
            return self.text_greedy
        return speech or not self.given(*SAMPLING_VALUES)


def speech_sampling(config: GenerationConfig) -> dict[str, Any]:
    """How codes are chosen if nothing else is asked for.

    These are the reference's values. A folder that was not trained for them names others of
    ``SAMPLING_VALUES`` as ``speech_sampling`` in its ``generation_config.json``.

    Raises:
        CheckpointError: the folder's values are not such.
    """
    own = getattr(config, "speech_sampling", None) or {}
    try:
        if unknown := set(own) - set(SAMPLING_VALUES):
            raise FunAudioChatError(f"{sorted(unknown)} is none of {', '.join(SAMPLING_VALUES)}")
        Sampling(**own)
    except (TypeError, FunAudioChatError) as error:
        raise CheckpointError(
            f"speech_sampling in generation_config.json is wrong ({error}); mend or remove it"
        ) from error
    return {**DEFAULT_S2M_GEN_KWARGS, **own}


@dataclass
class Timings:
    """Seconds from the question's arrival; None for what never came."""

    first_text_s: float | None = None
    first_sound_s: float | None = None
    total_s: float = 0.0


@dataclass
class Reply:
    """An answer.

    Attributes:
        text: whole text, ``<tool_call>`` blocks included.
        codes: [T] speech codes at 25 Hz, start and end codes left out.
        wave: float32 [samples], None without speech or detokenizer.
        sample_rate_hz: of the wave.
        tool_calls: well-formed calls in the text.
        problems: which calls are malformed or of a tool that was not offered, and how many rounds a
            full context dropped.
        timings: when things happened.
    """

    text: str
    codes: Tensor
    wave: np.ndarray | None
    sample_rate_hz: int
    tool_calls: list[ToolCall]
    problems: list[str]
    timings: Timings

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return 0.0 if self.wave is None else len(self.wave) / self.sample_rate_hz


@dataclass(frozen=True)
class Sound:
    """Samples [S], float32, of a running answer."""

    samples: np.ndarray


@dataclass(frozen=True)
class Finished:
    """The last event of a stream."""

    reply: Reply


Event = TextPiece | SpeechGroup | Sound | Finished


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first of CUDA, MPS and CPU that is there.

    Raises:
        FunAudioChatError: no such device, or not on this machine.
    """
    if device == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FunAudioChatError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); take auto, cpu, "
            "cuda, cuda:N or mps; `funaudiochat doctor` lists what there is"
        ) from error
    return place


class Conversation:
    """Turns, history and tools of one talk; who answers is a subclass's matter.

    Args:
        system: system prompt; None for the one the checkpoint was trained with.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._history: list[Turn] = []
        self._tools: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget the conversation."""
        self._history, self._tools = [], []

    def ask(
        self,
        audio_or_text: Any,
        instruction: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> Reply:
        """Ask and wait for the whole answer, its sound computed at once as the original does.

        See :meth:`stream` for arguments and errors.
        """
        return self._whole(
            self.stream(audio_or_text, instruction, tools, speech, sampling, None)
        )

    def stream(
        self,
        audio_or_text: Any,
        instruction: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """Ask and take the answer as it is made; leave the loop to interrupt it.

        The history always holds what was given so far, so an answer that is interrupted or
        fails stays in it to that point, and a question that nothing was given for does not.
        Calls of the answer before that got no result are told to the model as failed.

        Args:
            audio_or_text: a text, or a sound as :func:`funaudiochat.audio.load_audio` takes it:
                a ``Path``, bytes, a binary file, or (samples, rate). A path must be a ``Path``:
                a plain string is text.
            instruction: text that goes with a sound.
            tools: function definitions the model may call; such an answer is text.
            speech: speak the answer.
            schedule: chunks of the streamed sound; None computes it at the end, at once.

        Yields:
            TextPiece, SpeechGroup, Sound as they come, then Finished.

        Raises:
            AudioError: the sound cannot be used, or the conversation exceeds the context.
        """
        results = missing_results(self._history)
        if isinstance(audio_or_text, str):
            content = audio_or_text if instruction is None else f"{audio_or_text}\n{instruction}"
            turn = Turn("user", content, results=results)
        else:
            wave = load_audio(audio_or_text, _SAMPLE_RATE_HZ, max_seconds=self._max_seconds())
            turn = Turn("user", instruction or "", wave, results)
        return self._answer(turn, tools or [], speech and not tools, sampling, schedule)

    def tool_result(
        self, result: Any, speech: bool = True, sampling: Sampling = Sampling()  # noqa: B008
    ) -> Reply:
        """Give the result of the call the model asked for -> its answer.

        What kept a call from being run is a result too: give ``{"error": ...}``.
        """
        return self._whole(self.stream_tool_result(result, speech, sampling, None))

    def stream_tool_result(
        self,
        result: Any,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """:meth:`tool_result` as it is made; events and arguments are those of :meth:`stream`."""
        turn = Turn("user", results=(result_text(result),))
        return self._answer(turn, self._tools, speech, sampling, schedule)

    def branch(self) -> Self:
        """A conversation that goes on from here and leaves this one as it is; models are shared."""
        return copy.copy(self)

    def correct_answer(self, heard: str) -> None:
        """Replace the last answer in the history by what of it was heard."""
        if self._history:
            self._history = [*self._history[:-1], Turn("assistant", heard)]

    def _max_seconds(self) -> float | None:
        """Longest sound that can be asked with."""
        raise NotImplementedError

    def _answer(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> Iterator[Event]:
        """Answer a turn after those of the history, and remember both."""
        raise NotImplementedError

    def _whole(self, events: Iterator[Event]) -> Reply:
        """Take an answer to its end; where that fails nothing was given, so nothing was said."""
        before = self._history, self._tools
        try:
            return _last_reply(events)
        except BaseException:
            self._history, self._tools = before
            raise

    def _system(self, tools: list[dict[str, Any]], speech: bool) -> Turn:
        if tools and not speech:
            definitions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            prompt = FUNCTION_CALLING_PROMPT.replace("{tools_definition}", definitions)
        else:
            prompt = self.system or (DEFAULT_S2M_PROMPT if speech else DEFAULT_S2T_PROMPT)
        return Turn("system", prompt)

    def _recorder(
        self, history: list[Turn], turn: Turn, tools: list[dict[str, Any]], speech: bool
    ) -> Callable[[str], Turn]:
        """Return a function that remembers the turn with its answer so far, after a history.

        It gives the answer's turn, and remembers nothing once the conversation was reset or asked
        something else.
        """
        last, offered = self._history, frozenset() if speech else tool_names(tools)

        def remember(answer: str) -> Turn:
            nonlocal last
            said = Turn("assistant", answer, offered=offered)
            if self._history is last:
                last = self._history = recent([*history, turn, said])
                self._tools = tools
            return said

        return remember


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
        if turn.wave is None:
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
        waves = [t.wave for t in turns if t.wave is not None]
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
        began, timings = time.monotonic(), Timings()
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
        for event in stream(self.model, self.processor.tokenizer, inputs, options, generator):
            if isinstance(event, TextPiece):
                text += event.text
                timings.first_text_s = timings.first_text_s or time.monotonic() - began
                remember(text)
                yield event
                continue
            spoken = self.spoken(event.codes)
            codes.append(spoken)
            remember(text)
            yield event
            if voice is not None:
                samples = voice.push(spoken).numpy()
                if len(samples):
                    timings.first_sound_s = timings.first_sound_s or time.monotonic() - began
                    waves.append(samples)
                    yield Sound(samples)
        if voice is not None:
            samples = voice.finish().numpy()
            waves.append(samples)
            if len(samples):
                timings.first_sound_s = timings.first_sound_s or time.monotonic() - began
                yield Sound(samples)
        said = remember(text)
        timings.total_s = time.monotonic() - began
        yield Finished(
            Reply(
                text=text,
                codes=torch.cat(codes) if codes else torch.empty(0, dtype=torch.long),
                wave=np.concatenate(waves) if voice is not None else None,
                sample_rate_hz=0 if self.detokenizer is None else self.detokenizer.sample_rate_hz,
                tool_calls=parse_tool_calls(text)[0],
                problems=call_problems(said) + dropped_rounds(kept, before),
                timings=timings,
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


def _last_reply(events: Iterator[Event]) -> Reply:
    for event in events:
        if isinstance(event, Finished):
            return event.reply
    raise AssertionError("a stream ends with Finished")
