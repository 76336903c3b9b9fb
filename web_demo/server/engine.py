# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Owns the models and schedules the generation of all sessions.

A :class:`Job` is one reply: the events of a :class:`~funaudiochat.voice_chat.VoiceChat`, generated
in three threads. The first thread prepares a job's prompt: mel spectrogram and token ids. The
second runs the language model: the jobs' steps, one for all of them together, and between two
steps one block of one prompt, in turn, so that a long question delays nobody by more than that.
The third runs the detokenizer, for the job whose audio runs out first and for all whose chunks have
the same length. It changes jobs between two of the flow's solver steps, so that a long chunk delays
nobody who has nothing to hear yet. A job joins the steps of the others when its prompt has been
read. It is left out of a step while its reader is behind or, if another job has no output yet,
while its own lasts for a while; it leaves them when it ends or is cancelled. Events of a cancelled
job are dropped.

Replies whose steps cannot be taken together are generated event by event: jobs without any output
yet go first, in turn; then the job whose audio or text runs out first. Those that a remote server
computes are only waited for here, so many of them are stepped at once.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from funaudiochat.capabilities import Capabilities, load_capabilities
from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.conversation import Conversation
from funaudiochat.cosyvoice3.detokenizer import Chunk, CosyVoice3Detokenizer, DetokenizerStream
from funaudiochat.cosyvoice3.voices import (
    DEFAULT_VOICE,
    choose_voice,
    installed_voices,
)
from funaudiochat.events import AudioChunk, Event, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.generation_funaudiochat import SteppedEvents, next_events
from funaudiochat.remote_chat import ChatCompletionsClient, RemoteChat
from funaudiochat.voice_chat import VoiceChat
from web_demo.server import tools
from web_demo.server.settings import Answer

logger = logging.getLogger(__name__)

QUEUE_EVENTS = 64  # per job: about twelve seconds of speech
REMOTE_JOBS = 64  # stepped at the same time when a remote server computes the replies
STEP_TIMEOUT_S = 300.0  # of one call with its wait for others: long prompts on slow machines
CLOSE_TIMEOUT_S = 5.0
AMPLE_LEAD_S = 1.0  # who has this much to hear can wait for those who have nothing
STEP_S = 0.2  # written text is read about as fast as spoken text is heard
T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """The loaded models, shared by all sessions.

    Attributes:
        new_chat: starts a conversation that yields speech tokens; :class:`Engine` runs the
            detokenizer on them.
        detokenizer: None if replies are text only.
        voices: name -> speaker embedding [192].
        voice: name of the default voice.
        at_once: number of jobs stepped at the same time.
        capabilities: what the client offers of this model.
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
        cls,
        model_path: Path,
        tts_path: Path,
        device: str,
        tts_device: str,
        voice: str | None,
        weights: str | None = None,
    ) -> "Models":
        """Load the language model and the detokenizer.

        Raises:
            CheckpointError, VoiceError: a folder or the voice cannot be used.
        """
        capabilities = load_capabilities(model_path)
        chat = VoiceChat.from_pretrained(
            model_path,
            tts_path,
            device=device,
            tts_device=tts_device,
            voice=voice,
            weights=weights,
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
        """Let an OpenAI-compatible server compute the replies, as text; load nothing.

        Raises:
            ServerError: it cannot be reached, or does not serve the model.
        """
        server = ChatCompletionsClient(url, model, api_key)
        return cls(server.model, lambda: RemoteChat(server), None, {}, None, REMOTE_JOBS)

    @property
    def answers(self) -> list[Answer]:
        """Kinds of replies the models can give, the default first."""
        return ["text"] if self.detokenizer is None else ["speech", "text"]

    @property
    def tools(self) -> list[dict[str, Any]]:
        """Definitions of the demo tools that the model can call."""
        known = self.capabilities.tools
        return [tool for tool in tools.DEFINITIONS if known is None or tool["name"] in known]

    def detokenizer_stream(self, name: str | None) -> DetokenizerStream:
        """Start the audio of one reply, in the named voice or the default one."""
        name = name or self.voice
        assert self.detokenizer is not None and name is not None
        return self.detokenizer.stream(self.voices[name])


class Job:
    """A reply that is being generated; iterate over it for its events.

    Args:
        wake: tells the engine that the job can be stepped or closed.
        background: nobody waits for it; it is stepped only when no other job can be.

    Attributes:
        compute_s: seconds the models have worked for it.
        closed: set when the models have released it.
    """

    def __init__(self, number: int, wake: Callable[[], None], background: bool = False) -> None:
        self.number, self._background = number, background
        self.compute_s = 0.0
        self.cancelled = False
        self._runs_out_at: float | None = None
        self.closed = asyncio.Event()
        self._wake = wake
        # Without a limit of its own: a full job is not stepped, but a step may give several events.
        self._events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

    @property
    def full(self) -> bool:
        """Whether its reader is behind."""
        return self._events.qsize() >= QUEUE_EVENTS

    @property
    def urgency(self) -> float:
        """When its output runs out; the job with the lowest value is served first."""
        if self._background:
            return math.inf
        return -math.inf if self._runs_out_at is None else self._runs_out_at

    @property
    def ample(self) -> bool:
        """Whether its output lasts for a while."""
        return self.urgency > time.monotonic() + AMPLE_LEAD_S

    def add_lead(self, seconds: float) -> None:
        """Note that output for this many more seconds of listening or reading was generated."""
        now = time.monotonic()
        self._runs_out_at = max(self._runs_out_at or now, now) + seconds

    def put(self, event: Event | Exception | None) -> None:
        """Queue an event; an error, or None, is the last."""
        self._events.put_nowait(event)

    def cancel(self) -> None:
        """Stop generating; ``closed`` is set when the models have released it."""
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


@dataclass(eq=False)
class _DetokenizerCall:
    """A call that waits for the detokenizer: a function, or a chunk to be solved."""

    job: Job
    result: asyncio.Future[Any]
    function: Callable[[], Any] | None = None
    chunk: Chunk | None = None

    def joins(self, other: "_DetokenizerCall") -> bool:
        """Whether both are chunks that are solved together."""
        if self.chunk is None or other.chunk is None:
            return False
        return self.chunk.shape == other.chunk.shape


class Engine:
    """Runs jobs in its threads; see the module's docstring.

    Args:
        at_once: number of jobs stepped at the same time.
    """

    def __init__(self, models: Models, at_once: int = 1) -> None:
        self.models = models
        self._numbers = count(1)
        self._ring: deque[tuple[Job, Iterator[Event]]] = deque()
        self._stepped = 0
        self._wake = asyncio.Event()
        self._prompts = ThreadPoolExecutor(at_once, "prompts")
        self._steps = ThreadPoolExecutor(at_once, "steps")
        self._detokenizer = ThreadPoolExecutor(1, "detokenizer")
        self._detokenizer_calls: list[_DetokenizerCall] = []
        self._detokenizer_due = asyncio.Event()
        self._starting: set[asyncio.Task[None]] = set()
        self._calls: set[Future[Any]] = set()
        self._hung: set[Future[Any]] = set()
        self._tasks = [asyncio.create_task(self._run(), name="engine") for _ in range(at_once)]
        self._tasks.append(asyncio.create_task(self._run_detokenizer(), name="detokenizer"))

    @property
    def alive(self) -> bool:
        """Whether the engine's tasks are running and no call hangs."""
        return not self._hung and not any(task.done() for task in self._tasks)

    @property
    def calls(self) -> int:
        """Number of model calls that have not returned."""
        return len(self._calls)

    @property
    def jobs(self) -> int:
        """Number of replies being generated."""
        return len(self._ring) + len(self._starting) + self._stepped

    def submit(self, begin: Callable[[], Iterator[Event]], background: bool = False) -> Job:
        """Schedule the generation of a reply.

        Args:
            begin: returns its events; called and iterated in the engine's threads.
            background: nobody waits for it.
        """
        job = Job(next(self._numbers), self._wake.set, background)
        task = asyncio.create_task(self._start(job, begin))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return job

    async def detokenize(self, job: Job, function: Callable[..., T], *args: Any) -> T:
        """Run one call of the detokenizer for a job; the most urgent job goes first."""
        return await self._call_detokenizer(job, function=partial(function, *args))

    async def _call_detokenizer(self, job: Job, **what: Any) -> Any:
        call = _DetokenizerCall(job, asyncio.get_running_loop().create_future(), **what)
        self._detokenizer_calls.append(call)
        self._detokenizer_due.set()
        return await call.result

    async def _audio(self, job: Job, stream: DetokenizerStream) -> AsyncIterator[AudioChunk]:
        """Yield the audio of the chunks that are due."""
        while stream.due:
            chunk = await self.detokenize(job, stream.next_chunk)
            await self._call_detokenizer(job, chunk=chunk)
            audio = await self.detokenize(job, stream.complete, chunk)
            if len(audio):
                job.add_lead(len(audio) / OUTPUT_RATE_HZ)
                yield AudioChunk(audio.numpy())

    async def _run_detokenizer(self) -> None:
        while True:
            calls = [call for call in self._detokenizer_calls if not call.result.done()]
            self._detokenizer_calls = calls
            if not calls:
                self._detokenizer_due.clear()
                await self._detokenizer_due.wait()
                continue
            first = min(calls, key=lambda call: call.job.urgency)
            batch = [call for call in calls if call is first or call.joins(first)]
            for call in batch:
                calls.remove(call)
            jobs = [call.job for call in batch]
            run = first.function or partial(self._solve, batch)
            try:
                result = await self._timed(jobs, self._detokenizer, run)
            except Exception as error:
                for call in batch:
                    if not call.result.done():
                        call.result.set_exception(error)
                continue
            if first.chunk is not None and not result:
                self._detokenizer_calls += batch
                continue
            for call in batch:
                if not call.result.done():
                    call.result.set_result(result)
            await asyncio.sleep(0)  # lets their jobs add the next call before one is chosen

    def _solve(self, batch: Sequence[_DetokenizerCall]) -> bool:
        """Solve chunks until another call is more urgent; return whether they are mel."""
        assert self.models.detokenizer is not None
        chunks = [call.chunk for call in batch if call.chunk is not None]
        while not self.models.detokenizer.solve_step(chunks):
            first = min(call.job.urgency for call in batch)
            for other in list(self._detokenizer_calls):
                if other.job.urgency < first or other.joins(batch[0]):
                    return False
        return True

    async def events(
        self, job: Job, speech: bool, voice: str | None = None
    ) -> AsyncGenerator[Event]:
        """Yield a job's events and, for a spoken reply, the audio of its speech tokens.

        Closing the iterator leaves the job as it is; cancel that too if it is not wanted any more.

        Args:
            job: the running reply.
            speech: detokenize; each SpeechTokens is then followed by the AudioChunk it completes.
            voice: name of the voice; None for the default one.
        """
        stream, done = None, None
        if speech:
            stream = await self.detokenize(job, self.models.detokenizer_stream, voice)
        async for event in job:
            if isinstance(event, ReplyDone):
                done = event
                continue
            if isinstance(event, TextDelta) and stream is None:
                job.add_lead(STEP_S)
            yield event
            if isinstance(event, SpeechTokens) and stream is not None:
                stream.add(event.spoken)
                async for audio in self._audio(job, stream):
                    yield audio
        if stream is not None:
            stream.end()
            async for audio in self._audio(job, stream):
                yield audio
        if done is not None:
            yield done

    async def close(self) -> None:
        """Stop all tasks and threads; cancel the jobs first. A call that hangs keeps running."""
        tasks = [*self._starting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for executor in (self._prompts, self._steps, self._detokenizer):
            executor.shutdown(wait=False, cancel_futures=True)
        if self._calls:
            calls = [asyncio.wrap_future(call) for call in list(self._calls)]
            await asyncio.wait(calls, timeout=CLOSE_TIMEOUT_S)

    async def _timed(
        self, jobs: Sequence[Job], executor: Executor, function: Callable[..., T], *args: Any
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
        for job in jobs:
            job.compute_s += seconds / len(jobs)
        return result

    async def _start(self, job: Job, begin: Callable[[], Iterator[Event]]) -> None:
        if job.cancelled:
            return job.closed.set()
        try:
            events = await self._timed([job], self._prompts, begin)
        except Exception as error:
            job.put(error)
            return job.closed.set()
        await self._advance([(job, events)], self._prompts)

    async def _run(self) -> None:
        while True:
            ready = [entry for entry in self._ring if entry[0].cancelled or not entry[0].full]
            if not ready:
                self._wake.clear()
                await self._wake.wait()
                continue
            # The first of equals: the job stepped last stands last.
            first = min(ready, key=lambda entry: entry[0].urgency)
            entries = [first]
            if isinstance(first[1], SteppedEvents):
                entries = [
                    (job, events)
                    for job, events in ready
                    if isinstance(events, SteppedEvents)
                    and (job.cancelled or not job.ample or first[0].urgency > -math.inf)
                    and (job.cancelled or job.urgency < math.inf or first[0].urgency == math.inf)
                ]
                # One block of one prompt; the ring turns, so that the next one is another's.
                reading = [entry for entry in entries if _reads(*entry)]
                entries = [entry for entry in entries if entry not in reading[1:]]
            for entry in entries:
                self._ring.remove(entry)
            self._stepped += len(entries)
            await self._advance(entries, self._steps)
            self._stepped -= len(entries)

    async def _advance(
        self, entries: list[tuple[Job, Iterator[Event]]], executor: Executor
    ) -> None:
        """Generate the next events of jobs; an error of the model ends the jobs it concerns."""
        live = [entry for entry in entries if not entry[0].cancelled]
        produced: list[list[Event | None] | Exception] = []
        if live:
            jobs = [job for job, _ in live]
            try:
                replies = [events for _, events in live]
                produced = await self._timed(jobs, executor, _next, replies)
            except Exception as error:
                produced = [error] * len(live)
        over = [entry for entry in entries if entry not in live]
        for (job, events), found in zip(live, produced, strict=True):
            if isinstance(found, Exception):
                logger.debug("job %d failed", job.number, exc_info=found)
                job.put(found)
                job.closed.set()
            elif job.cancelled:
                over.append((job, events))
            else:
                for event in found:
                    job.put(event)
                if None in found:
                    over.append((job, events))
                else:
                    self._ring.append((job, events))
                    self._wake.set()
        for job, events in over:
            try:
                await self._timed([job], executor, events.close)  # type: ignore[attr-defined]
            except Exception as error:
                logger.debug("job %d failed", job.number, exc_info=True)
                job.put(error)
            job.closed.set()


def _reads(job: Job, events: Iterator[Event]) -> bool:
    """Return whether a job's next call computes a block of its prompt."""
    return isinstance(events, SteppedEvents) and events.reading and not job.cancelled


def _next(replies: list[Iterator[Event]]) -> list[list[Event | None] | Exception]:
    """Return the next events of each reply, with None after the last."""
    stepped = [reply for reply in replies if isinstance(reply, SteppedEvents)]
    if not stepped:
        event = next(replies[0], None)
        return [[event, None] if isinstance(event, ReplyDone) else [event]]
    return [
        [*found, None] if reply.ended and not isinstance(found, Exception) else found
        for reply, found in zip(stepped, next_events(stepped), strict=True)
    ]
