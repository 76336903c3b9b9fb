# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The session of a page: questions by voice, text and file, in the terms of PROTOCOL.md."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from funaudiochat.audio import MIN_DURATION_MS, load_audio
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.conversation import Conversation
from funaudiochat.errors import AudioError
from web_demo.server.client import Client
from web_demo.server.context import ServerContext
from web_demo.server.reply_generator import Question
from web_demo.server.session import Session, Spawn
from web_demo.server.settings import BadSettings, Settings
from web_demo.server.turn import Turn
from web_demo.server.turn_detector import SpeechEvent

logger = logging.getLogger(__name__)

MIN_QUESTION_SAMPLES = MIN_DURATION_MS * INPUT_RATE_HZ // 1000


@dataclass
class ResumableConversation:
    """What outlives a connection: the conversation and its settings.

    Attributes:
        chat: the history; each finished or interrupted turn replaces it with its own branch.
        resume_key: the secret by which a client resumes it.
        turn_count: turns asked so far.
    """

    chat: Conversation
    settings: Settings
    resume_key: str
    turn_count: int = 0


class PageSession(Session):
    """Decides what a question, a reply and an interruption are for a client of PROTOCOL.md.

    A new question, the user's voice and :meth:`start_listening` interrupt a reply. The connection
    calls the methods one after another; what happens is reported to the ``client``.

    Args:
        client: receives events, text and audio.
        conversation: new or resumed.
    """

    def __init__(
        self,
        name: str,
        context: ServerContext,
        client: Client,
        conversation: ResumableConversation,
        spawn: Spawn,
    ) -> None:
        super().__init__(name, context, spawn)
        self.conversation, self._client = conversation, client

    async def open(self) -> None:
        """Begin to listen."""
        self._active_at = time.monotonic()
        self._configure_detector()
        await self._report_listening()

    # Settings

    def settings(self) -> dict[str, Any]:
        """Return all settings, with the name of the default voice where none is chosen."""
        settings = self.conversation.settings.model_dump()
        settings["voice"] = settings["voice"] or self._context.models.voice
        return settings

    async def update_settings(self, given: dict[str, Any]) -> None:
        """Change the settings of the turns to come; report all of them, or why none changed."""
        models, options = self._context.models, self._context.options
        old = self.conversation.settings
        try:
            new = old.changed(
                given,
                list(models.voices),
                models.answers,
                self._context.vad_network is not None,
                options.max_prompt_chars,
            )
        except BadSettings as error:
            return await self._client.error("bad_settings", str(error))
        self.conversation.settings = new
        await self._client.event("settings", settings=self.settings())
        self._configure_detector()
        if new.hands_free != old.hands_free:
            self.detector.clear()
            self.detector.on = True
            await self._report_listening()

    # The microphone

    async def push_audio(self, decode: Callable[[], np.ndarray]) -> None:
        """Take audio of the microphone; hands-free, it interrupts replies and asks questions.

        Args:
            decode: returns float32 samples [S] at 16 kHz; runs in a thread. What it raises is
                passed on.
        """
        settings = self.conversation.settings
        ignored = settings.hands_free and not settings.barge_in and self.in_play

        def detect() -> list[SpeechEvent]:
            samples = decode()
            return [] if ignored else self.detector.push(samples)

        # In a thread, but awaited: a pause that follows finds all audio that came before it.
        for event in await asyncio.to_thread(detect):
            await self._client.event(event.value)
            if event is SpeechEvent.SPEECH_START:
                self._barge_in()
            else:
                await self._ask_by_voice()

    async def start_listening(self) -> None:
        """Interrupt the reply and collect a new question."""
        self.interrupt("button")
        self.detector.clear()
        self.detector.on = True
        await self._report_listening()

    async def end_question(self) -> None:
        """Stop listening and ask what was collected; hands-free, this mutes the microphone."""
        if not self.detector.on:
            return
        self.detector.on = False
        await self._report_listening()
        if not self.detector.hands_free or self.detector.speaking:
            await self._ask_by_voice()

    def _configure_detector(self) -> None:
        settings, detector = self.conversation.settings, self.detector
        detector.hands_free = settings.hands_free
        detector.end_silence_ms = settings.end_silence_ms
        detector.threshold = settings.vad_threshold

    async def _report_listening(self) -> None:
        await self._client.event(
            "listening", on=self.detector.on, hands_free=self.detector.hands_free
        )

    async def _discard_microphone(self) -> None:
        """Drop a half-spoken question: one asked in another way replaces it."""
        self.detector.clear()
        if self.detector.on and not self.detector.hands_free:
            self.detector.on = False
            await self._report_listening()

    def _barge_in(self) -> None:
        turn = self._turn
        if turn is None or not turn.in_play:
            return
        self.interrupt("voice")
        if not turn.sender.started and turn.source == "voice":
            # The user had only paused: what was said before belongs to the question.
            assert isinstance(turn.question, tuple)
            self.detector.put_back(turn.question[0])

    # Questions

    async def ask_text(self, text: str) -> None:
        """Ask a typed question."""
        limit = self._context.options.max_text_chars
        if not text or len(text) > limit:
            message = f"a typed question must have 1 to {limit} characters, not {len(text)}"
            return await self._client.error("bad_question", message)
        await self._discard_microphone()
        await self._ask(text, "text")

    async def ask_file(self, data: bytes) -> None:
        """Ask the question in an audio file."""
        limit_s = self._context.options.max_utterance_seconds
        try:
            samples = await asyncio.to_thread(load_audio, data, INPUT_RATE_HZ, max_seconds=limit_s)
        except AudioError as error:
            return await self._client.error("bad_question", str(error))
        await self._discard_microphone()
        await self._ask((samples, INPUT_RATE_HZ), "file")

    async def reset(self) -> None:
        """Forget the conversation and listen."""
        self.interrupt("button")
        self.conversation.chat = self._context.models.new_chat()
        await self._client.event("reset")
        await self.start_listening()

    def report_played(self, turn_number: object, samples: int) -> None:
        """Note how many samples [24 kHz] of the current turn's reply the client has played."""
        if self._turn is not None and self._turn.number == turn_number:
            self._turn.sender.reported_samples = samples

    async def _ask_by_voice(self) -> None:
        nothing_heard, truncated = self.detector.nothing_heard, self.detector.truncated
        samples = self.detector.take()
        if len(samples) < MIN_QUESTION_SAMPLES:
            message = "no audio arrived from the microphone"
            return await self._client.error("no_audio", message)
        if nothing_heard:
            message = "no speech was detected; please ask again"
            return await self._client.error("no_audio", message)
        if truncated:
            limit_s = self._context.options.max_utterance_seconds
            message = f"the question was too long; only its last {limit_s:g} s are used"
            await self._client.error("utterance_too_long", message)
        await self._ask((samples, INPUT_RATE_HZ), "voice")

    # Turns

    async def _ask(self, question: Question, source: str) -> None:
        if self._context.draining:
            message = "the server is shutting down; please ask again later"
            return await self._client.error("draining", message)
        self.conversation.turn_count += 1
        turn = self.begin_turn(
            self.conversation.turn_count, source, question, self.conversation, self._client
        )
        if self.conversation.settings.transcribe and isinstance(question, tuple):
            self._spawn(self._report_transcript(turn, question[0]))

    async def _report_transcript(self, turn: Turn, samples: np.ndarray) -> None:
        try:
            text = await self.transcribe(samples, turn)
        except Exception:
            logger.warning("no transcript", exc_info=True, extra={"session": self.name})
            return
        await self._client.event("transcript", turn=turn.number, text=text)
