# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A running server and its clients, over real sockets."""

import asyncio
import copy
import gc
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np
import sphn
import torch
from aiohttp import web

from funaudiochat.events import Event, Latency, Reply, ReplyDone, SpeechTokens, TextDelta
from funaudiochat.generation_funaudiochat import DueStep
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.tool_calls import parse_tool_calls
from funaudiochat.voice_chat import VoiceChat
from web_demo.server.app import CONTEXT, SESSIONS, make_app
from web_demo.server.context import ServerContext
from web_demo.server.engine import Models
from web_demo.server.options import Options
from web_demo.server.session import Session
from web_demo.server.sessions import Sessions

TIMEOUT_S = 120.0  # nothing takes so long but on a machine that is very busy


@dataclass
class Running:
    """A server in a thread of this process."""

    port: int
    context: ServerContext
    sessions: Sessions
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, work: Any) -> Any:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)


@contextmanager
def running(models: Any, **options: Any):
    """Serve on a free port until the block ends."""
    ready: Any = threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        app = make_app(models, Options(**options))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.update(
            port=runner.addresses[0][1],
            context=app[CONTEXT],
            sessions=app[SESSIONS],
            loop=asyncio.get_running_loop(),
            stop=asyncio.Event(),
        )
        ready.set()
        await found["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(TIMEOUT_S)
    try:
        yield Running(found["port"], found["context"], found["sessions"], found["loop"])
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Received:
    """One message and when it came."""

    kind: int
    payload: bytes
    at: float


async def until(found: Callable[[], Any]) -> None:
    """For what shows only inside the server."""
    async with asyncio.timeout(TIMEOUT_S):
        while not found():
            await asyncio.sleep(0.01)


async def sessions_in_memory() -> int:
    """Count the sessions of this process that were not freed; run it in the server's loop."""
    gc.collect()
    return sum(issubclass(type(each), Session) for each in gc.get_objects())


def tone(seconds: float, pitch_hz: float = 440.0, rate_hz: int = 24000) -> np.ndarray:
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)


class Page:
    """A page of protocol 2; `async with Page(server) as page`."""

    query = {"protocol": "2"}

    def __init__(self, server: Running, path: str = "/api/chat", **query: str) -> None:
        self._url, self._query = server.url + path, {**self.query, **query}
        self.received: list[Received] = []
        self._arrived = asyncio.Event()
        self._writer = sphn.OpusStreamWriter(24000)
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> "Page":
        self._http = aiohttp.ClientSession()
        self.socket = await self._http.ws_connect(
            self._url, params=self._query, headers=self.headers, max_msg_size=0
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exc: Any) -> None:
        self._reader.cancel()
        await self.socket.close()
        await self._http.close()

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                data = message.data
                self.received.append(Received(data[0], data[1:], time.monotonic()))
                self._arrived.set()
        self._arrived.set()

    @property
    def closed(self) -> bool:
        return self._reader.done()

    async def until(self, found: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
        """Wait until a condition holds for the messages received."""
        async with asyncio.timeout(timeout_s):
            while not (result := found()):
                self._arrived.clear()
                assert not self.closed, f"closed by {self.socket.close_code}: {self.summary()}"
                await self._arrived.wait()
        return result

    async def until_closed(self) -> int:
        await asyncio.wait_for(asyncio.shield(self._reader), TIMEOUT_S)
        return self.socket.close_code

    def summary(self) -> str:
        return " ".join(
            f"{m.payload.decode()}" if m.kind == 4 else f"{m.kind:02x}[{len(m.payload)}]"
            for m in self.received
        )[-4000:]

    # What arrived

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        all_events = [json.loads(m.payload) for m in self.received if m.kind == 4]
        return [e for e in all_events if name is None or e["event"] == name]

    def errors(self) -> list[str]:
        return [e["code"] for e in self.events("error")]

    def text(self) -> str:
        return "".join(m.payload.decode() for m in self.received if m.kind == 2)

    def audio_messages(self) -> list[Received]:
        return [m for m in self.received if m.kind == 1]

    def audio(self) -> np.ndarray:
        """Return all audio received, at 24 kHz."""
        reader = sphn.OpusStreamReader(24000)
        pieces = [reader.append_bytes(m.payload) for m in self.audio_messages()]
        return np.concatenate([*pieces, np.zeros(0, np.float32)])

    async def event(self, name: str, number: int = 1, **fields: Any) -> dict[str, Any]:
        """Wait for the n-th event of a name (with these fields)."""

        def found() -> Any:
            matching = [
                e for e in self.events(name) if all(e.get(k) == v for k, v in fields.items())
            ]
            return matching[number - 1] if len(matching) >= number else None

        return await self.until(found)

    # What it sends

    async def send(self, kind: int, payload: bytes | str = b"") -> None:
        body = payload.encode() if isinstance(payload, str) else payload
        await self.socket.send_bytes(bytes([kind]) + body)

    async def set(self, **settings: Any) -> None:
        before = len(self.events("settings"))
        await self.send(4, json.dumps(settings))
        await self.event("settings", before + 1)

    async def say(self, samples: np.ndarray, pace: float = 0.0) -> None:
        """Send 24 kHz samples in 40 ms pages; pace 1 is real time, 0 a burst."""
        padded = np.pad(samples, (0, -len(samples) % 960))
        for start in range(0, len(padded), 960):
            page = self._writer.append_pcm(padded[start : start + 960])
            if page:
                await self.send(1, page)
            if pace:
                await asyncio.sleep(0.04 * pace)

    async def start(self) -> None:
        await self.send(3, b"\x00")

    async def pause(self) -> None:
        await self.send(3, b"\x02")

    async def ask(self, samples: np.ndarray) -> None:
        """Say it and press the button."""
        await self.say(samples)
        await self.pause()


class ReferencePage(Page):
    """What the reference's page sends, and no more."""

    query = {
        "text_temperature": "0.7",
        "text_topk": "25",
        "audio_temperature": "0.8",
        "audio_topk": "250",
        "pad_mult": "0",
        "text_seed": "42",
        "audio_seed": "7",
        "repetition_penalty_context": "64",
        "repetition_penalty": "1",
    }


class SpyChat(VoiceChat):
    """The real conversation, which also notes what it is asked and how its answers end."""

    def __init__(self, log: list[dict[str, Any]], most_steps: int, *args: Any) -> None:
        super().__init__(*args)
        self.log, self.most_steps = log, most_steps

    def generation_options(self, *args: Any) -> GenerationOptions:
        options = super().generation_options(*args)
        return replace(options, max_new_tokens=min(options.max_new_tokens, self.most_steps))

    def _steps(self, turn: Any, *args: Any) -> Iterator[Event | DueStep]:
        waveform = turn.audio
        entry = {
            "text": turn.content,
            "tokens": None if waveform is None else math.ceil(len(waveform) / 16000 * 25),
            "system": self.system,
            "history": [t.content for t in self._history],
            "groups": 0,
            "closed": False,
            "threads": set(),
        }
        self.log.append(entry)
        try:
            for event in super()._steps(turn, *args):
                entry["threads"].add(threading.current_thread().name)
                entry["groups"] += isinstance(event, SpeechTokens)
                yield event
        finally:
            entry["closed"] = True


def spying(models: Models, most_steps: int = 2048) -> tuple[Models, list[dict[str, Any]]]:
    """The same models with a log of what they are asked, and a limit to what they answer."""
    chat, log = models.new_chat(), []
    new_chat = lambda: SpyChat(log, most_steps, chat.model, chat.processor)  # noqa: E731
    return replace(models, new_chat=new_chat), log


class ScriptedChat:
    """A conversation whose answers a test writes: `script(question)` gives the events.

    A text in the script is a text delta, a list of numbers a group of speech tokens; anything else
    that can be called is called, to wait or to fail in the middle.
    """

    def __init__(self, script: Callable[[Any], Iterator[Any]]) -> None:
        self.script, self.system, self.heard, self.prompt_steps = script, None, [], 0

    def branch(self) -> "ScriptedChat":
        other = copy.copy(self)
        other.heard = list(self.heard)
        return other

    def truncate_last_reply(self, heard: str) -> None:
        self.heard[-1] = heard

    def resume(self, history: Any) -> None:
        self.heard = [turn.content for turn in history if turn.role == "assistant"]

    def stream_turn(self, turn: Any, tools: Any = None, *args: Any, **kwargs: Any):
        audio = None if turn.audio is None or turn.content else (turn.audio, 16000)
        return self.stream(text=turn.content or turn.results, audio=audio, tools=tools)

    def stream(self, *, text: Any = None, audio: Any = None, tools: Any = None, **kwargs: Any):
        question = text if audio is None else audio
        return self._events(("tools", question) if tools else question)

    def stream_tool_result(self, result: Any, *args: Any, **kwargs: Any):
        return self._events(("result", result))

    def _events(self, question: Any) -> Iterator[Event]:
        text = ""
        try:
            for item in self.script(question):
                if isinstance(item, str):
                    text += item
                    yield TextDelta(item)
                elif isinstance(item, list):
                    yield SpeechTokens(torch.tensor(item), torch.tensor(item))
                else:
                    item()
        finally:
            self.heard.append(text)
        calls, problems = parse_tool_calls(text)
        none = torch.empty(0, dtype=torch.long)
        yield ReplyDone(Reply(text, none, None, 24000, calls, problems, Latency()))


def scripted(models: Models, script: Callable[[Any], Iterator[Any]]) -> Models:
    """Models that answer by a script, with the real detokenizer."""
    return replace(models, new_chat=lambda: ScriptedChat(script))


def forever(question: Any) -> Iterator[Any]:
    """A script that speaks for longer than any test: a word and five tokens in each step."""
    for number in range(1000):
        yield f"w{number} "
        yield [1] * 5
