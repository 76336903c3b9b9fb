# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""One connection: messages in, turns out."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import WSMsgType, web

from funaudiochat.audio import MIN_DURATION_MS, load_audio
from funaudiochat.errors import AudioError
from funaudiochat.events import ReplyDone
from funaudiochat.sampling import Sampling
from web_demo.server.listener import Heard, Listener
from web_demo.server.lobby import Place, State
from web_demo.server.opus import MODEL_RATE_HZ, REPLY_RATE_HZ, BadAudio, OpusDecoder, OpusEncoder
from web_demo.server.outbox import Outbox, SlowReader
from web_demo.server.protocol import (
    HANDSHAKE,
    BadMessage,
    Control,
    Kind,
    Message,
    decode,
    encode,
)
from web_demo.server.settings import BadSettings
from web_demo.server.turn import Question, Talk, Turn
from web_demo.server.vad import VoiceActivity

if TYPE_CHECKING:
    from web_demo.server.demo import Demo

logger = logging.getLogger(__name__)

TRANSCRIBE = "Please help me transcribe the audio."
IDLE_WHILE_OTHERS_WAIT_S = 120.0
SHORTEST_QUESTION = MIN_DURATION_MS * MODEL_RATE_HZ // 1000


class Session:
    """One page's connection.

    Args:
        demo: what all sessions share.
        talk: the conversation, new or resumed.
        place: of the lobby; the talk begins when it is ready.
        old_page: a page that knows no events.
    """

    def __init__(
        self,
        demo: "Demo",
        socket: web.WebSocketResponse,
        transport: asyncio.WriteTransport,
        talk: Talk,
        place: Place,
        resumed: bool,
        old_page: bool,
    ) -> None:
        self.name = secrets.token_hex(6)
        self.talk, self.finished = talk, asyncio.Event()
        self._demo, self._place = demo, place
        self._socket, self._transport = socket, transport
        self._resumed, self._old_page = resumed, old_page
        self._outbox = Outbox(socket, self.name, demo.metrics)
        activity = None if demo.network is None else VoiceActivity(demo.network)
        self._listener = Listener(demo.options.max_utterance_seconds, activity)
        self._decoder, self._encoder = OpusDecoder(), OpusEncoder()
        self._turn: Turn | None = None
        self._turn_task: asyncio.Task[None] | None = None
        self._interrupted: Turn | None = None
        self._settling: asyncio.Task[None] | None = None
        self._transcribing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._active_at = time.monotonic()

    async def run(self) -> None:
        """Until the page is gone; then nothing of the connection is left."""
        self._spawn(self._outbox.keep_alive())
        self._spawn(self._begin())
        try:
            await self._supervise(self._read())
        finally:
            await self._end()

    async def close(self, code: int, reason: str) -> None:
        """Close the connection; :meth:`run` then ends."""
        try:
            async with asyncio.timeout(1):
                await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            self._transport.abort()

    async def drain(self, seconds: float) -> None:
        """Let a running reply end and play, at most this long, then close."""
        with contextlib.suppress(ConnectionError):
            await self._outbox.event("going_away", seconds=seconds)
            turn, task = self._turn, self._turn_task
            if turn is not None and task is not None:
                try:
                    async with asyncio.timeout(seconds):
                        await asyncio.wait({task})
                        await asyncio.sleep(turn.speaker.lead_s)
                except TimeoutError:
                    await self._outbox.error("draining", "the server shut down during the reply")
        await self.close(1001, "the server shuts down")

    async def _supervise(self, work: Coroutine[Any, Any, None]) -> None:
        """Await it; its failure closes the connection, never anything else."""
        try:
            await work
        except SlowReader:
            logger.info("the page stopped reading", extra={"session": self.name})
            self._demo.metrics.errors.labels("slow_reader").inc()
            await self.close(4001, "the page stopped reading")
        except ConnectionError:
            pass
        except Exception:
            logger.exception("a talk failed", extra={"session": self.name})
            with contextlib.suppress(ConnectionError):
                await self._outbox.error("internal", "an internal error", fatal=True)
            await self.close(1011, "internal error")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._supervise(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin(self) -> None:
        """Wait for the place, then greet."""
        told = None
        while self._place.state is State.WAITING:
            self._place.changed.clear()
            lobby = self._demo.lobby
            wait_s = lobby.wait_s(self._place)
            now = {
                "position": lobby.position(self._place),
                "size": lobby.waiting,
                "wait_s": None if wait_s is None else round(wait_s),
            }
            if told != (told := now):
                await self._outbox.event("queue", **now)
            await self._place.changed.wait()
        self._active_at = time.monotonic()
        await self._outbox.send(HANDSHAKE)
        await self._outbox.event(
            "ready",
            session=self.name,
            resume=self.talk.resume,
            resumed=self._resumed,
            settings=self._settings(),
            **self._demo.info(),
        )
        self._hear_by_settings()
        await self._tell_listening()
        await self._watch_idle()

    async def _watch_idle(self) -> None:
        while True:
            limit_s = self._demo.options.idle_seconds
            if self._demo.lobby.waiting:
                limit_s = min(limit_s, IDLE_WHILE_OTHERS_WAIT_S)
            if time.monotonic() - self._active_at >= limit_s and not self._in_play:
                break
            await asyncio.sleep(1.0)
        message = f"nothing was asked for {limit_s:g} s; connect again to go on"
        await self._outbox.error("idle", message, fatal=True)
        await self.close(4000, "idle")

    async def _end(self) -> None:
        self._interrupt("disconnect")
        # Neither what must be let go of nor what is being recorded is cut short.
        last = {task for task in (self._settling, self._turn_task) if task is not None}
        if last:
            await asyncio.wait(last)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        self.finished.set()

    # Messages

    async def _read(self) -> None:
        async for frame in self._socket:
            if frame.type is WSMsgType.BINARY:
                await self._receive(frame.data)
            elif frame.type is WSMsgType.TEXT:
                self._demo.metrics.ignored.labels("text_frame").inc()

    async def _receive(self, data: bytes) -> None:
        try:
            message = decode(data)
        except BadMessage as error:
            return await self._outbox.error("bad_message", str(error))
        if message is None:
            self._demo.metrics.ignored.labels("unknown").inc()
        elif message.kind is Kind.PING:
            await self._outbox.send(encode(Kind.PING, message.value))
        elif message.kind is Kind.METADATA:
            await self._take_metadata(message.value)
        elif self._place.state is State.READY:
            await self._take(message)

    async def _take(self, message: Message) -> None:
        match message.kind, message.value:
            case Kind.AUDIO, data:
                await self._take_audio(data)
            case Kind.CONTROL, Control.START:
                await self._start()
            case Kind.CONTROL, Control.PAUSE | Control.END_TURN:
                await self._pause()
            case Kind.CONTROL, Control.RESTART:
                self._interrupt("button")
                self.talk.chat = self._demo.models.new_chat()
                await self._outbox.event("reset")
                await self._start()
            case Kind.TEXT, text:
                await self._take_text(text.strip())
            case Kind.FILE, data:
                await self._take_file(data)

    async def _take_metadata(self, given: dict[str, Any]) -> None:
        if given.get("event") == "played":
            turn, ms = self._turn, given.get("ms")
            if turn is not None and turn.number == given.get("turn") and isinstance(ms, int):
                turn.speaker.heard = max(0, ms) * REPLY_RATE_HZ // 1000
            return
        try:
            new = self.talk.settings.changed(
                given,
                list(self._demo.models.voices),
                self._demo.models.answers,
                self._demo.network is not None,
                self._demo.options.max_prompt_chars,
            )
        except BadSettings as error:
            return await self._outbox.error("bad_settings", str(error))
        was_hands_free, self.talk.settings = self.talk.settings.hands_free, new
        await self._outbox.event("settings", settings=self._settings())
        self._hear_by_settings()
        if new.hands_free != was_hands_free:
            self._listener.clear()
            self._listener.on = True
            await self._tell_listening()

    async def _take_audio(self, data: bytes) -> None:
        settings = self.talk.settings
        deaf = settings.hands_free and not settings.barge_in and self._in_play

        def hear() -> list[Heard]:
            samples = self._decoder.decode(data)
            return [] if deaf else self._listener.push(samples)

        try:
            # In a thread, but one message after another: a pause finds all that came before it.
            heard = await asyncio.to_thread(hear)
        except BadAudio as error:
            return await self._outbox.error("bad_audio", str(error))
        for what in heard:
            await self._outbox.event(what.value)
            if what is Heard.SPEECH_START:
                self._barge_in()
            else:
                await self._ask_by_voice()

    async def _take_text(self, text: str) -> None:
        limit = self._demo.options.max_text_chars
        if not text or len(text) > limit:
            message = f"a question by text has 1 to {limit} characters, not {len(text)}"
            return await self._outbox.error("bad_question", message)
        await self._put_microphone_aside()
        await self._ask(text, "text")

    async def _take_file(self, data: bytes) -> None:
        limit_s = self._demo.options.max_utterance_seconds
        try:
            samples = await asyncio.to_thread(load_audio, data, MODEL_RATE_HZ, max_seconds=limit_s)
        except AudioError as error:
            return await self._outbox.error("bad_question", str(error))
        await self._put_microphone_aside()
        await self._ask((samples, MODEL_RATE_HZ), "file")

    # The microphone

    def _hear_by_settings(self) -> None:
        settings, listener = self.talk.settings, self._listener
        listener.hands_free = settings.hands_free
        listener.end_silence_ms = settings.end_silence_ms
        listener.threshold = settings.vad_threshold

    async def _tell_listening(self) -> None:
        await self._outbox.event(
            "listening", on=self._listener.on, hands_free=self._listener.hands_free
        )

    async def _start(self) -> None:
        self._interrupt("button")
        self._listener.clear()
        self._listener.on = True
        await self._tell_listening()

    async def _put_microphone_aside(self) -> None:
        """A question asked in another way takes the place of one that was being spoken."""
        self._listener.clear()
        if self._listener.on and not self._listener.hands_free:
            self._listener.on = False
            await self._tell_listening()

    async def _pause(self) -> None:
        if not self._listener.on:
            return
        self._listener.on = False
        await self._tell_listening()
        if not self._listener.hands_free or self._listener.speaking:
            await self._ask_by_voice()

    def _barge_in(self) -> None:
        turn = self._turn
        if turn is None or not turn.in_play:
            return
        self._interrupt("voice")
        if not turn.speaker.started and turn.source == "voice":
            # The user had only paused: what was said before belongs to the question.
            assert isinstance(turn.question, tuple)
            self._listener.put_back(turn.question[0])

    async def _ask_by_voice(self) -> None:
        nothing_heard, truncated = self._listener.nothing_heard, self._listener.truncated
        samples = self._listener.take()
        if len(samples) < SHORTEST_QUESTION:
            return await self._outbox.error("no_audio", "no sound came from the microphone")
        if nothing_heard:
            return await self._outbox.error("no_audio", "nothing was heard; please ask again")
        if truncated:
            limit_s = self._demo.options.max_utterance_seconds
            message = f"the question was too long; its last {limit_s:g} s are used"
            await self._outbox.error("utterance_too_long", message)
        await self._ask((samples, MODEL_RATE_HZ), "voice")

    # Turns

    @property
    def _in_play(self) -> bool:
        return self._turn is not None and self._turn.in_play

    async def _ask(self, question: Question, source: str) -> None:
        if self._demo.draining:
            return await self._outbox.error("draining", "the server shuts down; ask again later")
        self._interrupt(source)
        self._active_at = time.monotonic()
        self.talk.turns += 1
        turn = Turn(
            number=self.talk.turns,
            source=source,
            question=question,
            talk=self.talk,
            settings=self.talk.settings,
            engine=self._demo.engine,
            outbox=self._outbox,
            encoder=self._encoder,
            metrics=self._demo.metrics,
            old_page=self._old_page,
            sending=self._listener.echo.play,
            before=self._interrupted,
            recording=None if self._demo.recordings is None else [],
        )
        self._turn, self._turn_task = turn, self._spawn(self._answer(turn))
        if self.talk.settings.transcribe and isinstance(question, tuple):
            before = self._transcribing
            self._transcribing = self._spawn(self._transcribe(turn, question, before))

    async def _answer(self, turn: Turn) -> None:
        await turn.run()
        self._active_at = time.monotonic()
        await self._record(turn)

    def _interrupt(self, cause: str) -> None:
        """Stop what is made, sent or played; what follows waits until the models let go of it."""
        turn, task = self._turn, self._turn_task
        if turn is None or task is None or not turn.in_play:
            return
        turn.cut()
        self._demo.metrics.cancels.labels(cause).inc()
        running = turn.reason is None
        if running:
            task.cancel()

        async def settle() -> None:
            if running:
                await asyncio.wait({task})
            await turn.settle()
            if running:
                await self._record(turn)
            else:
                await asyncio.wait({task})  # it may still be recorded

        self._turn = self._turn_task = None
        self._interrupted = turn
        self._settling = self._spawn(settle())

    async def _record(self, turn: Turn) -> None:
        if self._demo.recordings is None or turn.recording is None:
            return
        question = turn.question if isinstance(turn.question, str) else turn.question[0]
        sound = np.concatenate([*turn.recording, np.zeros(0, np.float32)])
        try:
            await asyncio.to_thread(
                self._demo.recordings.save, self.name, turn.number, question, turn.answer, sound
            )
        except (OSError, AudioError):
            logger.exception("a turn could not be recorded", extra={"session": self.name})

    async def _transcribe(
        self, turn: Turn, question: tuple[np.ndarray, int], before: asyncio.Task[None] | None
    ) -> None:
        """Tell what the model understood, when no reply needs the models any more.

        Args:
            before: the transcription of an earlier turn; they are made one after another.
        """
        if before is not None:
            await asyncio.wait({before})
        await turn.made.wait()
        while self._turn is not None and not self._turn.made.is_set():
            await self._turn.made.wait()
        chat = self._demo.models.new_chat()
        # Nobody says more than ten tokens a second.
        sampling = Sampling(max_new_tokens=20 + 10 * len(question[0]) // question[1])
        job = self._demo.engine.submit(
            lambda: chat.stream(text=TRANSCRIBE, audio=question, speech=False, sampling=sampling),
            background=True,
        )
        try:
            async for event in job:
                if isinstance(event, ReplyDone):
                    await self._outbox.event(
                        "transcript", turn=turn.number, text=event.reply.text.strip()
                    )
        except ConnectionError:
            raise
        except Exception:
            logger.warning("no transcript", exc_info=True, extra={"session": self.name})
        finally:
            job.cancel()

    def _settings(self) -> dict[str, Any]:
        settings = self.talk.settings.model_dump()
        settings["voice"] = settings["voice"] or self._demo.models.voice
        return settings
