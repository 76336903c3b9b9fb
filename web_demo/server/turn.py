# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""One turn: a question goes to the engine, its answer to the page in step with the sound."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from funaudiochat.conversation import Conversation
from funaudiochat.errors import FunAudioChatError
from funaudiochat.events import Event, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.tool_calls import CALL_OPENS, ToolCall, find_tool_calls
from web_demo.server import tools
from web_demo.server.engine import Engine, Job
from web_demo.server.metrics import Metrics
from web_demo.server.opus import FRAME_SAMPLES, REPLY_RATE_HZ, OpusEncoder
from web_demo.server.outbox import Outbox
from web_demo.server.settings import Settings
from web_demo.server.speaker import Chunk, Speaker, Text

logger = logging.getLogger(__name__)

QUEUE_CHUNKS = 64
STEP_S = 0.2  # a written answer is read about as fast as a spoken one is heard
MODEL_FAILED = "the model failed on this turn; the talk goes on, please ask again"

Question = tuple[np.ndarray, int] | str  # samples and their rate, or a text


@dataclass
class Talk:
    """What lasts when a connection does not: the conversation and its settings."""

    chat: Conversation
    settings: Settings
    resume: str
    turns: int = 0


@dataclass
class Stages:
    """Milliseconds from the question to what happened; None for what did not."""

    first_text_ms: int | None = None
    first_codes_ms: int | None = None
    first_audio_ms: int | None = None
    total_ms: int | None = None
    compute_ms: int | None = None
    real_time_factor: float | None = None


@dataclass
class Turn:
    """One question and its answer, which the talk's conversation takes over as far as it is heard.

    Attributes:
        before: the turn that was interrupted last; it must have let go of the models first.
        old_page: gets silence behind the sound.
        sending: called with the audio of each message of the answer.
        recording: collects the sound of the answer.
        answer: text of the answer; after an interruption as far as it was heard.
        reason: how it ended.
        made: the models have done their work, or the turn is over.
        told: it was interrupted, and the page has been told.
        settled: it was interrupted, and nothing of it goes on.
    """

    number: int
    source: str
    question: Question
    talk: Talk
    settings: Settings
    engine: Engine
    outbox: Outbox
    encoder: OpusEncoder
    metrics: Metrics
    old_page: bool
    sending: Callable[[np.ndarray], None]
    before: "Turn | None" = None
    recording: list[np.ndarray] | None = None
    answer: str = ""
    reason: str | None = None
    stages: Stages = field(default_factory=Stages)
    made: asyncio.Event = field(default_factory=asyncio.Event)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    _begun: bool = False
    _chat: Conversation | None = None
    _parent: Conversation | None = None
    _job: Job | None = None
    _began: float = field(default_factory=time.monotonic)
    _compute_s: float = 0.0

    def __post_init__(self) -> None:
        self.speaker = Speaker(
            self.outbox,
            self.encoder,
            self.speech,
            self.old_page,
            self.recording,
            self.sending,
            lambda: self._mark("first_audio"),
        )

    @property
    def speech(self) -> bool:
        """The answer is spoken."""
        return self.settings.answer == "speech"

    @property
    def in_play(self) -> bool:
        """It is being made, sent or played."""
        return self.reason is None or (self.reason == "done" and self.speaker.lead_s > 0)

    async def run(self) -> None:
        """Answer; cancel the task to interrupt, then :meth:`settle`.

        Raises:
            ConnectionError: the page is gone.
        """
        await self._begin()
        if self.old_page:
            await self.outbox.text("[Processing...]")
        try:
            if self.before is not None:
                await self.before.settled.wait()
                self.before = None  # or each turn would keep all that came before it
            self._parent = self.talk.chat
            self._chat = self._parent.branch()
            offered = self.settings.tools and self.engine.models.tools
            if not (offered and await self._call_tool()):
                await self._give(self._ask)
            self.answer = self.speaker.text
            self._adopt()
            await self.end("done")
        except FunAudioChatError as error:
            await self._fail("bad_question", str(error))
        except ConnectionError:
            raise
        except Exception:
            logger.exception("the model failed", extra={"turn": self.number})
            await self._fail("model_error", MODEL_FAILED)
        finally:
            if self._job is not None:
                self._job.cancel()  # after a failure the models would work on for nobody
            self.made.set()

    def cut(self) -> None:
        """Keep as the answer what was heard."""
        self.speaker.heard = self.speaker.played_samples
        self.answer = self.speaker.heard_text()

    async def settle(self) -> None:
        """After an interruption: tell the page, let go of the models, keep what was heard."""
        finished = self.reason == "done"
        try:
            with contextlib.suppress(ConnectionError):
                await self._begin()
                await self.end("interrupted")
            self.told.set()
            if self.before is not None:
                await self.before.settled.wait()
            await self._let_go()
            if self.speaker.started and self._chat is not None:
                self._chat.truncate_last_reply(self.answer)
                if not finished:
                    self._adopt()
        finally:
            self.before = None
            self.told.set()
            self.settled.set()

    async def _begin(self) -> None:
        """Tell the page of this turn, after the end of the one that it interrupts."""
        if self.before is not None:
            await self.before.told.wait()
        if self._begun:
            return
        self._begun = True
        seconds = None
        if isinstance(self.question, tuple):
            seconds = round(len(self.question[0]) / self.question[1], 3)
        await self.outbox.event("turn_start", turn=self.number, source=self.source, seconds=seconds)

    def _adopt(self) -> None:
        # Not if the conversation was reset meanwhile.
        if self._chat is not None and self.talk.chat is self._parent:
            self.talk.chat = self._chat

    async def end(self, reason: str) -> None:
        """Tell how the turn ended; one cut while its tail plays ends twice."""
        if self.reason is None:
            self.metrics.turns.labels(reason).inc()
        self.reason = reason
        stages, sent_s = self.stages, self.speaker.sent_samples / REPLY_RATE_HZ
        stages.total_ms = stages.total_ms or self._elapsed_ms()
        compute_s = self._compute_s + (0 if self._job is None else self._job.compute_s)
        stages.compute_ms = round(compute_s * 1000)
        if reason == "done" and sent_s:
            stages.real_time_factor = round(compute_s / sent_s, 3)
            self.metrics.real_time_factor.observe(compute_s / sent_s)
        await self.outbox.event(
            "turn_end",
            turn=self.number,
            reason=reason,
            text=self.answer,
            audio_ms=round(sent_s * 1000),
            played_ms=round(self.speaker.played_samples / REPLY_RATE_HZ * 1000),
            stages=asdict(stages),
        )

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    async def _mark(self, stage: str) -> None:
        """The first time a stage is reached."""
        if getattr(self.stages, f"{stage}_ms") is not None:
            return
        elapsed_ms = self._elapsed_ms()
        setattr(self.stages, f"{stage}_ms", elapsed_ms)
        self.metrics.stages.labels(stage).observe(elapsed_ms / 1000)
        if stage == "first_audio":
            self.metrics.first_sound.observe(elapsed_ms / 1000)
        await self.outbox.event(stage, turn=self.number, ms=elapsed_ms)

    async def _fail(self, code: str, message: str) -> None:
        self.cut()
        await self.outbox.error(code, message, turn=self.number)
        await self.end("error")

    def _question(self) -> dict[str, Any]:
        """Return the question as arguments of a conversation."""
        return {"text" if isinstance(self.question, str) else "audio": self.question}

    def _ask(self) -> Iterator[Event]:
        assert self._chat is not None
        self._chat.system = self.settings.system(self.speech)
        sampling = self.settings.sampling.to_sampling()
        return self._chat.stream(**self._question(), speech=self.speech, sampling=sampling)

    async def _submit(self, begin: Callable[[], Iterator[Event]]) -> Job:
        """The next job of this turn, when the one before has ended."""
        await self._let_go()
        self._job = self.engine.submit(begin)
        return self._job

    async def _let_go(self) -> None:
        """Cancel the job, and wait until the models have let go of it."""
        if self._job is not None:
            self._job.cancel()
            await self._job.closed.wait()
            self._compute_s += self._job.compute_s
            self._job = None

    async def _call_tool(self) -> bool:
        """Ask with tools; if the model calls one, run it and give the answer made from its result.

        The model writes calls only in text answers and begins with them: as soon as its text is
        something else, it is asked again without tools, for a spoken answer.
        """
        assert self._parent is not None
        branch = self._parent.branch()
        sampling = self.settings.sampling.to_sampling()
        exact = replace(sampling, text_greedy=True)  # a call is JSON: chance only breaks it
        job = await self._submit(
            lambda: branch.stream(
                **self._question(),
                tools=self.engine.models.tools,
                speech=False,
                sampling=exact,
            )
        )
        text, finished = "", False
        async for event in job:
            if isinstance(event, ReplyDone):
                finished = True
            elif isinstance(event, TextDelta):
                text += event.text
                opening = text.lstrip()[: len(CALL_OPENS)]
                if not CALL_OPENS.startswith(opening):
                    return False
        results = [await self._run_tool(call) for _, _, call in find_tool_calls(text)]
        if not finished or not results:
            return False
        self._chat = branch
        result = results[0] if len(results) == 1 else results
        system = self.settings.system(self.speech)

        def begin() -> Iterator[Event]:
            branch.system = system
            return branch.stream_tool_result(result, speech=self.speech, sampling=sampling)

        await self._give(begin)
        return True

    async def _run_tool(self, call: ToolCall | str) -> dict[str, Any]:
        """Run a call, and show it on the page; what is wrong with one is its result."""
        if isinstance(call, str):
            return {"error": call}
        await self.outbox.event(
            "tool_call", turn=self.number, name=call.name, arguments=call.arguments
        )
        result = await asyncio.to_thread(tools.run, call)
        await self.outbox.event("tool_result", turn=self.number, name=call.name, result=result)
        return result

    async def _give(self, begin: Callable[[], Iterator[Event]]) -> None:
        """Make an answer and send it, both at once: sound waits for its time, the models do not."""
        job = await self._submit(begin)
        chunks: asyncio.Queue[Chunk] = asyncio.Queue(QUEUE_CHUNKS)
        making = asyncio.create_task(self._make(job, chunks))
        try:
            await self.speaker.send(chunks)
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)

    async def _make(self, job: Job, chunks: asyncio.Queue[Chunk]) -> None:
        """Take a job's events; its codes become sound here. What fails is passed on as the last."""
        assert self._chat is not None
        try:
            voice = None
            if self.speech:
                begin = self.engine.models.begin_voice
                voice = await self.engine.voice(job, begin, self.settings.voice)
            codes = 0
            async for event in job:
                if isinstance(event, TextDelta):
                    await self._mark("first_text")
                    if voice is None:
                        job.gave(STEP_S)
                    await chunks.put(Text(event.text, codes * FRAME_SAMPLES))
                elif isinstance(event, SpeechTokens) and voice is not None:
                    await self._mark("first_codes")
                    codes += len(event.spoken)
                    sound = await self.engine.voice(job, voice.push, event.spoken)
                    if len(sound):
                        job.gave(len(sound) / REPLY_RATE_HZ)
                    await chunks.put(sound.numpy())
            if voice is not None:
                await chunks.put((await self.engine.voice(job, voice.finish)).numpy())
            self.stages.total_ms = self._elapsed_ms()
            await chunks.put(None)
        except Exception as error:
            await chunks.put(error)
        finally:
            self.made.set()
