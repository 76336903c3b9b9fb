# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A session: questions in, turns out, whatever protocol the client speaks."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from funaudiochat.audio import MIN_DURATION_MS, load_audio
from funaudiochat.constants import INPUT_RATE_HZ, TRANSCRIBE_PROMPT
from funaudiochat.conversation import Conversation
from funaudiochat.errors import AudioError
from funaudiochat.events import ReplyDone
from funaudiochat.sampling import Sampling
from web_demo.server.client import Client
from web_demo.server.context import ServerContext
from web_demo.server.reply_generator import Question
from web_demo.server.settings import BadSettings, Settings
from web_demo.server.turn import Turn, TurnState
from web_demo.server.turn_detector import SpeechEvent, TurnDetector
from web_demo.server.vad import VoiceActivity

logger = logging.getLogger(__name__)

MIN_QUESTION_SAMPLES = MIN_DURATION_MS * INPUT_RATE_HZ // 1000
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


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


class Session:
    """Decides what a question, a reply and an interruption are; knows no bytes of a protocol.

    At most one turn is current. A new question, the user's voice, :meth:`start_listening` or
    :meth:`close` interrupts it, and the next one runs as soon as the interrupted one is settled
    (:class:`~web_demo.server.turn.TurnState`). The protocol adapter calls the methods one after
    another; what happens is reported to the ``client``.

    Args:
        name: random name, for the log and for recordings.
        client: receives events, text and audio.
        conversation: new or resumed.
        spawn: starts a task whose failure ends the connection.
    """

    def __init__(
        self,
        name: str,
        context: ServerContext,
        client: Client,
        conversation: ResumableConversation,
        spawn: Spawn,
    ) -> None:
        self.name, self.conversation = name, conversation
        self._context, self._client, self._spawn = context, client, spawn
        network = context.vad_network
        activity = None if network is None else VoiceActivity(network)
        self._detector = TurnDetector(context.options.max_utterance_seconds, activity)
        self._turn: Turn | None = None
        self._interrupted: Turn | None = None
        self._settling: asyncio.Task[None] | None = None
        self._transcribing: asyncio.Task[None] | None = None
        self._active_at = time.monotonic()

    async def open(self) -> None:
        """Begin to listen."""
        self._active_at = time.monotonic()
        self._configure_detector()
        await self._report_listening()

    async def close(self) -> None:
        """Interrupt the turn; return when the models are released and recordings are written."""
        self._interrupt("disconnect")
        running = None if self._turn is None else self._turn.task
        last = {task for task in (self._settling, running) if task is not None}
        if last:
            await asyncio.wait(last)

    async def reply_played(self) -> None:
        """Wait until the current reply, if there is one, has been sent and played."""
        turn = self._turn
        if turn is not None and turn.task is not None:
            await asyncio.wait({turn.task})
            await asyncio.sleep(turn.sender.lead_s)

    @property
    def in_play(self) -> bool:
        """Whether a reply is being generated, sent or played."""
        return self._turn is not None and self._turn.in_play

    @property
    def idle_s(self) -> float:
        """Seconds since the last reply or since :meth:`open`; 0 while a reply is in play."""
        return 0.0 if self.in_play else time.monotonic() - self._active_at

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
            self._detector.clear()
            self._detector.on = True
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
            return [] if ignored else self._detector.push(samples)

        # In a thread, but awaited: a pause that follows finds all audio that came before it.
        for event in await asyncio.to_thread(detect):
            await self._client.event(event.value)
            if event is SpeechEvent.SPEECH_START:
                self._barge_in()
            else:
                await self._ask_by_voice()

    async def start_listening(self) -> None:
        """Interrupt the reply and collect a new question."""
        self._interrupt("button")
        self._detector.clear()
        self._detector.on = True
        await self._report_listening()

    async def end_question(self) -> None:
        """Stop listening and ask what was collected; hands-free, this mutes the microphone."""
        if not self._detector.on:
            return
        self._detector.on = False
        await self._report_listening()
        if not self._detector.hands_free or self._detector.speaking:
            await self._ask_by_voice()

    def _configure_detector(self) -> None:
        settings, detector = self.conversation.settings, self._detector
        detector.hands_free = settings.hands_free
        detector.end_silence_ms = settings.end_silence_ms
        detector.threshold = settings.vad_threshold

    async def _report_listening(self) -> None:
        await self._client.event(
            "listening", on=self._detector.on, hands_free=self._detector.hands_free
        )

    async def _discard_microphone(self) -> None:
        """Drop a half-spoken question: one asked in another way replaces it."""
        self._detector.clear()
        if self._detector.on and not self._detector.hands_free:
            self._detector.on = False
            await self._report_listening()

    def _barge_in(self) -> None:
        turn = self._turn
        if turn is None or not turn.in_play:
            return
        self._interrupt("voice")
        if not turn.sender.started and turn.source == "voice":
            # The user had only paused: what was said before belongs to the question.
            assert isinstance(turn.question, tuple)
            self._detector.put_back(turn.question[0])

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
        self._interrupt("button")
        self.conversation.chat = self._context.models.new_chat()
        await self._client.event("reset")
        await self.start_listening()

    def report_played(self, turn_number: object, samples: int) -> None:
        """Note how many samples [24 kHz] of the current turn's reply the client has played."""
        if self._turn is not None and self._turn.number == turn_number:
            self._turn.sender.reported_samples = samples

    async def _ask_by_voice(self) -> None:
        nothing_heard, truncated = self._detector.nothing_heard, self._detector.truncated
        samples = self._detector.take()
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
        self._interrupt(source)
        self._active_at = time.monotonic()
        self.conversation.turn_count += 1
        turn = Turn(
            self._context,
            self._client,
            self.conversation,
            self.conversation.turn_count,
            source,
            question,
            before=self._interrupted,
            on_audio=self._detector.echo.play,
        )
        self._turn, turn.task = turn, self._spawn(self._answer(turn))
        if self.conversation.settings.transcribe and isinstance(question, tuple):
            before = self._transcribing
            self._transcribing = self._spawn(self._transcribe(turn, question, before))

    async def _answer(self, turn: Turn) -> None:
        await turn.run()
        self._active_at = time.monotonic()
        await self._record(turn)

    def _interrupt(self, cause: str) -> None:
        """Stop the current turn if it is in play; the next one waits until it has settled."""
        turn = self._turn
        if turn is None or not turn.in_play:
            return
        assert turn.task is not None
        task, running = turn.task, turn.state is not TurnState.DONE
        self._context.metrics.cancels.labels(cause).inc()
        turn.interrupt()

        async def settle() -> None:
            if running:
                await asyncio.wait({task})
            await turn.settle()
            if running:
                await self._record(turn)
            else:
                await asyncio.wait({task})  # its recording may still be written

        self._turn, self._interrupted = None, turn
        self._settling = self._spawn(settle())

    async def _record(self, turn: Turn) -> None:
        if self._context.recordings is None or turn.recording is None:
            return
        question = turn.question if isinstance(turn.question, str) else turn.question[0]
        audio = np.concatenate([*turn.recording, np.zeros(0, np.float32)])
        try:
            await asyncio.to_thread(
                self._context.recordings.save, self.name, turn.number, question, turn.text, audio
            )
        except (OSError, AudioError):
            logger.exception("a turn could not be recorded", extra={"session": self.name})

    async def _transcribe(
        self, turn: Turn, question: tuple[np.ndarray, int], before: asyncio.Task[None] | None
    ) -> None:
        """Report the transcript of a spoken question once no reply needs the models.

        Args:
            turn: the turn of the question.
            question: samples [S] and their rate.
            before: the transcription of the turn before; they run one after another.
        """
        if before is not None:
            await asyncio.wait({before})
        await turn.generated()
        while self._turn is not None and self._turn.generating:
            await self._turn.generated()
        chat = self._context.models.new_chat()
        # Nobody speaks faster than ten tokens a second.
        sampling = Sampling(max_new_tokens=20 + 10 * len(question[0]) // question[1])
        job = self._context.engine.submit(
            lambda: chat.stream(
                text=TRANSCRIBE_PROMPT, audio=question, speech=False, sampling=sampling
            ),
            background=True,
        )
        try:
            async for event in job:
                if isinstance(event, ReplyDone):
                    await self._client.event(
                        "transcript", turn=turn.number, text=event.reply.text.strip()
                    )
        except ConnectionError:
            raise
        except Exception:
            logger.warning("no transcript", exc_info=True, extra={"session": self.name})
        finally:
            job.cancel()
