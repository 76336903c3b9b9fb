# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A session: the turns of one client and its microphone, whatever protocol it speaks."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from funaudiochat.constants import INPUT_RATE_HZ, TRANSCRIBE_PROMPT
from funaudiochat.errors import AudioError
from funaudiochat.events import ReplyDone
from funaudiochat.sampling import Sampling
from web_demo.server.client import Client
from web_demo.server.context import ServerContext
from web_demo.server.reply_generator import Question, samples_of
from web_demo.server.turn import History, Turn, TurnState
from web_demo.server.turn_detector import TurnDetector
from web_demo.server.vad import VoiceActivity

logger = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Session:
    """Runs turns one after another; knows neither a protocol nor when a question is complete.

    At most one turn is current. :meth:`begin_turn`, :meth:`interrupt` and :meth:`close` interrupt
    it, and the next one runs as soon as the interrupted one is settled
    (:class:`~web_demo.server.turn.TurnState`). Turns aside run beside it and beside each other.
    A subclass for each protocol decides what a question is and what interrupts a reply.

    Args:
        name: random name, for the log and for recordings.
        spawn: starts a task whose failure ends the connection.

    Attributes:
        detector: collects the microphone's audio; subclasses configure it.
    """

    def __init__(self, name: str, context: ServerContext, spawn: Spawn) -> None:
        self.name = name
        self._context, self._spawn = context, spawn
        network = context.vad_network
        activity = None if network is None else VoiceActivity(network)
        self.detector = TurnDetector(context.options.max_utterance_seconds, activity)
        self._turn: Turn | None = None
        self._interrupted: Turn | None = None
        self._aside: set[Turn] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._transcribing = asyncio.Lock()
        self._active_at = time.monotonic()

    async def close(self) -> None:
        """Interrupt all turns; return when the models are released and recordings are written."""
        self.interrupt("disconnect")
        for turn in list(self._aside):
            self.interrupt_aside(turn, "disconnect")
        running = None if self._turn is None else self._turn.task
        last = {task for task in (*self._settling, running) if task is not None}
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
    def replying(self) -> bool:
        """Whether a reply is being generated or sent."""
        return self._turn is not None and self._turn.replying

    @property
    def idle_s(self) -> float:
        """Seconds since the last reply or since the session began; 0 while a reply is in play."""
        busy = self.in_play or bool(self._aside)
        return 0.0 if busy else time.monotonic() - self._active_at

    def begin_turn(
        self,
        number: int,
        source: str,
        question: Question,
        history: History,
        client: Client,
        functions: Sequence[dict[str, Any]] = (),
        aside: bool = False,
    ) -> Turn:
        """Answer a question, after interrupting the current reply.

        Args:
            number: number of the turn.
            source: where the question came from, for events and metrics.
            question: the question.
            history: the conversation it continues.
            client: receives the events of this turn.
            functions: definitions of functions the client runs; see ReplyGenerator.
            aside: leave the current reply alone, and run beside it.
        """
        if not aside:
            self.interrupt(source)
        self._active_at = time.monotonic()
        before = None if aside else self._interrupted
        turn = Turn(
            self._context,
            client,
            history,
            number,
            source,
            question,
            before=before,
            on_audio=self.detector.echo.play,
            functions=functions,
        )
        if aside:
            self._aside.add(turn)
        else:
            self._turn = turn
        turn.task = self._spawn(self._answer(turn))
        return turn

    def interrupt(self, cause: str) -> None:
        """Stop the current turn if it is in play; the next one waits until it has settled."""
        turn = self._turn
        if turn is not None and turn.in_play:
            self._turn, self._interrupted = None, turn
            self._stop(turn, cause)

    def interrupt_aside(self, turn: Turn, cause: str) -> None:
        """Stop a turn aside, if it has not ended."""
        if turn in self._aside and turn.replying:
            self._stop(turn, cause)
        self._aside.discard(turn)

    def _stop(self, turn: Turn, cause: str) -> None:
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

        settling = self._spawn(settle())
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def _answer(self, turn: Turn) -> None:
        try:
            await turn.run()
        finally:
            self._aside.discard(turn)
        self._active_at = time.monotonic()
        await self._record(turn)

    async def _record(self, turn: Turn) -> None:
        if self._context.recordings is None or turn.recording is None:
            return
        audio = np.concatenate([*turn.recording, np.zeros(0, np.float32)])
        try:
            await asyncio.to_thread(
                self._context.recordings.save,
                self.name,
                turn.number,
                samples_of(turn.question),
                turn.text,
                audio,
            )
        except (OSError, AudioError):
            logger.exception("a turn could not be recorded", extra={"session": self.name})

    async def transcribe(self, samples: np.ndarray, turn: Turn | None) -> str:
        """Return the transcript of a spoken question once no reply needs the models.

        Questions are transcribed one after another, in the order of the calls.

        Args:
            samples: the question [S] at 16 kHz.
            turn: the turn that answers it, if there is one.

        Raises:
            FunAudioChatError: it cannot be transcribed.
        """
        async with self._transcribing:
            if turn is not None:
                await turn.generated()
            while self._turn is not None and self._turn.generating:
                await self._turn.generated()
            chat = self._context.models.new_chat()
            # Nobody speaks faster than ten tokens a second.
            sampling = Sampling(max_new_tokens=20 + 10 * len(samples) // INPUT_RATE_HZ)
            job = self._context.engine.submit(
                lambda: chat.stream(
                    text=TRANSCRIBE_PROMPT,
                    audio=(samples, INPUT_RATE_HZ),
                    speech=False,
                    sampling=sampling,
                ),
                background=True,
            )
            text = ""
            try:
                async for event in job:
                    if isinstance(event, ReplyDone):
                        text = event.reply.text.strip()
            finally:
                job.cancel()
            return text
