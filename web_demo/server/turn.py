# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A turn: a question and its reply, from the first event to the history that it leaves."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from funaudiochat.conversation import Conversation
from funaudiochat.errors import FunAudioChatError
from funaudiochat.events import Reply
from web_demo.server.client import Client
from web_demo.server.context import ServerContext
from web_demo.server.reply_generator import Question, ReplyGenerator, samples_of
from web_demo.server.reply_sender import Chunk, ReplySender
from web_demo.server.settings import Settings

logger = logging.getLogger(__name__)

# Chunks and texts that wait to be sent: some six seconds of a reply. More would be wasted when the
# user interrupts.
QUEUE_CHUNKS = 32
MODEL_FAILED = "the model failed on this turn; the conversation continues, please ask again"


class TurnState(Enum):
    """Where a turn stands.

    ::

        PENDING ──► GENERATING ──► SENDING ──► DONE
           │         │      │       │   │        │
           │         │      └───┬───┘   │        │
           │         │          ▼       │        │
           │         │       FAILED     │        │
           │         │                  │        │
           └─────────┴────┬─────────────┴────────┘
                          ▼
                     INTERRUPTED ──► RELEASING ──► SETTLED

    The values of DONE, FAILED and INTERRUPTED are the reasons of the ``turn_end`` event.
    """

    PENDING = "pending"
    """Asked; an interrupted turn before it has not reported its end yet."""
    GENERATING = "generating"
    """Its ``turn_start`` is reported; the models work on the reply while it is being sent."""
    SENDING = "sending"
    """The models have finished; the rest of the audio waits for its time to be sent."""
    DONE = "done"
    """All of it is sent and in the history; up to a second of audio may still be played."""
    FAILED = "error"
    """The question was refused, or the models failed."""
    INTERRUPTED = "interrupted"
    """Cut off, also while its end is played; the text is what the user heard."""
    RELEASING = "releasing"
    """The interruption is reported; the models may still be in a step of the reply."""
    SETTLED = "settled"
    """The models are released, and the history holds what was heard: the next turn may run."""


_TRANSITIONS = {
    TurnState.PENDING: {TurnState.GENERATING, TurnState.INTERRUPTED},
    TurnState.GENERATING: {TurnState.SENDING, TurnState.FAILED, TurnState.INTERRUPTED},
    TurnState.SENDING: {TurnState.DONE, TurnState.FAILED, TurnState.INTERRUPTED},
    TurnState.DONE: {TurnState.INTERRUPTED},
    TurnState.FAILED: set[TurnState](),
    # Straight to SETTLED only if the report itself fails.
    TurnState.INTERRUPTED: {TurnState.RELEASING, TurnState.SETTLED},
    TurnState.RELEASING: {TurnState.SETTLED},
    TurnState.SETTLED: set[TurnState](),
}


class History(Protocol):
    """The conversation that a turn continues, and the settings that it takes."""

    chat: Conversation
    settings: Settings


@dataclass
class Latency:
    """Milliseconds from the question to each stage, None for one that was not reached.

    The field names are those of the ``turn_end`` event.
    """

    first_text_ms: int | None = None
    first_codes_ms: int | None = None
    first_audio_ms: int | None = None
    total_ms: int | None = None
    compute_ms: int | None = None
    real_time_factor: float | None = None


class Turn:
    """One question and its reply.

    :meth:`run` answers in a task of its own. :meth:`interrupt` cuts it off at any time;
    :meth:`settle` then waits for the models and writes what was heard into the history.

    Args:
        history: the conversation it continues; it takes over the reply as far as it was heard.
        before: the turn interrupted last, which must settle before this one runs.
        on_audio: called with each frame of audio that is sent.
        functions: definitions of functions that the client runs.

    Attributes:
        source: ``voice``, ``text``, ``file`` or ``realtime``.
        settings: a snapshot of the conversation's, from when the question was asked.
        text: text of the reply; after an interruption, what was heard of it.
        recording: the audio that was sent, None if turns are not recorded.
        task: runs :meth:`run`.
    """

    def __init__(
        self,
        context: ServerContext,
        client: Client,
        history: History,
        number: int,
        source: str,
        question: Question,
        before: "Turn | None",
        on_audio: Callable[[np.ndarray], None],
        functions: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.number, self.source, self.question = number, source, question
        self.settings = history.settings
        self.text = ""
        self.latency = Latency()
        self.recording: list[np.ndarray] | None = None if context.recordings is None else []
        self.sender = ReplySender(
            client, self.settings.speech, self.recording, on_audio, self._mark_first_audio
        )
        self.task: asyncio.Task[None] | None = None
        self._metrics, self._engine = context.metrics, context.engine
        self._client, self._history, self._before = client, history, before
        self._generator: ReplyGenerator | None = None
        self._functions = functions
        self._asked_at = time.monotonic()
        self._state = TurnState.PENDING
        self._interrupted_in: TurnState | None = None
        self._state_changed = asyncio.Event()

    @property
    def state(self) -> TurnState:
        """Where the turn stands; only the turn itself changes it."""
        return self._state

    @property
    def generating(self) -> bool:
        """Whether the models have work left, or are about to begin."""
        return self.state in (TurnState.PENDING, TurnState.GENERATING)

    @property
    def in_play(self) -> bool:
        """Whether the reply is being generated, sent or played."""
        if self.state is TurnState.DONE:
            return self.sender.lead_s > 0
        return self.replying

    @property
    def replying(self) -> bool:
        """Whether the reply is being generated or sent."""
        return self.generating or self.state is TurnState.SENDING

    @property
    def reply(self) -> Reply | None:
        """The models' whole reply, None until they have finished."""
        return None if self._generator is None else self._generator.reply

    @property
    def prompt_steps(self) -> int:
        """Steps of the prompt, 0 until the models have it."""
        return 0 if self._generator is None else self._generator.prompt_steps

    @property
    def steps(self) -> int:
        """Steps of the reply so far."""
        return 0 if self._generator is None else self._generator.steps

    async def generated(self) -> None:
        """Wait until the models have finished with the reply, or it was cut off."""
        await self._until(lambda: not self.generating)

    async def run(self) -> None:
        """Answer the question; :meth:`interrupt` cancels this.

        Raises:
            ConnectionError: the client has disconnected.
        """
        await self._wait_for_end_of_interrupted()
        self._move(TurnState.GENERATING)
        await self._report_start()
        await self._client.reply_pending()
        try:
            if self._before is not None:
                await self._before._until_settled()
                self._before = None  # or each turn would keep all that came before it
            await self._reply()
            self.text = self.sender.text
            await self._report_calls()
            self._adopt()
            self._move(TurnState.DONE)
            await self._report_end()
        except FunAudioChatError as error:
            await self._fail("bad_question", str(error))
        except ConnectionError:
            raise
        except Exception:
            logger.exception("the model failed", extra={"turn": self.number})
            await self._fail("model_error", MODEL_FAILED)
        finally:
            if self._generator is not None:
                self._generator.cancel()  # after a failure the models would work for nobody

    def interrupt(self) -> None:
        """Cut the reply off: stop its task, and keep the text that the user heard."""
        assert self.task is not None
        before = self.state
        self._keep_heard()
        self._move(TurnState.INTERRUPTED)
        self._interrupted_in = before
        if before is not TurnState.DONE:
            self.task.cancel()

    async def settle(self) -> None:
        """Report the interruption, release the models, keep what was heard in the history.

        Call it when :meth:`interrupt` has ended :meth:`run`.
        """
        try:
            with contextlib.suppress(ConnectionError):
                if self._interrupted_in is TurnState.PENDING:
                    await self._wait_for_end_of_interrupted()
                    await self._report_start()
                await self._report_end()
            self._move(TurnState.RELEASING)
            if self._before is not None:
                await self._before._until_settled()
            if self._generator is not None:
                await self._generator.release()
                if self.sender.started:
                    self._generator.branch.truncate_last_reply(self.text)
                    self._adopt()
        finally:
            self._before = None
            self._move(TurnState.SETTLED)

    def _move(self, state: TurnState) -> None:
        """Change the state.

        Raises:
            RuntimeError: the states are not connected in :class:`TurnState`.
        """
        if state not in _TRANSITIONS[self._state]:
            raise RuntimeError(f"turn {self.number} cannot go from {self._state} to {state}")
        self._state = state
        self._state_changed.set()
        self._state_changed = asyncio.Event()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self._state_changed.wait()

    async def _until_settled(self) -> None:
        await self._until(lambda: self.state is TurnState.SETTLED)

    async def _wait_for_end_of_interrupted(self) -> None:
        """Let the interrupted turn report its end before this one reports its start."""
        if self._before is not None:
            before = self._before
            await before._until(lambda: before.state in (TurnState.RELEASING, TurnState.SETTLED))

    async def _reply(self) -> None:
        """Generate and send at the same time: audio waits for its time, the models do not."""
        self._generator = ReplyGenerator(
            self._engine,
            self._client,
            self._history.chat,
            self.number,
            self.question,
            self.settings,
            self._mark,
            self._functions,
        )
        chunks: asyncio.Queue[Chunk] = asyncio.Queue(QUEUE_CHUNKS)
        generating = asyncio.create_task(self._generate(self._generator, chunks))
        try:
            await self.sender.send(chunks)
        finally:
            generating.cancel()
            await asyncio.gather(generating, return_exceptions=True)

    async def _generate(self, generator: ReplyGenerator, chunks: asyncio.Queue[Chunk]) -> None:
        """Fill the queue; an error is passed on as its last chunk."""
        last: Exception | None = None
        try:
            await generator.run(chunks)
            self.latency.total_ms = self._elapsed_ms()
        except Exception as error:
            last = error
        if self.state is TurnState.GENERATING:  # not if it was interrupted meanwhile
            self._move(TurnState.SENDING)
        await chunks.put(last)

    async def _report_calls(self) -> None:
        """Report the calls of the client's functions, after the text and audio before them."""
        if self._functions and self.reply is not None:
            for call in self.reply.tool_calls:
                await self._client.event(
                    "tool_call", turn=self.number, name=call.name, arguments=call.arguments
                )

    def _keep_heard(self) -> None:
        """Freeze what was played so far, and keep its text."""
        self.sender.reported_samples = self.sender.played_samples
        self.text = self.sender.heard_text()

    def _adopt(self) -> None:
        """Let the conversation continue from this turn, unless it was reset meanwhile."""
        assert self._generator is not None
        if self._history.chat is self._generator.parent:
            self._history.chat = self._generator.branch

    async def _report_start(self) -> None:
        asked, seconds = samples_of(self.question), None
        if not isinstance(asked, str):
            seconds = round(len(asked) / INPUT_RATE_HZ, 3)
        await self._client.event(
            "turn_start", turn=self.number, source=self.source, seconds=seconds
        )

    async def _report_end(self) -> None:
        """Report how the turn ended; one that is interrupted after DONE reports it twice."""
        if self._interrupted_in is not TurnState.DONE:
            self._metrics.turns.labels(self.state.value).inc()
        latency, sent_s = self.latency, self.sender.sent_samples / OUTPUT_RATE_HZ
        latency.total_ms = latency.total_ms or self._elapsed_ms()
        compute_s = 0.0 if self._generator is None else self._generator.compute_s
        latency.compute_ms = round(compute_s * 1000)
        if self.state is TurnState.DONE and sent_s:
            latency.real_time_factor = round(compute_s / sent_s, 3)
            self._metrics.real_time_factor.observe(compute_s / sent_s)
        await self._client.event(
            "turn_end",
            turn=self.number,
            reason=self.state.value,
            text=self.text,
            audio_ms=round(sent_s * 1000),
            played_ms=round(self.sender.played_samples / OUTPUT_RATE_HZ * 1000),
            stages=asdict(latency),
        )

    async def _fail(self, code: str, message: str) -> None:
        self._keep_heard()
        await self._client.error(code, message, turn=self.number)
        self._move(TurnState.FAILED)
        await self._report_end()

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._asked_at) * 1000)

    async def _mark(self, stage: str) -> None:
        """Report the first time that a stage is reached."""
        if getattr(self.latency, f"{stage}_ms") is not None:
            return
        elapsed_ms = self._elapsed_ms()
        setattr(self.latency, f"{stage}_ms", elapsed_ms)
        self._metrics.stages.labels(stage).observe(elapsed_ms / 1000)
        if stage == "first_audio":
            self._metrics.first_audio.observe(elapsed_ms / 1000)
        await self._client.event(stage, turn=self.number, ms=elapsed_ms)

    async def _mark_first_audio(self) -> None:
        await self._mark("first_audio")
