# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The connection to a judge model behind an OpenAI-compatible chat API."""

import os
import threading
import time
from typing import Any

from funaudiochat.errors import FunAudioChatError, ServerError

_TRIES_AFTER_ERRORS = 6
_TIMEOUT_S = 120.0


class NoJudgeReply(Exception):  # noqa: N818 - the reason why one item has no verdict
    """Signal that a judge returned no reply for one item."""


class JudgeClient:
    """Asks a judge model, with back-off and rate limit; safe to use from several threads.

    Args:
        model: name of the model on the server.
        url: address of the server; None for OpenAI's own, with the key ``OPENAI_API_KEY``.
        key_variable: environment variable of the judge's own API key.
        per_minute: maximum number of requests per minute; None for no limit.

    Raises:
        FunAudioChatError: the package ``openai`` or the API key is missing.
    """

    def __init__(
        self,
        model: str,
        url: str | None = None,
        key_variable: str = "JUDGE_API_KEY",
        per_minute: float | None = None,
    ) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise FunAudioChatError(
                "a judge model needs the package openai: pip install 'funaudiochat[eval]'"
            ) from error
        self.model, self._errors = model, openai
        # A judge on another server has a key of its own: OpenAI's key must not be sent there.
        key = os.environ.get(key_variable)
        if url is not None:
            key = key or "none"
        # The limit applies to all requests sent, including retries by the client.
        client = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: self._wait()]})
        try:
            self._client = openai.OpenAI(
                api_key=key,
                base_url=url,
                max_retries=_TRIES_AFTER_ERRORS,
                timeout=_TIMEOUT_S,
                http_client=client,
            )
        except openai.OpenAIError as error:
            raise FunAudioChatError(f"cannot set up the judge: {error}") from error
        self._pause_s = 60 / per_minute if per_minute else 0.0
        self._next_s = 0.0
        self._lock = threading.Lock()

    def _wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_s)
            self._next_s = start + self._pause_s
        time.sleep(max(0.0, start - now))

    def reply(self, request: dict[str, Any]) -> tuple[str, str]:
        """Return the text of a reply and the name of the model that gave it.

        Args:
            request: body of a chat request.

        Raises:
            ServerError: the judge is unreachable or refuses every request.
            NoJudgeReply: the judge refuses this request.
        """
        try:
            reply = self._client.chat.completions.create(**request)
        except self._errors.APITimeoutError as error:
            raise NoJudgeReply("the judge did not answer in time") from error
        except (
            self._errors.APIConnectionError,
            self._errors.AuthenticationError,
            self._errors.NotFoundError,
        ) as error:
            raise ServerError(f"the judge {self.model} is unreachable: {error}") from error
        except (self._errors.OpenAIError, ValueError) as error:
            raise NoJudgeReply(f"the judge refused: {str(error)[:200]}") from error
        if not getattr(reply, "choices", None):
            raise NoJudgeReply("the judge gave no reply")
        return reply.choices[0].message.content or "", reply.model
