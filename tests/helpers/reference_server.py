# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A server that says what the reference's web demo says, byte for byte, and answers with an echo.

A client has to cope with its habits: it sends no events, does not report the end of a reply, drops
audio shorter than a frame, and reads nothing while it answers, so that interruptions go unnoticed.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import sphn
from aiohttp import WSMsgType, web

RATE_HZ = 24000
FRAME = 960


class Conversation:
    """One connection; `questions` collects the samples of every turn it understood."""

    def __init__(self, ws: web.WebSocketResponse, server: "ReferenceServer") -> None:
        self.ws, self.server = ws, server
        self.writer = sphn.OpusStreamWriter(RATE_HZ)
        self.listen()

    def listen(self) -> None:
        """As `start` does: forget what was heard, begin a new Opus reader."""
        self.reader = sphn.OpusStreamReader(RATE_HZ)
        self.heard: list[np.ndarray] = []
        self.recording = True

    async def run(self) -> None:
        """Serve until the client disconnects."""
        await self.ws.send_bytes(b"\x00\x00\x00")
        async for message in self.ws:
            if message.type is not WSMsgType.BINARY:
                continue
            kind, payload = message.data[0], message.data[1:]
            if kind == 1 and self.recording:
                self.heard.append(self.reader.append_bytes(payload))
            elif kind == 3 and payload[:1] == b"\x00":
                self.listen()
            elif kind == 3 and self.recording:
                self.recording = False
                await self.answer()
            elif kind == 4:
                self.server.metadata.append(payload.decode())

    async def answer(self) -> None:
        """Echo the question: audio at most four times as fast as it plays, together with words."""
        samples = np.concatenate([*self.heard, np.zeros(0, np.float32)])
        self.server.questions.append(samples)
        await self.ws.send_bytes(b"\x02[Processing...]")
        words = [f"I heard {samples.size / RATE_HZ:.1f} seconds", ", ", "你好", "."]
        for at in range(0, samples.size, FRAME):
            frame = np.zeros(FRAME, np.float32)
            frame[: samples.size - at] = samples[at : at + FRAME]
            page = self.writer.append_pcm(frame)
            if page:
                await self.ws.send_bytes(b"\x01" + page)
            if words:
                await self.ws.send_bytes(b"\x02" + words.pop(0).encode())
            await asyncio.sleep(0.01)


class ReferenceServer:
    """Serves a built page and `/api/simplex`; everything else under `/api` is unknown to it."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.questions: list[np.ndarray] = []
        self.metadata: list[str] = []

    async def converse(self, request: web.Request) -> web.WebSocketResponse:
        """The WebSocket."""
        ws = web.WebSocketResponse(heartbeat=30)
        await ws.prepare(request)
        with contextlib.suppress(ConnectionError):
            await Conversation(ws, self).run()
        return ws

    async def index(self, request: web.Request) -> web.FileResponse:
        """The page."""
        return web.FileResponse(self.page / "index.html")

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Serve in a thread; yields the address."""
        loop = asyncio.new_event_loop()
        app = web.Application()
        app.router.add_get("/", self.index)
        app.router.add_get("/api/simplex", self.converse)
        app.router.add_static("/", self.page)
        runner = web.AppRunner(app, shutdown_timeout=1)

        async def start() -> int:
            await runner.setup()
            await web.TCPSite(runner, "localhost", 0).start()
            return int(runner.addresses[0][1])

        port = loop.run_until_complete(start())
        thread = Thread(target=loop.run_forever)
        thread.start()
        yield f"http://localhost:{port}/"
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
