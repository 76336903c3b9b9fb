# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Conversations whose text replies come from an OpenAI-compatible server, such as vLLM."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from typing import Any

import httpx
import torch

from funaudiochat.chat_protocol import (
    api_base_url,
    audio_part,
    greedy_fields,
    longest_audio_s,
    served_model,
)
from funaudiochat.constants import DEFAULT_S2M_GEN_KWARGS
from funaudiochat.conversation import Conversation
from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.errors import ServerError
from funaudiochat.events import Event, Latency, Reply, ReplyDone, TextDelta
from funaudiochat.sampling import SAMPLING_VALUES, Sampling
from funaudiochat.tool_calls import WithoutCalls, parse_tool_calls
from funaudiochat.turns import Turn, call_problems, drop_oldest, dropped_rounds, recent

# Unlike the evaluation, this client does not use the `openai` package, which hides whether a stream
# was ended by [DONE] or by a lost connection: a reply that was cut off would pass for a whole one.
_CONNECT_TIMEOUT_S = 10
_DATA, _DONE = "data:", "[DONE]"  # a space may follow the colon
_TOO_LONG = re.compile("context|too (long|large|many tokens)|max_(model_)?len", re.IGNORECASE)


class _ContextFull(ServerError):
    """Raised when a server refuses a conversation that is longer than its model's context."""


def sampled_fields(
    sampling: Sampling, max_tokens: int, context_length: int | None
) -> dict[str, Any]:
    """Return the fields of a request for a sampled reply; the server chooses values not given."""
    fields = sampling.given(*SAMPLING_VALUES, "seed")
    fields["max_tokens"] = min(max_tokens, context_length or max_tokens)
    return fields | ({"temperature": 0.0} if sampling.greedy else {})


class ChatCompletionsClient:
    """Ask a server that speaks OpenAI's chat protocol.

    Args:
        url: address of the server, with or without ``/v1``.
        model: name of the model on the server; None for the first it lists.
        api_key: sent as a bearer token.
        timeout_s: longest wait for the next piece of a reply.

    Raises:
        ServerError: the server cannot be reached, refuses, or has no such model.
    """

    def __init__(
        self, url: str, model: str | None = None, api_key: str = "none", timeout_s: float = 60
    ) -> None:
        self.url = api_base_url(url)
        try:
            self._client = httpx.Client(
                headers={"Authorization": f"Bearer {api_key}"},
                timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            )
        except (ImportError, ValueError) as error:
            raise ServerError(
                "the proxy that the environment names (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY) cannot "
                f"be used: {error}; unset it, or add the server to NO_PROXY"
            ) from error
        with self._errors():
            listed = self._client.get(f"{self.url}/models").raise_for_status().json()["data"]
        self.model, owner, length = served_model(self.url, listed, model)
        self._known = (owner, length)
        self.max_seconds = longest_audio_s(*self._known)

    def stream(
        self,
        messages: list[dict[str, Any]],
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> Generator[str]:
        """Yield the pieces of the reply to a conversation; leave the loop to cancel it.

        Args:
            messages: dicts of ``role`` and ``content``, which is text or a list of parts.
            sampling: how tokens are chosen.

        Raises:
            ServerError: the server cannot be reached, refuses, times out or breaks off.
        """
        limit = sampling.max_new_tokens or int(DEFAULT_S2M_GEN_KWARGS["max_new_tokens"])
        owner, context_length = self._known
        if sampling.takes_best_text(speech=False):
            fields = greedy_fields(limit, owner, context_length)
        else:
            fields = sampled_fields(sampling, limit, context_length)
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        request = {"model": self.model, "messages": messages, "stream": True, **fields}
        url = f"{self.url}/chat/completions"
        with self._errors(), self._client.stream("POST", url, json=request) as response:
            if response.is_error:
                response.read()
            ended = False
            for line in response.raise_for_status().iter_lines():
                if not line.startswith(_DATA):
                    continue
                data = line.removeprefix(_DATA).strip()
                if data == _DONE:
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    raise ServerError(f"{self.url}: {chunk['error']}")
                for choice in chunk.get("choices") or ():  # none in one that counts tokens
                    if (choice.get("delta") or {}).get("content"):
                        yield choice["delta"]["content"]
                    ended = ended or bool(choice.get("finish_reason"))
            if ended:  # some servers close the connection instead of sending [DONE]
                return
        raise ServerError(f"{self.url} broke off in the middle of a reply; ask again")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            answer = error.response
            full = answer.status_code in (400, 413, 422) and _TOO_LONG.search(answer.text)
            raise (_ContextFull if full else ServerError)(
                f"{answer.url} refused with status {answer.status_code}: {answer.text[:500]}"
            ) from error
        except httpx.TimeoutException as error:
            raise ServerError(
                f"{self.url} gave no answer in time ({type(error).__name__}); it may be overloaded"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(
                f"{self.url} cannot be used ({error}); is the server running there?"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ServerError):
                raise
            raise ServerError(
                f"{self.url} does not answer in OpenAI's protocol ({error!r}); check the address"
            ) from error


class RemoteChat(Conversation):
    """Hold one conversation whose text replies a server generates.

    History and tools are kept here and sent with every question, so the server gets the same prompt
    as :class:`VoiceChat` builds for ``speech=False``, and the events are the same.

    Args:
        client: of the server; several conversations may share it.
        system: system prompt; None for the one the checkpoint was trained with.
    """

    def __init__(self, client: ChatCompletionsClient, system: str | None = None) -> None:
        super().__init__(system)
        self.client = client

    def _max_seconds(self) -> float | None:
        return self.client.max_seconds

    def _answer(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> Iterator[Event]:
        if speech:
            raise ServerError("the server replies with text only; ask with speech=False")
        began, latency, text = time.monotonic(), Latency(), ""
        before = recent(self._history)
        pieces, kept = self._begin(self._system(tools, speech), before, turn, sampling)
        remember = self._recorder(kept, turn, tools, speech)
        visible = WithoutCalls()
        with closing(pieces):
            for piece in chain(pieces, [None]):
                given = piece or ""
                if not tools:
                    given = visible.push(given, last=piece is None)
                if given:
                    latency.first_text_s = latency.first_text_s or time.monotonic() - began
                    text += given
                    remember(text)
                    yield TextDelta(given)
        if visible.found and not text.strip():
            raise ServerError(
                "the model only called a tool although none was offered; rephrase the question"
            )
        said = remember(text)
        latency.total_s = time.monotonic() - began
        problems = call_problems(said) + dropped_rounds(kept, before)
        if visible.found:
            problems.append("a tool call was left out of the reply: no tool was offered")
        calls, no_speech = parse_tool_calls(text)[0], torch.empty(0, dtype=torch.long)
        yield ReplyDone(Reply(text, no_speech, None, 0, calls, problems, latency))

    def _begin(
        self, system: Turn, history: list[Turn], turn: Turn, sampling: Sampling
    ) -> tuple[Generator[str], list[Turn]]:
        """Ask; return the pieces of the reply, and the history without the rounds dropped for room.

        Only the server can count tokens, so the oldest round is dropped whenever it refuses.
        """
        while True:
            turns = [system, *history, turn]
            pieces = self.client.stream([m for t in turns for m in _messages(t)], sampling)
            try:
                return _begun(pieces), history
            except _ContextFull:
                if not history:
                    raise
                history = drop_oldest(history)


def _begun(pieces: Generator[str]) -> Generator[str]:
    """Wait for the first piece, then return all pieces."""
    first = next(pieces, "")

    def every() -> Generator[str]:
        with closing(pieces):
            yield first
            yield from pieces

    return every()


def _messages(turn: Turn) -> Iterator[dict[str, Any]]:
    for content, audio in turn.messages(None):
        if audio is None:
            yield {"role": turn.role, "content": content}
            continue
        # The server inserts the placeholder, and a line break before a text that follows.
        text = [{"type": "text", "text": content}] if content else []
        yield {"role": turn.role, "content": [audio_part(audio), *text]}
