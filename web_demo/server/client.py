# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a turn needs of a client; every wire protocol implements it."""

from typing import Any, Protocol

import numpy as np


class Client(Protocol):
    """The receiving side of a turn, implemented by a protocol adapter.

    :class:`~web_demo.server.outbox.Outbox` speaks the protocol of PROTOCOL.md,
    :class:`~web_demo.server.openai_api.realtime_response.Response` that of OpenAI. All methods
    raise ConnectionError once the client has disconnected.
    """

    async def event(self, event: str, /, **fields: Any) -> None:
        """Report a change of the session, such as ``turn_start``."""

    async def error(
        self, code: str, message: str, turn: int | None = None, fatal: bool = False
    ) -> None:
        """Report an error; after a fatal one the connection closes."""

    async def reply_pending(self) -> None:
        """Report that a question was accepted and the models are about to work on its reply."""

    async def text(self, text: str) -> None:
        """Deliver the next part of a reply's text."""

    async def audio(self, frame: np.ndarray) -> None:
        """Deliver the next 40 ms [960] of a reply's audio, float32 at 24 kHz."""

    async def audio_done(self) -> None:
        """Report that all audio of a spoken reply was delivered."""
