# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sources of answers: their interface, and a server with an OpenAI-compatible API.

A source maps each prompt, in order, to a :class:`ModelOutput` or to the reason of its failure. The
model that runs in this process is in ``local_model.py``, so that using a server, or only scoring,
needs neither torch nor transformers.
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
from funaudiochat.constants import AUDIO_TEMPLATE, INPUT_RATE_HZ, MAX_NEW_TOKENS
from funaudiochat.errors import FunAudioChatError
from funaudiochat.plain_text import protect, protect_system
from funaudiochat.tool_calls import WithoutCalls
from funaudiochat.turns import Turn


@dataclass(frozen=True)
class Prompt:
    """One prompt to a model; ``audio`` is mono float32 [S] at 16 kHz."""

    system: str
    instruction: str | None
    audio: np.ndarray | None
    speech: bool
    seed: int

    @property
    def user(self) -> str:
        """The user turn, with the placeholder of the audio."""
        if self.instruction is None:
            return AUDIO_TEMPLATE
        return f"{AUDIO_TEMPLATE}\n{self.instruction}"

    @property
    def turns(self) -> list[Turn]:
        """The conversation sent to the model; audio not yet loaded keeps its placeholder."""
        audio = np.zeros(0, np.float32) if self.audio is None else self.audio
        return [Turn("system", self.system), Turn("user", self.instruction or "", audio)]

    @property
    def offers_tools(self) -> bool:
        """Whether the prompt offers tools to the model."""
        return "<tools>" in self.system


@dataclass(frozen=True)
class ModelOutput:
    """One answer; ``audio`` is mono float32 [S], None without speech.

    Attributes:
        rate_hz: sampling rate of ``audio``.
        text_tokens: number of text tokens, None if unknown.
        speech_tokens: number of speech tokens, None if unknown or without speech.
        cut: whether the answer was truncated at the token limit.
    """

    text: str
    raw_text: str
    audio: np.ndarray | None = None
    rate_hz: int = 0
    text_tokens: int | None = None
    speech_tokens: int | None = None
    cut: bool = False


class AnswerSource(Protocol):
    """Anything that answers prompts.

    Attributes:
        description: model and settings, part of the settings hash.
        speech_description: further settings that only spoken answers depend on.
    """

    description: dict[str, Any]
    speech_description: dict[str, Any]

    def answer(self, prompts: list[Prompt]) -> list[ModelOutput | str]:
        """Return the answer to each prompt, or the reason of its failure."""


class ServerModel:
    """A server with an OpenAI-compatible chat API and audio input, such as vLLM.

    Args:
        url: URL of the server, with or without ``/v1``.
        model: name of the model on the server; None for the first one listed.
        api_key: key sent to the server.
        max_new_tokens: maximum length of an answer.
        concurrent: maximum number of parallel requests.
        timeout_s: time limit of a request.

    Raises:
        FunAudioChatError: the package ``openai`` is missing, or the server does not answer.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        api_key: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        concurrent: int = 8,
        timeout_s: float = 600.0,
    ) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise FunAudioChatError(
                "--server needs the package openai: pip install 'funaudiochat[eval]'"
            ) from error
        self._errors = openai
        self._client = openai.OpenAI(
            base_url=api_base_url(url), api_key=api_key or "none", timeout=timeout_s, max_retries=4
        )
        try:
            listed = self._client.models.list().data
        except openai.OpenAIError as error:
            raise FunAudioChatError(
                f"cannot list the models of the server {url} ({error}); is it running?"
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

    def answer(self, prompts: list[Prompt]) -> list[ModelOutput | str]:
        """Send the prompts in parallel.

        Raises:
            FunAudioChatError: the server is unreachable; earlier answers are kept.
        """
        with ThreadPoolExecutor(self.concurrent) as pool:
            return list(pool.map(self._ask, prompts))

    def _ask(self, prompt: Prompt) -> ModelOutput | str:
        assert prompt.audio is not None
        seconds = len(prompt.audio) / INPUT_RATE_HZ
        if self._longest_s is not None and seconds > self._longest_s:
            return (
                f"the audio is {seconds:.1f} s long, but the server processes only the first "
                f"{self._longest_s:g} s"
            )
        try:
            reply = self._client.chat.completions.create(**self._request(prompt))
        except self._errors.APITimeoutError:
            return "the server did not answer in time"
        except (self._errors.APIConnectionError, self._errors.AuthenticationError) as error:
            raise FunAudioChatError(
                f"the server {self.url} is unreachable ({error}); run the command again to resume"
            ) from error
        except self._errors.APIStatusError as error:
            return f"the server answered {error.status_code}: {error.message[:300]}"
        except (self._errors.OpenAIError, ValueError) as error:
            return f"cannot parse the server's answer: {str(error)[:300]}"
        if not getattr(reply, "choices", None):
            return "the server returned no answer"
        message = reply.choices[0].message
        text = message.content or ""
        audio, rate_hz = None, 0
        if prompt.speech:
            if message.audio is None:
                return "the server returned no audio; it answers with text only"
            try:
                audio, rate_hz = _decode(message.audio.data)
            except (FunAudioChatError, ValueError) as error:
                return f"cannot decode the server's audio: {error}"
            text = text or message.audio.transcript
        tokens = reply.usage.completion_tokens if reply.usage else None
        cut = reply.choices[0].finish_reason == "length"
        visible = text if prompt.offers_tools else WithoutCalls().push(text, last=True)
        return ModelOutput(visible.strip(), text, audio, rate_hz, tokens, cut=cut)

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
    audio, rate_hz = load_audio_and_rate(base64.b64decode(data))
    return audio, round(rate_hz)


def read_audio(audio: Path | bytes | None, longest_s: float | None = None) -> np.ndarray:
    """Load the audio of a question: mono float32 [S] at 16 kHz, at most ``longest_s`` long.

    Raises:
        FunAudioChatError: the audio is missing or cannot be decoded.
    """
    if audio is None:
        raise FunAudioChatError("the item has no audio")
    waveform = load_audio(audio, INPUT_RATE_HZ)
    return waveform if longest_s is None else waveform[: round(longest_s * INPUT_RATE_HZ)]


def seed_of(seed: int, names: Sequence[str]) -> int:
    """Derive the seed of an item, independent of its batch and shard."""
    digest = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return int.from_bytes(digest[:4], "big")
