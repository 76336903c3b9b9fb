# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The web demo's server for 1, 2 and 4 users, over real sockets: `python benchmarks/serving.py`.

The server is a separate process. Every user asks spoken questions one after another, each sent in
real time as the client does, and interrupts the last answer. First-audio latency runs from the end
of the question to the arrival of the first audio message; stages use the server's own clock.
The same users then ask over OpenAI's Realtime interface, with turns that the client ends.
"""

import argparse
import asyncio
import base64
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import sphn
from common import command_line

from funaudiochat.audio import load_audio
from funaudiochat.constants import OUTPUT_RATE_HZ

ROOT = Path(__file__).parents[1]
FRAME = 960
STAGES = ("first_text_ms", "first_codes_ms", "first_audio_ms")


@dataclass
class Figures:
    """Measurements of the users in milliseconds."""

    first_audio_ms: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    real_time_factor: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    silence: list[float] = field(default_factory=list)
    realtime_first_audio_ms: list[float] = field(default_factory=list)
    realtime_silence: list[float] = field(default_factory=list)


def percentile(values: list[float], share: float) -> float:
    """Return the percentile by nearest rank, NaN if there are no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class User:
    """One client, whose messages are received in a separate task.

    Attributes:
        arrivals: when each audio message of the newest turn came.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._writer = sphn.OpusStreamWriter(OUTPUT_RATE_HZ)
        self.arrivals: list[float] = []
        self._events: asyncio.Queue[dict] = asyncio.Queue()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            if message.data[0] == 1:
                self.arrivals.append(time.monotonic())
            elif message.data[0] == 4:
                event = json.loads(message.data[1:])
                if event["event"] == "turn_start":
                    self.arrivals.clear()  # of the previous turn, which may still have been playing
                await self._events.put(event)

    async def event(self, name: str, **fields: object) -> dict:
        """Wait for an event of this name and fields; a turn cut near its end reports it twice."""
        wanted = {"event": name, **fields}
        while not wanted.items() <= (event := await self._events.get()).items():
            if event["event"] == "error":
                raise RuntimeError(event["message"])
        return event

    async def say(self, samples: np.ndarray) -> None:
        """Send audio in real time."""
        began = time.monotonic()
        for index, start in enumerate(range(0, len(samples) - FRAME + 1, FRAME)):
            page = self._writer.append_pcm(samples[start : start + FRAME])
            await self._socket.send_bytes(b"\x01" + page)
            await asyncio.sleep(max(0.0, began + 0.04 * (index + 1) - time.monotonic()))

    async def press(self, control: int) -> float:
        await self._socket.send_bytes(bytes([3, control]))
        return time.monotonic()

    async def settings(self, **values: object) -> None:
        await self._socket.send_bytes(b"\x04" + json.dumps(values).encode())


async def converse(
    url: str, question: np.ndarray, turns: int, steps: int, figures: Figures
) -> None:
    """Ask `turns` questions, then one more that is interrupted after a second of its answer."""
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/api/chat?protocol=2", max_msg_size=0) as socket:
            user = User(socket)
            await user.event("ready")
            await user.settings(sampling={"greedy": True, "max_new_tokens": steps})
            for turn in range(1, turns + 2):
                await user.press(
                    3 if turn > 1 else 0
                )  # every question is the first of its conversation
                await user.say(question)
                asked = await user.press(2)
                if turn > turns:
                    await user.event("first_audio", turn=turn)
                    await asyncio.sleep(1)
                    pressed = await user.press(0)
                    await user.event("turn_end", turn=turn, reason="interrupted")
                    await asyncio.sleep(0.5)
                    figures.silence.append(1000 * max(0.0, user.arrivals[-1] - pressed))
                else:
                    end = await user.event("turn_end", turn=turn, reason="done")
                    collect(end, asked, user.arrivals, figures)
            user.reading.cancel()


class RealtimeUser:
    """One client of `/v1/realtime`; events are read when they are waited for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, kind: str, **fields: object) -> float:
        await self._socket.send_str(json.dumps({"type": kind, **fields}))
        return time.monotonic()

    async def event(self, kind: str) -> list[float]:
        """Wait for an event of this type -> when each audio delta before it came, then itself.

        Raises:
            RuntimeError: the server reports an error, or the response ends without the event.
        """
        arrivals = []
        while True:
            event = json.loads((await self._socket.receive()).data)
            if event["type"] == "error":
                raise RuntimeError(event["error"]["message"])
            if event["type"] == "response.done" != kind:
                raise RuntimeError("an answer had no audio; give --steps or another model")
            if event["type"] in (kind, "response.output_audio.delta"):
                arrivals.append(time.monotonic())
            if event["type"] == kind:
                return arrivals

    async def say(self, samples: np.ndarray) -> None:
        """In real time."""
        began = time.monotonic()
        pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        for index, start in enumerate(range(0, len(pcm) - FRAME + 1, FRAME)):
            data = base64.b64encode(pcm[start : start + FRAME].tobytes()).decode()
            await self.send("input_audio_buffer.append", audio=data)
            await asyncio.sleep(max(0.0, began + 0.04 * (index + 1) - time.monotonic()))


async def converse_realtime(
    url: str, question: np.ndarray, turns: int, steps: int, figures: Figures
) -> None:
    """Do what :func:`converse` does, over the Realtime interface."""
    async with aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/v1/realtime", max_msg_size=0) as socket:
            user = RealtimeUser(socket)
            await user.event("session.created")
            audio = {"input": {"turn_detection": None}}
            await user.send("session.update", session={"audio": audio, "max_output_tokens": steps})
            for turn in range(turns + 1):
                await user.say(question)
                asked = await user.send("input_audio_buffer.commit")
                await user.send("response.create")
                first = (await user.event("response.output_audio.delta"))[0]
                if turn < turns:
                    figures.realtime_first_audio_ms.append(1000 * (first - asked))
                    await user.event("response.done")
                    continue
                cancelled = await user.send("response.cancel")
                *late, _ = await user.event("response.done")
                last = max([cancelled, *late])
                figures.realtime_silence.append(1000 * (last - cancelled))


def collect(end: dict, asked: float, arrivals: list[float], figures: Figures) -> None:
    """Add the measurements of one complete turn."""
    if not arrivals:
        raise RuntimeError("an answer had no audio; give --steps or another model")
    figures.first_audio_ms.append(1000 * (arrivals[0] - asked))
    for stage in STAGES:
        figures.stages[stage].append(end["stages"][stage])
    figures.real_time_factor.append(end["stages"]["real_time_factor"])
    # Total gaps heard by a user who starts playing at the first audio.
    plays_until, missing = arrivals[0], 0.0
    for at in arrivals:
        missing += max(0.0, at - plays_until)
        plays_until = max(plays_until, at) + 0.04
    figures.stalls.append(1000 * missing)


async def measure(url: str, users: int, args: argparse.Namespace) -> list[str]:
    """Run one row and return its cells."""
    question = load_audio(args.question, OUTPUT_RATE_HZ)
    figures = Figures()
    await asyncio.gather(
        *(converse(url, question, args.turns, args.steps, figures) for _ in range(users))
    )
    await asyncio.gather(
        *(converse_realtime(url, question, args.turns, args.steps, figures) for _ in range(users))
    )
    cells = [str(users)]
    for values in (
        figures.first_audio_ms,
        *figures.stages.values(),
        figures.stalls,
        figures.silence,
        figures.realtime_first_audio_ms,
        figures.realtime_silence,
    ):
        cells.append(f"{percentile(values, 0.5):.0f} / {percentile(values, 0.95):.0f}")
    cells.append(f"{statistics.median(figures.real_time_factor):.2f}")
    return cells


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--question", type=Path, default=ROOT / "examples" / "question.wav")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=40, help="longest answer in steps, 5 per second"
    )
    args, server_flags = parser.parse_known_args()  # the remaining flags go to the server
    command = [
        sys.executable,
        "-m",
        "web_demo.server.server",
        "--port",
        "0",
        "--log-json",
        "--max-sessions",
        str(max(args.users)),
        *server_flags,
    ]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        said: list[str] = []
        for line in server.stderr:
            said.append(json.loads(line)["message"] if line.startswith("{") else line.rstrip())
            if said[-1].startswith("open "):
                break
        else:
            raise SystemExit("\n".join(["the server did not start; it said:", *said]))
        url = said[-1].removeprefix("open ")
        asyncio.run(measure_all(url, args))
    finally:
        server.terminate()
        server.wait()


async def measure_all(url: str, args: argparse.Namespace) -> None:
    """Run one turn to warm up, then print the table; times in ms, p50 / p95."""
    question = load_audio(args.question, OUTPUT_RATE_HZ)
    await converse(url, question, 1, args.steps, Figures())
    names = (
        "users",
        "first audio",
        "server: text",
        "tokens",
        "audio",
        "stalls",
        "interrupt to silence",
        "Realtime: first audio",
        "interrupt to silence (Realtime)",
        "real-time factor",
    )
    if args.style == "markdown":
        print("| " + " | ".join(names) + " |\n" + "| ---: " * len(names) + "|")
    for users in args.users:
        cells = await measure(url, users, args)
        if args.style == "markdown":
            line = "| " + " | ".join(cells) + " |"
        elif args.style == "json":
            line = json.dumps(dict(zip(names, cells, strict=True)))
        else:
            line = ", ".join(f"{n}: {c}" for n, c in zip(names, cells, strict=True))
        print(line, flush=True)


if __name__ == "__main__":
    main()
