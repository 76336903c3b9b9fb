# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""An answer on its way to the page: sound at the pace it plays, text in step with it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from web_demo.server.opus import FRAME_SAMPLES, REPLY_RATE_HZ, Framer, OpusEncoder
from web_demo.server.outbox import Outbox
from web_demo.server.protocol import Kind, encode

# Sound sent ahead of what plays: bridges a network hiccup, and is what an old page may still play
# after an interruption.
LEAD_S = 1.0
# The reference's page starts, and starts again, only with 480 ms; silence pushes the tail through.
FLUSH_FRAMES = 13


@dataclass(frozen=True)
class Text:
    """A piece of text and the sample it belongs to."""

    text: str
    start: int


# What a reply is made of; an error, or None, is the last.
Chunk = np.ndarray | Text | Exception | None


class Speaker:
    """Sends one answer and knows how much of it was heard.

    Args:
        speech: the answer is spoken; else its text is sent as it comes.
        old_page: gets silence behind the sound.
        recording: collects the sound, if a list.
        sending: called with the audio of each message that is sent.
        first_audio: awaited right before the first sound message.

    Attributes:
        heard: samples the page said it played; None as long as it says nothing.
    """

    def __init__(
        self,
        outbox: Outbox,
        encoder: OpusEncoder,
        speech: bool,
        old_page: bool,
        recording: list[np.ndarray] | None,
        sending: Callable[[np.ndarray], None],
        first_audio: Callable[[], Awaitable[None]],
    ) -> None:
        self._outbox, self._encoder, self._first_audio = outbox, encoder, first_audio
        self._speech, self._old_page, self._recording = speech, old_page, recording
        self._sending = sending
        self._pieces: list[Text] = []
        self._shown = 0
        self._ends_at = 0.0
        self.sent_samples = 0
        self.heard: int | None = None

    @property
    def lead_s(self) -> float:
        """Sound sent and not yet played, by the server's clock: it plays when it comes."""
        return max(0.0, self._ends_at - time.monotonic())

    @property
    def played_samples(self) -> int:
        """As the page said, else by the server's clock."""
        if self.heard is not None:
            return min(self.heard, self.sent_samples)
        return max(0, self.sent_samples - round(self.lead_s * REPLY_RATE_HZ))

    @property
    def started(self) -> bool:
        """The user has had something of the answer."""
        return self.sent_samples > 0 or (not self._speech and self._shown > 0)

    @property
    def text(self) -> str:
        """The whole text so far."""
        return "".join(piece.text for piece in self._pieces)

    def heard_text(self) -> str:
        """The text of what was played; of a written answer what was sent."""
        # A text and the codes of its step begin together, so a piece that began was heard.
        played, shown = self.played_samples, self._pieces[: self._shown]
        return "".join(p.text for p in shown if not self._speech or p.start < played)

    async def send(self, chunks: asyncio.Queue[Chunk]) -> None:
        """Send sound and text until None comes.

        Raises:
            Exception: what came in its place.
            ConnectionError: the page is gone.
        """
        framer = Framer()
        while (chunk := await chunks.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, Text):
                self._pieces.append(chunk)
                await self._show()
            else:
                await self._play(framer.push(chunk))
        await self._play(framer.finish())
        await self._show(all_of_it=True)
        if self._old_page and self.sent_samples:
            silence = np.zeros(FRAME_SAMPLES, np.float32)
            for _ in range(FLUSH_FRAMES):
                await self._outbox.send(encode(Kind.AUDIO, self._encoder.encode(silence)))

    async def _play(self, frames: list[np.ndarray]) -> None:
        for frame in frames:
            # Sleeps at least once a frame, so that nobody waits for a whole chunk's encoding.
            await asyncio.sleep(max(0.0, self.lead_s - LEAD_S))
            if not self.sent_samples:
                await self._first_audio()
            self._sending(frame)
            await self._outbox.send(encode(Kind.AUDIO, self._encoder.encode(frame)))
            if self._recording is not None:
                self._recording.append(frame)
            self._ends_at = max(self._ends_at, time.monotonic()) + len(frame) / REPLY_RATE_HZ
            self.sent_samples += len(frame)
            await self._show()

    async def _show(self, all_of_it: bool = False) -> None:
        """Send the text that belongs to the sound sent."""
        while self._shown < len(self._pieces):
            piece = self._pieces[self._shown]
            if self._speech and not all_of_it and piece.start > self.sent_samples:
                break
            self._shown += 1
            await self._outbox.text(piece.text)
