# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""State that all sessions of a server share: models, options, measured capacity, metrics."""

import logging

from web_demo.server import vad
from web_demo.server.capacity import UNMEASURED_SESSIONS, measure_capacity
from web_demo.server.engine import Engine, Models
from web_demo.server.lobby import Lobby
from web_demo.server.metrics import Metrics
from web_demo.server.options import Options
from web_demo.server.recordings import Recordings
from web_demo.server.settings import Settings

logger = logging.getLogger(__name__)


class ServerContext:
    """Models, options, measured capacity and shared state of one server.

    Create and close it in the server's event loop.

    Attributes:
        vad_network: the voice-activity network, None if silero-vad is not installed.
        recordings: where turns are saved, None unless the operator asked for it.
        draining: the server is shutting down and accepts no new turns.
    """

    def __init__(self, models: Models, options: Options) -> None:
        self.models, self.options = models, options
        self.default_settings = Settings(answer=models.answers[0])
        self.engine = Engine(models, models.at_once)
        self.lobby = Lobby(options.max_sessions or UNMEASURED_SESSIONS, options.queue_size)
        self.metrics = Metrics(
            lambda: self.lobby.active, lambda: self.lobby.waiting, lambda: self.engine.jobs
        )
        self.vad_network = vad.load_network()
        if self.vad_network is None:
            logger.warning("hands-free mode is off: install silero-vad (pip install silero-vad)")
        folder = options.save_recordings
        self.recordings = None if folder is None else Recordings(folder)
        self.draining = False

    async def measure(self) -> None:
        """Measure the machine and limit the sessions to what it can serve in real time.

        Does nothing if an option sets the limit. Call it before the first connection: on an
        overloaded machine every session stutters.
        """
        if self.options.max_sessions is not None:
            return
        try:
            sessions, factor = await measure_capacity(self.engine)
        except Exception:
            logger.exception("the models failed on the test question")
            return
        self.lobby.max_sessions = sessions
        measured = "not measured" if factor is None else f"measured {factor:.2f}"
        logger.info(
            "real-time factor %s: %d sessions at once (--max-sessions overrides this)",
            measured,
            self.lobby.max_sessions,
        )

    async def close(self) -> None:
        """Release the models."""
        await self.engine.close()
