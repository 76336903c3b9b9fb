# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Deliver a reply to the client: audio at playback speed, text in step with it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from funaudiochat.constants import OUTPUT_RATE_HZ
from web_demo.server.client import Client
from web_demo.server.opus import Framer

# Audio sent ahead of playback: enough to bridge a network hiccup, and the most that a client
# without events may still play after an interruption.
LEAD_S = 1.0


@dataclass(frozen=True)
class Text:
    """A part of a reply's text and the sample of the audio at which it begins."""

    text: str
    start: int


# What a reply consists of; an error, or None, is the last.
Chunk = np.ndarray | Text | Exception | None


class ReplySender:
    """Sends one reply and knows how much of it the user heard.

    Args:
        speech: the reply is spoken; otherwise its text is sent as it comes.
        recording: collects the audio, if a list.
        on_audio: called with each frame of audio right before it is sent.
        on_first_audio: awaited once, before the first frame of audio.

    Attributes:
        reported_samples: samples that the client reported as played; None if it reports nothing.
    """

    def __init__(
        self,
        client: Client,
        speech: bool,
        recording: list[np.ndarray] | None,
        on_audio: Callable[[np.ndarray], None],
        on_first_audio: Callable[[], Awaitable[None]],
    ) -> None:
        self._client, self._speech, self._recording = client, speech, recording
        self._on_audio, self._on_first_audio = on_audio, on_first_audio
        self._texts: list[Text] = []
        self._texts_sent = 0
        self._playback_ends_at = 0.0
        self.sent_samples = 0
        self.reported_samples: int | None = None

    @property
    def lead_s(self) -> float:
        """Seconds of audio sent and not yet played, by the server's clock."""
        return max(0.0, self._playback_ends_at - time.monotonic())

    @property
    def played_samples(self) -> int:
        """Samples played, as the client reported them or else by the server's clock."""
        if self.reported_samples is not None:
            return min(self.reported_samples, self.sent_samples)
        return max(0, self.sent_samples - round(self.lead_s * OUTPUT_RATE_HZ))

    @property
    def started(self) -> bool:
        """Whether the user received any of the reply."""
        return self.sent_samples > 0 or (not self._speech and self._texts_sent > 0)

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(part.text for part in self._texts)

    def heard_text(self) -> str:
        """Return the text of the audio that was played; of a written reply, what was sent."""
        # A text and the audio of its step begin together, so a part whose audio began was heard.
        played, sent = self.played_samples, self._texts[: self._texts_sent]
        return "".join(part.text for part in sent if not self._speech or part.start < played)

    async def send(self, chunks: asyncio.Queue[Chunk]) -> None:
        """Send audio and text until None arrives.

        Raises:
            Exception: the error that arrived instead.
            ConnectionError: the client has disconnected.
        """
        framer = Framer()
        while (chunk := await chunks.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, Text):
                self._texts.append(chunk)
                await self._send_due_text()
            else:
                await self._send_audio(framer.push(chunk))
        await self._send_audio(framer.finish())
        await self._send_text_until(None)
        if self.sent_samples:
            await self._client.audio_done()

    async def _send_audio(self, frames: list[np.ndarray]) -> None:
        for frame in frames:
            # Sleeps at least once per frame, so that encoding a long chunk blocks nobody.
            await asyncio.sleep(max(0.0, self.lead_s - LEAD_S))
            if not self.sent_samples:
                await self._on_first_audio()
            self._on_audio(frame)
            await self._client.audio(frame)
            if self._recording is not None:
                self._recording.append(frame)
            now = time.monotonic()
            self._playback_ends_at = max(self._playback_ends_at, now) + len(frame) / OUTPUT_RATE_HZ
            self.sent_samples += len(frame)
            await self._send_due_text()

    async def _send_due_text(self) -> None:
        """Send the text that belongs to the audio sent so far; of a written reply, all of it."""
        await self._send_text_until(self.sent_samples if self._speech else None)

    async def _send_text_until(self, sample: int | None) -> None:
        while self._texts_sent < len(self._texts):
            part = self._texts[self._texts_sent]
            if sample is not None and part.start > sample:
                break
            self._texts_sent += 1
            await self._client.text(part.text)
