# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Where answers come from: a model in this process, or a server with OpenAI's interface.

Both take prompts and give one :class:`Produced` or one reason of failure for each, in order.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import torch

from evaluate.records import fingerprint
from funaudiochat.audio import load_audio
from funaudiochat.conversation import SAMPLING_VALUES, VoiceChat, speech_sampling
from funaudiochat.errors import FunAudioChatError
from funaudiochat.generation_funaudiochat import GenerationOptions, generate
from funaudiochat.llm_server import (
    api_address,
    greedy_fields,
    longest_sound_s,
    served_model,
    sound_part,
)
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from utils.constant import AUDIO_TEMPLATE

QUESTION_RATE_HZ = 16_000


@dataclass(frozen=True)
class Prompt:
    """One question to a model; ``wave`` is mono float32 [S] at 16 kHz."""

    system: str
    instruction: str | None
    wave: np.ndarray | None
    speech: bool
    seed: int

    @property
    def user(self) -> str:
        """The user's turn, with the slot of the sound."""
        if self.instruction is None:
            return AUDIO_TEMPLATE
        return f"{AUDIO_TEMPLATE}\n{self.instruction}"


@dataclass(frozen=True)
class Produced:
    """One answer; ``wave`` is mono float32 [S], None without speech."""

    text: str
    raw_text: str
    wave: np.ndarray | None = None
    rate_hz: int = 0
    text_tokens: int | None = None
    speech_codes: int | None = None


class Source(Protocol):
    """Answers prompts.

    Attributes:
        description: by what; part of the settings' hash.
        speech_description: what spoken answers depend on beside, part of theirs only.
    """

    description: dict[str, Any]
    speech_description: dict[str, Any]

    def answer(self, prompts: list[Prompt]) -> list[Produced | str]:
        """An answer or the reason there is none, for each prompt."""


def render(processor: FunAudioChatProcessor, prompt: Prompt) -> str:
    """The text the model reads, its slot for sound not yet expanded."""
    turns = [
        {"role": "system", "content": prompt.system},
        {"role": "user", "content": prompt.user},
    ]
    return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


class LocalModel:
    """A checkpoint folder, in this process.

    Args:
        model_path, tts_path: folders; without the second spoken answers have no sound.
        max_new_tokens: longest answer, in 5 Hz steps.
    """

    def __init__(
        self,
        model_path: Path,
        tts_path: Path | None,
        device: str = "auto",
        dtype: str = "auto",
        voice: str | None = None,
        max_new_tokens: int = 2048,
    ) -> None:
        self.chat = VoiceChat.from_pretrained(
            model_path, tts_path, device=device, dtype=dtype, voice=voice
        )
        self.max_new_tokens = max_new_tokens
        sampling = speech_sampling(self.chat.model.generation_config)
        self.description: dict[str, Any] = {
            "model": model_path.name,
            "model_fingerprint": fingerprint(model_path),
            "dtype": str(self.chat.model.dtype).removeprefix("torch."),
            "text": "greedy",
            "max_new_tokens": max_new_tokens,
        }
        self.speech_description: dict[str, Any] = {
            "speech_sampling": {name: sampling[name] for name in SAMPLING_VALUES},
        }
        if tts_path is not None:
            self.speech_description |= {
                "detokenizer_fingerprint": fingerprint(tts_path),
                "voice": voice or "default",
            }
        tokenizer = self.chat.processor.tokenizer
        ends = self.chat.model.generation_config.eos_token_id
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self._ends = tuple(
            dict.fromkeys([tokenizer.convert_tokens_to_ids("<|im_end|>"), *ends])
        )
        self._pad = tokenizer.pad_token_id

    def answer(self, prompts: list[Prompt]) -> list[Produced | str]:
        """Answer prompts of one kind, as a batch; where that fails, one by one."""
        try:
            return list(self._batch(prompts))
        except (FunAudioChatError, RuntimeError, ValueError) as error:
            if len(prompts) == 1:
                return [f"{type(error).__name__}: {error}"]
        return [self.answer([prompt])[0] for prompt in prompts]

    def _options(self, speech: bool) -> GenerationOptions:
        options = GenerationOptions(
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self._ends,
            pad_token_id=self._pad,
            text_greedy=True,
            disable_speech=not speech,
            force_text_abos=speech,
        )
        if not speech:
            return options
        return replace(options, do_sample=True, **self.speech_description["speech_sampling"])

    def _batch(self, prompts: list[Prompt]) -> list[Produced]:
        chat, speech = self.chat, prompts[0].speech
        inputs = chat.processor(
            text=[render(chat.processor, prompt) for prompt in prompts],
            audio=[prompt.wave for prompt in prompts],
            return_tensors="pt",
            padding_side="left",
        ).to(chat.model.device)
        width = inputs["input_ids"].shape[1]
        limit = chat.model.config.text_config.max_position_embeddings
        room = limit - width
        if room <= 0:
            raise FunAudioChatError(f"the prompt needs {width} positions, the model has {limit}")
        if room < self.max_new_tokens and len(prompts) > 1:
            # The longest prompt would shorten the others' answers.
            raise FunAudioChatError("too long for a batch")
        options = replace(
            self._options(speech), max_new_tokens=min(self.max_new_tokens, room)
        )
        generators: list[torch.Generator] = [
            torch.Generator(chat.model.device).manual_seed(prompt.seed) for prompt in prompts
        ]
        rows, codes = generate(chat.model, dict(inputs), options, generators)
        return [
            self._produced(row[width:].tolist(), code, speech)
            for row, code in zip(rows, codes, strict=True)
        ]

    def _produced(self, ids: list[int], codes: torch.Tensor, speech: bool) -> Produced:
        end = next((i for i, id_ in enumerate(ids) if id_ in self._ends), len(ids) - 1)
        ids = ids[: end + 1]
        tokenizer = self.chat.processor.tokenizer
        spoken = codes[codes < self.chat.model.config.audio_config.bos_token_id].cpu()
        wave, rate_hz = None, 0
        detokenizer = self.chat.detokenizer
        if speech and detokenizer is not None and len(spoken):
            assert self.chat.speaker is not None
            wave = detokenizer.decode(spoken, self.chat.speaker).cpu().numpy().reshape(-1)
            rate_hz = detokenizer.sample_rate_hz
        return Produced(
            tokenizer.decode(ids, skip_special_tokens=True).strip(),
            tokenizer.decode(ids, skip_special_tokens=False),
            wave,
            rate_hz,
            len(ids),
            len(spoken) if speech else None,
        )


class ServerModel:
    """A server with OpenAI's chat interface and sound input, vLLM among them.

    Args:
        url: with or without ``/v1``.
        model: name on the server; None for the first it lists.
        concurrent: requests at a time.

    Raises:
        FunAudioChatError: the package ``openai`` is missing, or the server does not answer.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key: str | None = None,
        max_new_tokens: int = 2048,
        concurrent: int = 8,
        timeout_s: float = 600.0,
    ) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise FunAudioChatError(
                "a server needs the package openai: pip install 'funaudiochat[eval]'"
            ) from error
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=api_address(url), api_key=api_key or "none", timeout=timeout_s, max_retries=4
        )
        try:
            listed = self._client.models.list().data
        except openai.OpenAIError as error:
            raise FunAudioChatError(
                f"the server {url} names no model ({error}); is it running there?"
            ) from error
        entries = (entry.to_dict() for entry in listed)
        self.model, owner, length = served_model(f"the server {url}", entries, model)
        self._greedy = greedy_fields(max_new_tokens, owner, length)
        self._longest_s = longest_sound_s(owner, length)
        self.url, self.concurrent = url, concurrent
        self.description = {
            "server_model": self.model, "text": "greedy", "max_new_tokens": max_new_tokens,
        }
        self.speech_description: dict[str, Any] = {}

    def answer(self, prompts: list[Prompt]) -> list[Produced | str]:
        """Ask side by side.

        Raises:
            FunAudioChatError: the server is gone; what was answered before is kept.
        """
        with ThreadPoolExecutor(self.concurrent) as pool:
            return list(pool.map(self._ask, prompts))

    def _ask(self, prompt: Prompt) -> Produced | str:
        assert prompt.wave is not None
        seconds = len(prompt.wave) / QUESTION_RATE_HZ
        if self._longest_s is not None and seconds > self._longest_s:
            return f"the sound has {seconds:.1f} s, of which the server hears {self._longest_s:g}"
        try:
            reply = self._client.chat.completions.create(**self._request(prompt))
        except self._errors.APITimeoutError:
            return "the server did not answer in time"
        except (self._errors.APIConnectionError, self._errors.AuthenticationError) as error:
            raise FunAudioChatError(
                f"the server {self.url} cannot be asked ({error}); run the command again to go on"
            ) from error
        except self._errors.APIStatusError as error:
            return f"the server answered {error.status_code}: {error.message[:300]}"
        except (self._errors.OpenAIError, ValueError) as error:
            return f"the server's answer cannot be read: {str(error)[:300]}"
        if not getattr(reply, "choices", None):
            return "the server gave no answer"
        message = reply.choices[0].message
        text = message.content or ""
        wave, rate_hz = None, 0
        if prompt.speech:
            if message.audio is None:
                return "the server gave no sound; it answers with text only"
            try:
                wave, rate_hz = _decode(message.audio.data)
            except (FunAudioChatError, RuntimeError, ValueError) as error:
                return f"the server's sound cannot be read: {error}"
            text = text or message.audio.transcript
        tokens = reply.usage.completion_tokens if reply.usage else None
        return Produced(text.strip(), text, wave, rate_hz, tokens)

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        assert prompt.wave is not None
        content = [sound_part(prompt.wave)]
        if prompt.instruction is not None:
            content.append({"type": "text", "text": prompt.instruction})
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": prompt.system},
                {"role": "user", "content": content},
            ],
            "seed": prompt.seed,
            "extra_body": self._greedy,
        }
        if prompt.speech:
            request |= {
                "modalities": ["text", "audio"], "audio": {"format": "wav", "voice": "default"},
            }
        return request


def _decode(data: str) -> tuple[np.ndarray, int]:
    content = base64.b64decode(data)
    rate_hz = soundfile.info(io.BytesIO(content)).samplerate
    return load_audio(content, rate_hz), rate_hz


def read_wave(audio: Path | bytes | None) -> np.ndarray:
    """A question's sound, mono float32 [S] at 16 kHz.

    Raises:
        AudioError: it is missing or cannot be used.
    """
    if audio is None:
        raise FunAudioChatError("the item has no sound")
    return load_audio(audio, QUESTION_RATE_HZ)


def seed_of(seed: int, names: Sequence[str]) -> int:
    """A seed of an item's own, whatever batch or shard it is asked in."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big")
