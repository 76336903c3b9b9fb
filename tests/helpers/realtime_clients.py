# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A Realtime client whose every event is validated by the types of the `openai` package."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any, get_args

import aiohttp
import numpy as np
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from tests.helpers.web_clients import TIMEOUT_S, Running

_TYPES = {
    kind.model_fields["type"].annotation.__args__[0]: TypeAdapter(kind)
    for kind in get_args(get_args(RealtimeServerEvent)[0])
}
MANUAL = {"audio": {"input": {"turn_detection": None}}}


def check(event: dict[str, Any]) -> None:
    """Fail unless a server event is valid; null counts as absent, as in the package."""
    if event["type"] == "session.created" or event["type"] == "session.updated":
        event = json.loads(json.dumps(event))
        input_config = event["session"]["audio"]["input"]
        input_config["noise_reduction"] = input_config["noise_reduction"] or {}
    _TYPES[event["type"]].validate_python(event)
    assert event["event_id"]


class RealtimeClient:
    """A plain client; `async with RealtimeClient(server) as client`."""

    def __init__(self, server: Running, protocols: tuple[str, ...] = (), **query: str) -> None:
        self._url, self._protocols, self._query = f"{server.url}/v1/realtime", protocols, query
        self.headers: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> "RealtimeClient":
        self._http = aiohttp.ClientSession()
        try:
            self.socket = await self._http.ws_connect(
                self._url,
                params=self._query,
                headers=self.headers,
                protocols=self._protocols,
                max_msg_size=0,
            )
        except BaseException:
            await self._http.close()
            raise
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.socket.close()
        await asyncio.wait({self._reader})
        await self._http.close()
        if not any(exc):
            self._reader.result()

    async def _read(self) -> None:
        async for message in self.socket:
            event = json.loads(message.data)
            check(event)
            self.events.append(event)
            self._arrived.set()
        self._arrived.set()

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_str(json.dumps({"type": kind, **fields}))

    async def until(self, found: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
        """Wait until something is true of what arrived."""
        async with asyncio.timeout(timeout_s):
            while not (result := found()):
                self._arrived.clear()
                if self._reader.done():
                    self._reader.result()
                    raise AssertionError(f"closed: {self.socket.close_code} {self.kinds()[-20:]}")
                await self._arrived.wait()
        return result

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def named(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    async def event(self, kind: str, number: int = 1) -> dict[str, Any]:
        """Wait for the n-th event of a type."""
        await self.until(lambda: len(self.named(kind)) >= number)
        return self.named(kind)[number - 1]

    async def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        """Send an event and wait for the next event of a type."""
        number = len(self.named(answer)) + 1
        await self.send(kind, **fields)
        return await self.event(answer, number)

    async def configure(self, **session: Any) -> dict[str, Any]:
        session = {"type": "realtime", **session}
        return await self.ask("session.update", "session.updated", session=session)

    async def say(self, samples: np.ndarray, piece: int = 4800, pace: float = 0.0) -> None:
        """Append float32 samples at 24 kHz; pace 1 is real time."""
        for start in range(0, len(samples), piece):
            await self.append(pcm16(samples[start : start + piece]))
            if pace:
                await asyncio.sleep(piece / 24000 * pace)

    async def append(self, data: bytes) -> None:
        await self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    async def type(self, text: str, **item: Any) -> dict[str, Any]:
        """Create a user's message."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content, **item}
        done = await self.ask("conversation.item.create", "conversation.item.done", item=item)
        return done["item"]

    async def respond(self, **response: Any) -> dict[str, Any]:
        """Create a response and wait for its end."""
        done = await self.ask("response.create", "response.done", response=response)
        return done["response"]

    def audio(self) -> bytes:
        deltas = [event["delta"] for event in self.named("response.output_audio.delta")]
        return b"".join(base64.b64decode(delta) for delta in deltas)

    def errors(self) -> list[str | None]:
        return [event["error"]["code"] for event in self.named("error")]


def pcm16(samples: np.ndarray) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
