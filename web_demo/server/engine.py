# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The one owner of the models: it makes all talkers' answers, a step of each in turn.

A :class:`Job` is one answer: the events of a :class:`~funaudiochat.voice_chat.VoiceChat`, made
one by one in three threads. A job's first event (prompt and prefill) comes from the first, so that
a long question delays nobody; all others from the second; codes become sound in the third. Who has
nothing to hear yet goes first, in turn; then whose sound runs dry first. Each job has a bounded
queue of its own: one that is not emptied is not stepped, and what a cancelled job still makes goes
nowhere. Answers that another server computes are only waited for here, so many of them are stepped
at once.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from funaudiochat.capabilities import Capabilities, load_capabilities
from funaudiochat.conversation import Conversation
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer, DetokenizerStream
from funaudiochat.cosyvoice3.voices import (
    DEFAULT_VOICE,
    choose_voice,
    installed_voices,
)
from funaudiochat.events import Event, ReplyDone
from funaudiochat.remote_chat import ChatCompletionsClient, RemoteChat
from funaudiochat.voice_chat import VoiceChat
from web_demo.server import tools
from web_demo.server.settings import Answer

logger = logging.getLogger(__name__)

QUEUE_EVENTS = 64  # of one job: some twelve seconds of speech
WAITING_AT_ONCE = 64  # for another server's answers
STEP_TIMEOUT_S = 300.0  # of one call, with its wait for others: a slow machine reads long prompts
CLOSE_TIMEOUT_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """What is loaded, shared by all talks.

    Attributes:
        new_chat: begins a conversation; it gives codes, :class:`Engine` makes them sound.
        detokenizer: None if answers are text only.
        voices: name -> [192].
        voice: name of the default one.
        at_once: answers stepped at the same time.
        capabilities: what the page offers of this model.
    """

    name: str
    new_chat: Callable[[], Conversation]
    detokenizer: CosyVoice3Detokenizer | None
    voices: dict[str, Tensor]
    voice: str | None
    at_once: int = 1
    capabilities: Capabilities = Capabilities()

    @classmethod
    def load(
        cls, model_path: Path, tts_path: Path, device: str, tts_device: str, voice: str | None
    ) -> "Models":
        """Load both folders.

        Raises:
            CheckpointError, VoiceError: a folder or the voice cannot be used.
        """
        capabilities = load_capabilities(model_path)
        chat = VoiceChat.from_pretrained(
            model_path, tts_path, device=device, tts_device=tts_device, voice=voice
        )
        assert chat.detokenizer is not None
        voices = installed_voices(tts_path)
        chosen = choose_voice(voices, voice)
        default = voice or next(
            name for name in (DEFAULT_VOICE, *voices) if voices.get(name) is chosen
        )
        return cls(
            model_path.name,
            lambda: VoiceChat(chat.model, chat.processor),
            chat.detokenizer,
            voices,
            default,
            capabilities=capabilities,
        )

    @classmethod
    def of_server(cls, url: str, model: str | None, api_key: str) -> "Models":
        """Nothing is loaded: a server of OpenAI's protocol gives the answers, as text.

        Raises:
            ServerError: it cannot be reached, or serves no such model.
        """
        server = ChatCompletionsClient(url, model, api_key)
        return cls(server.model, lambda: RemoteChat(server), None, {}, None, WAITING_AT_ONCE)

    @property
    def answers(self) -> list[Answer]:
        """Kinds of answers there are, the usual one first."""
        return ["text"] if self.detokenizer is None else ["speech", "text"]

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Definitions of the demo's tools that the model can call."""
        known = self.capabilities.tools
        return [tool for tool in tools.DEFINITIONS if known is None or tool["name"] in known]

    def begin_voice(self, name: str | None) -> DetokenizerStream:
        """Sound of one answer, in a voice or the default one."""
        name = name or self.voice
        assert self.detokenizer is not None and name is not None
        return self.detokenizer.stream(self.voices[name])


class Job:
    """One answer in the making; iterate over it for its events.

    Args:
        background: nobody waits for it; it is made when nothing else is to be made.
    """

    def __init__(self, number: int, wake: Callable[[], None], background: bool = False) -> None:
        self.number, self._background = number, background
        self.compute_s = 0.0
        self.cancelled = False
        self._runs_dry_at: float | None = None
        self.closed = asyncio.Event()
        self._wake = wake
        # One more place than a step needs, for the end.
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue(QUEUE_EVENTS + 1)

    @property
    def full(self) -> bool:
        """Its reader is behind."""
        return self._events.qsize() >= QUEUE_EVENTS

    @property
    def urgency(self) -> float:
        """The less, the sooner it is to be worked on: when what there is of it runs dry."""
        if self._background:
            return math.inf
        return -math.inf if self._runs_dry_at is None else self._runs_dry_at

    def gave(self, seconds: float) -> None:
        """Note that so much more of it was made to be heard or read."""
        now = time.monotonic()
        self._runs_dry_at = max(self._runs_dry_at or now, now) + seconds

    def put(self, event: Event | Exception | None) -> None:
        """The engine's next event; an error, or None, is the last."""
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """Stop making it; `closed` is set when the models have let go of it."""
        self.cancelled = True
        self._wake()

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> Event:
        event = await self._events.get()
        self._wake()
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, Exception):
            raise event
        return event


class Engine:
    """Runs the jobs, so many at once; see the module's text."""

    def __init__(self, models: Models, at_once: int = 1) -> None:
        self.models = models
        self._numbers = count(1)
        self._ring: deque[tuple[Job, Iterator[Event]]] = deque()
        self._stepped = 0
        self._wake = asyncio.Event()
        self._prompts = ThreadPoolExecutor(at_once, "prompts")
        self._steps = ThreadPoolExecutor(at_once, "steps")
        self._voices = ThreadPoolExecutor(1, "voices")
        self._voice_busy = False
        self._voice_waiting: list[tuple[Job, asyncio.Future[None]]] = []
        self._starting: set[asyncio.Task[None]] = set()
        self._calls: set[Future[Any]] = set()
        self._hung: set[Future[Any]] = set()
        self._tasks = [asyncio.create_task(self._run(), name="engine") for _ in range(at_once)]

    @property
    def alive(self) -> bool:
        """The engine's tasks are running, and no call hangs."""
        return not self._hung and not any(task.done() for task in self._tasks)

    @property
    def calls(self) -> int:
        """Calls of the models that have not returned."""
        return len(self._calls)

    @property
    def jobs(self) -> int:
        """Answers in the making."""
        return len(self._ring) + len(self._starting) + self._stepped

    def submit(self, begin: Callable[[], Iterator[Event]], background: bool = False) -> Job:
        """Make an answer.

        Args:
            begin: gives its events; called, like they are made, in a thread of the engine.
            background: nobody waits for it.
        """
        job = Job(next(self._numbers), self._wake.set, background)
        task = asyncio.create_task(self._start(job, begin))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return job

    async def voice(self, job: Job, function: Callable[..., T], *args: Any) -> T:
        """Run one piece of the detokenizer's work for a job, the most urgent job's first."""
        if self._voice_busy:
            turn = asyncio.get_running_loop().create_future()
            self._voice_waiting.append((job, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_voice_on()
                raise
        self._voice_busy = True
        try:
            return await self._timed(job, self._voices, function, *args)
        finally:
            self._pass_voice_on()

    def _pass_voice_on(self) -> None:
        """Give the detokenizer to the most urgent of those who wait for it."""
        waiting = [entry for entry in self._voice_waiting if not entry[1].done()]
        self._voice_busy = bool(waiting)
        if waiting:
            first = min(waiting, key=lambda entry: entry[0].urgency)
            waiting.remove(first)
            first[1].set_result(None)
        self._voice_waiting = waiting

    async def close(self) -> None:
        """Let go of everything; jobs must have been cancelled. A call that hangs goes on."""
        tasks = [*self._starting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for executor in (self._prompts, self._steps, self._voices):
            executor.shutdown(wait=False, cancel_futures=True)
        if self._calls:
            calls = [asyncio.wrap_future(call) for call in list(self._calls)]
            await asyncio.wait(calls, timeout=CLOSE_TIMEOUT_S)

    async def _timed(
        self, job: Job, executor: Executor, function: Callable[..., T], *args: Any
    ) -> T:
        def run() -> tuple[T, float]:
            began = time.monotonic()
            try:
                return function(*args), time.monotonic() - began
            except Exception:
                raise
            except BaseException as error:  # a Rust library's panic, which would end the engine
                raise RuntimeError(repr(error)) from error

        call = executor.submit(run)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S) as limit:
                result, seconds = await asyncio.wrap_future(call)
        except TimeoutError as error:
            if not limit.expired():
                raise
            self._hung.add(call)
            call.add_done_callback(self._hung.discard)
            message = f"the models did not return within {STEP_TIMEOUT_S:g} s; restart the server"
            raise RuntimeError(message) from error
        job.compute_s += seconds
        return result

    async def _start(self, job: Job, begin: Callable[[], Iterator[Event]]) -> None:
        if job.cancelled:
            return job.closed.set()
        try:
            events = await self._timed(job, self._prompts, begin)
        except Exception as error:
            job.put(error)
            return job.closed.set()
        if await self._advance(job, events, self._prompts):
            self._ring.append((job, events))
            self._wake.set()

    async def _run(self) -> None:
        while True:
            ready = [entry for entry in self._ring if entry[0].cancelled or not entry[0].full]
            if not ready:
                self._wake.clear()
                await self._wake.wait()
                continue
            # The first of equals: who was stepped last stands last.
            job, events = min(ready, key=lambda entry: entry[0].urgency)
            self._ring.remove((job, events))
            self._stepped += 1
            goes_on = await self._advance(job, events, self._steps)
            self._stepped -= 1
            if goes_on:
                self._ring.append((job, events))
                self._wake.set()

    async def _advance(self, job: Job, events: Iterator[Event], executor: Executor) -> bool:
        """Make one event of a job -> whether there are more; what the model raises ends the job."""
        try:
            if not job.cancelled:
                event = await self._timed(job, executor, partial(next, events, None))
                if not job.cancelled:
                    job.put(event)
                    if event is not None and not isinstance(event, ReplyDone):
                        return True
                    if event is not None:
                        job.put(None)
            await self._timed(job, executor, events.close)  # type: ignore[attr-defined]
        except Exception as error:
            logger.debug("job %d failed", job.number, exc_info=True)
            job.put(error)
        job.closed.set()
        return False
