# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What all connections of a server share."""

import asyncio
import contextlib
import logging
import secrets
from typing import Any

from aiohttp import web

from web_demo.server import vad
from web_demo.server.capacity import (
    UNMEASURED_SESSIONS,
    measure_real_time_factor,
    sessions_for,
)
from web_demo.server.engine import Engine, Models
from web_demo.server.lobby import Lobby, Place
from web_demo.server.metrics import Metrics
from web_demo.server.options import Options
from web_demo.server.opus import FRAME_MS, REPLY_RATE_HZ
from web_demo.server.recordings import Recordings
from web_demo.server.session import Session
from web_demo.server.settings import Settings, trained_prompt
from web_demo.server.turn import Talk

logger = logging.getLogger(__name__)

PROTOCOL = 2
RESUME_S = 120
TAKE_OVER_TIMEOUT_S = 10.0
CLOSING_S = 2.0  # of the drain's time: to tell why, and to close


class Demo:
    """Models, places, figures and talks of one server; made and closed in its event loop."""

    def __init__(self, models: Models, options: Options) -> None:
        self.models, self.options = models, options
        self._defaults = Settings(answer=models.answers[0])
        self.engine = Engine(models, models.at_once)
        self.lobby = Lobby(options.max_sessions or UNMEASURED_SESSIONS, options.queue_size)
        self.sessions: set[Session] = set()
        self.metrics = Metrics(
            lambda: self.lobby.talking, lambda: self.lobby.waiting, lambda: self.engine.jobs
        )
        self.network = vad.load_network()
        if self.network is None:
            logger.warning("hands-free is off: install silero-vad (pip install silero-vad)")
        folder = options.save_recordings
        self.recordings = None if folder is None else Recordings(folder)
        self.draining = False
        self._parked: dict[str, tuple[Talk, asyncio.TimerHandle]] = {}

    async def measure(self) -> None:
        """Admit as many sessions as this machine answers in real time, if no option says how many.

        Call it before anybody connects: an overloaded machine stutters for everyone.
        """
        if self.options.max_sessions is not None:
            return
        try:
            factor = await measure_real_time_factor(self.engine)
        except Exception:
            logger.exception("the models failed on a first question")
            return
        self.lobby.max_sessions = sessions_for(factor)
        measured = "not measured" if factor is None else f"measured {factor:.2f}"
        logger.info(
            "real-time factor %s: %d talk at once (--max-sessions says otherwise)",
            measured,
            self.lobby.max_sessions,
        )

    def info(self) -> dict[str, Any]:
        """What a page shows and keeps to; PROTOCOL.md, section 6."""
        options, able = self.options, self.models.capabilities
        defaults = self._defaults.model_copy(update={"voice": self.models.voice}).model_dump()
        return {
            "protocol": PROTOCOL,
            "model": self.models.name,
            "sample_rate": REPLY_RATE_HZ,
            "frame_ms": FRAME_MS,
            "voices": list(self.models.voices),
            "answers": self.models.answers,
            "vad": self.network is not None,
            "tools": self.models.tools,
            "description": able.description,
            "languages": able.languages,
            "personas": able.personas,
            "examples": able.examples,
            "default_system_prompt": trained_prompt(self._defaults.answer == "speech"),
            "defaults": defaults,
            "recording": self.recordings is not None,
            "limits": {
                "utterance_seconds": options.max_utterance_seconds,
                "message_bytes": options.max_message_bytes,
                "text_chars": options.max_text_chars,
                "system_prompt_chars": options.max_prompt_chars,
                "idle_seconds": options.idle_seconds,
                "resume_seconds": RESUME_S,
            },
        }

    async def talk(
        self,
        socket: web.WebSocketResponse,
        transport: asyncio.WriteTransport,
        place: Place,
        resume: str | None,
        old_page: bool,
    ) -> None:
        """Serve one connection until it ends; its place is given up then."""
        talk = self._resume(resume)
        session = Session(
            self,
            socket,
            transport,
            talk or Talk(self.models.new_chat(), self._defaults, secrets.token_urlsafe(16)),
            place,
            resumed=talk is not None,
            old_page=old_page,
        )
        self.sessions.add(session)
        try:
            await session.run()
        finally:
            self.sessions.discard(session)
            self._park(session.talk)

    async def drain(self) -> None:
        """No new turns; running replies end, or are told why not; then everybody is gone."""
        self.draining = True
        total = self.options.drain_seconds
        seconds = max(total - CLOSING_S, total / 2)
        await asyncio.gather(*(session.drain(seconds) for session in self.sessions))

    async def close(self) -> None:
        """Let go of models and talks."""
        for _, timer in self._parked.values():
            timer.cancel()
        await self.engine.close()

    async def take_over(self, resume: str) -> None:
        """End the connection that still holds this conversation, if one does.

        One that hangs in the models keeps it: the other connection begins a new conversation.
        """
        for session in list(self.sessions):
            if session.talk.resume == resume:
                await session.close(4002, "resumed on another connection")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TAKE_OVER_TIMEOUT_S):
                        await session.finished.wait()

    def _resume(self, resume: str | None) -> Talk | None:
        parked = self._parked.pop(resume or "", None)
        if parked is None:
            return None
        parked[1].cancel()
        return parked[0]

    def _park(self, talk: Talk) -> None:
        """Keep a conversation for a page that comes back; the oldest give way to new ones."""
        if talk.turns == 0 or self.draining:
            return
        while len(self._parked) >= 4 * self.lobby.max_sessions:
            self._parked.pop(next(iter(self._parked)))[1].cancel()
        timer = asyncio.get_running_loop().call_later(RESUME_S, self._parked.pop, talk.resume, None)
        self._parked[talk.resume] = (talk, timer)
