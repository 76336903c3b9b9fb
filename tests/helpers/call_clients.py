# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A Realtime client over WebRTC, on aiortc; every event is validated as over a WebSocket."""

import asyncio
import json
import time
from fractions import Fraction
from typing import Any

import aiohttp
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from tests.helpers.realtime_clients import RealtimeClient, check, pcm16
from tests.helpers.web_clients import Running

FRAME = 480  # 20 ms at 24 kHz


class Microphone(MediaStreamTrack):
    """What was said, in real time, and silence."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.said = np.zeros(0, np.float32)
        self._began, self._frames = time.monotonic(), 0

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(self._began + self._frames * 0.02 - time.monotonic())
        part, self.said = self.said[:FRAME], self.said[FRAME:]
        samples = np.frombuffer(pcm16(np.pad(part, (0, FRAME - len(part)))), np.int16)
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 24000, Fraction(1, 24000)
        frame.pts = self._frames * FRAME
        self._frames += 1
        return frame


def new_connection() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def offer(connection: RTCPeerConnection) -> str:
    await connection.setLocalDescription(await connection.createOffer())
    return connection.localDescription.sdp


class CallClient(RealtimeClient):
    """`async with CallClient(server, session={...}) as client`; without a session, plain SDP."""

    def __init__(self, server: Running, session: dict[str, Any] | None = None) -> None:
        super().__init__(server)
        self.server, self._session = server, session
        self.heard: list[np.ndarray] = []  # frames of 20 ms, float32
        self.location = ""
        self._messages: asyncio.Queue[str | None] = asyncio.Queue()

    async def __aenter__(self) -> "CallClient":
        self.connection, self.microphone = new_connection(), Microphone()
        self.connection.addTrack(self.microphone)
        self.channel = self.connection.createDataChannel("oai-events")
        self.channel.on("message", self._messages.put_nowait)
        self.channel.on("close", lambda: self._messages.put_nowait(None))
        self.connection.on("track", self._on_track)
        self.listening: asyncio.Task[None] | None = None
        self._reader = asyncio.create_task(self._read())
        try:
            await self._call(await offer(self.connection))
        except BaseException:
            await self._close()
            raise
        return self

    async def _call(self, sdp: str) -> None:
        if self._session is None:
            how: dict[str, Any] = {"data": sdp, "headers": {"Content-Type": "application/sdp"}}
        else:
            form = aiohttp.FormData(default_to_multipart=True)
            form.add_field("sdp", sdp, content_type="application/sdp")
            form.add_field("session", json.dumps(self._session), content_type="application/json")
            how = {"data": form}
        how["headers"] = {**self.headers, **how.get("headers", {})}
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{self.server.url}/v1/realtime/calls", **how) as response:
                body = await response.text()
                assert response.status == 201, (response.status, body)
                assert response.content_type == "application/sdp"
                self.location = response.headers["Location"]
        await self.connection.setRemoteDescription(RTCSessionDescription(body, "answer"))

    async def __aexit__(self, *exc: Any) -> None:
        await self._close()
        if not any(exc):
            self._reader.result()

    async def _close(self) -> None:
        await self.connection.close()
        self._messages.put_nowait(None)
        await asyncio.wait({self._reader, *([self.listening] if self.listening else [])})

    async def _read(self) -> None:
        while (message := await self._messages.get()) is not None:
            event = json.loads(message)
            check(event)
            self.events.append(event)
            self._arrived.set()
        self._arrived.set()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            samples = frame.to_ndarray().astype(np.float32) / 32768
            self.heard.append(samples.reshape(-1, 2).mean(1))
            self._arrived.set()

    def loud(self, frame: int) -> bool:
        return float(np.abs(self.heard[frame]).max()) > 1e-3

    async def send(self, kind: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"type": kind, **fields}))

    async def speak(self, samples: np.ndarray) -> None:
        """Say samples at 24 kHz in real time; return at once."""
        self.microphone.said = np.concatenate([self.microphone.said, samples])
