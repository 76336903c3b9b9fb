# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Where answers come from, and a server with OpenAI's interface as one such source.

A source takes prompts and gives one :class:`Produced` or one reason of failure for each, in order.
The other one, a model in this process, is ``local_model.py``: what only asks a server, or only
scores, needs neither torch nor transformers.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from funaudiochat.audio import load_audio, load_audio_and_rate
from funaudiochat.chat_protocol import (
    api_base_url,
    audio_part,
    greedy_fields,
    longest_audio_s,
    served_model,
)
from funaudiochat.constants import AUDIO_TEMPLATE
from funaudiochat.errors import FunAudioChatError
from funaudiochat.plain_text import protect, protect_system
from funaudiochat.tool_calls import WithoutCalls
from funaudiochat.turns import Turn

QUESTION_RATE_HZ = 16_000


@dataclass(frozen=True)
class Prompt:
    """One question to a model; ``audio`` is mono float32 [S] at 16 kHz."""

    system: str
    instruction: str | None
    audio: np.ndarray | None
    speech: bool
    seed: int

    @property
    def user(self) -> str:
        """The user's turn, with the slot of the sound."""
        if self.instruction is None:
            return AUDIO_TEMPLATE
        return f"{AUDIO_TEMPLATE}\n{self.instruction}"

    @property
    def turns(self) -> list[Turn]:
        """The conversation the model reads; audio that was not loaded still has its placeholder."""
        audio = np.zeros(0, np.float32) if self.audio is None else self.audio
        return [Turn("system", self.system), Turn("user", self.instruction or "", audio)]

    @property
    def offers_tools(self) -> bool:
        """Whether the model may call tools."""
        return "<tools>" in self.system


@dataclass(frozen=True)
class Produced:
    """One answer; ``audio`` is mono float32 [S], None without speech.

    Attributes:
        cut: it ended at the limit of tokens, not by itself.
    """

    text: str
    raw_text: str
    audio: np.ndarray | None = None
    rate_hz: int = 0
    text_tokens: int | None = None
    speech_codes: int | None = None
    cut: bool = False


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
            base_url=api_base_url(url), api_key=api_key or "none", timeout=timeout_s, max_retries=4
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
        self._longest_s = longest_audio_s(owner, length)
        self.url, self.concurrent = url, concurrent
        self.description = {
            "server_model": self.model,
            "text": "greedy",
            "max_new_tokens": max_new_tokens,
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
        assert prompt.audio is not None
        seconds = len(prompt.audio) / QUESTION_RATE_HZ
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
            except (FunAudioChatError, ValueError) as error:
                return f"the server's sound cannot be read: {error}"
            text = text or message.audio.transcript
        tokens = reply.usage.completion_tokens if reply.usage else None
        cut = reply.choices[0].finish_reason == "length"
        shown = text if prompt.offers_tools else WithoutCalls().push(text, last=True)
        return Produced(shown.strip(), text, wave, rate_hz, tokens, cut=cut)

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        assert prompt.audio is not None
        content = [audio_part(prompt.audio)]
        if prompt.instruction is not None:
            content.append({"type": "text", "text": protect(None, prompt.instruction)})
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": protect_system(None, prompt.system)},
                {"role": "user", "content": content},
            ],
            "seed": prompt.seed,
            "extra_body": self._greedy,
        }
        if prompt.speech:
            request |= {
                "modalities": ["text", "audio"],
                "audio": {"format": "wav", "voice": "default"},
            }
        return request


def _decode(data: str) -> tuple[np.ndarray, int]:
    wave, rate_hz = load_audio_and_rate(base64.b64decode(data))
    return wave, round(rate_hz)


def read_wave(audio: Path | bytes | None, longest_s: float | None = None) -> np.ndarray:
    """A question's sound, mono float32 [S] at 16 kHz, of so many seconds at most.

    Raises:
        AudioError: it is missing or cannot be used.
    """
    if audio is None:
        raise FunAudioChatError("the item has no sound")
    wave = load_audio(audio, QUESTION_RATE_HZ)
    return wave if longest_s is None else wave[: round(longest_s * QUESTION_RATE_HZ)]


def seed_of(seed: int, names: Sequence[str]) -> int:
    """A seed of an item's own, whatever batch or shard it is asked in."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big")
