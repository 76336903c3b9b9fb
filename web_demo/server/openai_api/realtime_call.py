# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The Realtime interface over WebRTC: ``POST /v1/realtime/calls``; needs the extra ``rtc``."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from aiohttp import web
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame, AudioResampler

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueTicket
from web_demo.server.openai_api.admission import check_model, enter_lobby
from web_demo.server.openai_api.audio_formats import to_pcm16
from web_demo.server.openai_api.errors import ApiError
from web_demo.server.openai_api.realtime import RealtimeConnection
from web_demo.server.openai_api.realtime_response import Response
from web_demo.server.sessions import Sessions

logger = logging.getLogger(__name__)

EVENTS_CHANNEL = "oai-events"
FRAME_SAMPLES = OUTPUT_RATE_HZ // 50  # 20 ms, as Opus packets have
FRAME_S = FRAME_SAMPLES / OUTPUT_RATE_HZ
MAX_LATE_S = 0.2  # after a longer stall, playback continues from now instead of catching up
CONNECT_S = 30.0
MAX_FIELD_CHARS = 65_536  # of the offer and of the session, which an event has to carry back
MAX_INBOX = 4096
MAX_BUFFERED_BYTES = 2**20


@dataclass
class Playback:
    """Audio of one response, float32 at 24 kHz.

    Attributes:
        played: samples played so far.
        complete: no more will be added.
    """

    unplayed: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    played: int = 0
    complete: bool = False


class ReplyTrack(MediaStreamTrack):
    """Plays replies in real time, and silence between them.

    It implements :class:`~web_demo.server.openai_api.realtime_response.Player`.

    Args:
        report: called with ``started`` and ``stopped``, and the response.
    """

    kind = "audio"

    def __init__(self, report: Callable[[str, Response], None]) -> None:
        super().__init__()
        self._report = report
        self._playbacks: dict[Response, Playback] = {}  # the first one is being played
        self._due_at, self._position = time.monotonic(), 0

    def play(self, response: Response, samples: np.ndarray) -> None:
        """Add audio [S] of a response."""
        playback = self._playbacks.setdefault(response, Playback())
        playback.unplayed = np.concatenate([playback.unplayed, samples])

    def finish(self, response: Response) -> None:
        """Take note that no more audio of a response will come."""
        if response in self._playbacks:
            self._playbacks[response].complete = True

    def clear(self) -> dict[Response, int]:
        """Drop what was not played -> the samples played of each response that is cut."""
        cut = {response: each.played for response, each in self._playbacks.items()}
        self._playbacks.clear()
        return cut

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms when it is time to play them.

        Raises:
            MediaStreamError: the call has ended.
        """
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if now - self._due_at > MAX_LATE_S:
            self._due_at = now
        await asyncio.sleep(self._due_at - now)
        self._due_at += FRAME_S
        samples = np.frombuffer(to_pcm16(self._next()), np.int16)
        frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = OUTPUT_RATE_HZ, Fraction(1, OUTPUT_RATE_HZ)
        frame.pts = self._position
        self._position += FRAME_SAMPLES
        return frame

    def _next(self) -> np.ndarray:
        samples = np.zeros(FRAME_SAMPLES, np.float32)
        response, playback = next(iter(self._playbacks.items()), (None, None))
        if response is None or playback is None:
            return samples
        part = playback.unplayed[:FRAME_SAMPLES]
        if len(part) and not playback.played:
            self._report("started", response)
        samples[: len(part)] = part
        playback.unplayed = playback.unplayed[FRAME_SAMPLES:]
        playback.played += len(part)
        if playback.complete and not len(playback.unplayed):
            del self._playbacks[response]
            self._report("stopped", response)
        return samples


class Peer:
    """The WebRTC connection to one client; a connection's socket.

    Its messages are the events of the data channel and the microphone's audio, in one order.

    Attributes:
        ready: set once events can be sent; if the client wants none, once it is connected.
        closed: the client has disconnected, or the call was closed.
    """

    def __init__(self) -> None:
        # Without servers for addresses: aiortc would ask a public one.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._channel: RTCDataChannel | None = None
        self._inbox: asyncio.Queue[str | bytes | np.ndarray | None] = asyncio.Queue()
        self._listening: asyncio.Task[None] | None = None
        self._begun, self._writable = asyncio.Event(), asyncio.Event()
        self.ready = asyncio.Event()
        self.closed = False
        self._connection.on("track", self._on_track)
        self._connection.on("datachannel", self._on_channel)
        self._connection.on("connectionstatechange", self._on_state)

    async def answer(self, offer: str, track: MediaStreamTrack) -> str:
        """Return the answer to an offer.

        Args:
            offer: what the client proposes, SDP.
            track: the audio for the client.

        Raises:
            ApiError: the offer cannot be read, or has no audio.
        """
        connection = self._connection
        try:
            await connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            audio = [each for each in connection.getTransceivers() if each.kind == "audio"]
            if not audio:
                raise ValueError("it has no audio section")
            connection.addTrack(track)
            for transceiver in connection.getTransceivers():
                if transceiver is not audio[0]:
                    transceiver.direction = "inactive"  # nobody would read what it receives
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # the parser fails in many ways
            raise ApiError(f"sdp: not an offer that can be answered ({error or type(error)})",
                           "sdp", "invalid_offer") from error  # fmt: skip
        return str(connection.localDescription.sdp)

    def begin(self) -> None:
        """Let messages through; until then events wait, and audio is dropped."""
        self._begun.set()

    async def receive(self) -> str | bytes | np.ndarray | None:
        """Return the next event, or audio [S] at 16 kHz; None at the end."""
        await self._begun.wait()
        return None if self.closed else await self._inbox.get()

    async def send_str(self, data: str) -> None:
        """Send an event; return when more can be sent."""
        await self._send(data)

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes; return when more can be sent."""
        await self._send(data)

    async def _send(self, data: str | bytes) -> None:
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        channel.send(data)
        if channel.bufferedAmount > MAX_BUFFERED_BYTES:
            self._writable.clear()
            await self._writable.wait()

    async def close(self, *, code: int, message: bytes) -> None:
        """End the call; a data channel carries neither code nor message."""
        self.end()

    def end(self) -> None:
        """Let :meth:`receive` return None."""
        self.closed = True
        for event in (self._begun, self._writable, self.ready):
            event.set()
        self._inbox.put_nowait(None)

    async def release(self) -> None:
        """Close the connection and stop listening."""
        self.end()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        await self._connection.close()

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio" and self._listening is None:
            self._listening = asyncio.create_task(self._listen(track))

    async def _listen(self, track: MediaStreamTrack) -> None:
        resampler = AudioResampler(format="flt", layout="mono", rate=INPUT_RATE_HZ)
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if not self._begun.is_set() or not isinstance(frame, AudioFrame):
                continue
            for resampled in resampler.resample(frame):
                self._take(resampled.to_ndarray()[0])

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != EVENTS_CHANNEL or self._channel is not None:
            return
        self._channel = channel
        channel.bufferedAmountLowThreshold = MAX_BUFFERED_BYTES // 2
        channel.on("bufferedamountlow", self._writable.set)
        channel.on("message", self._take)
        channel.on("close", self.end)
        self.ready.set()

    def _on_state(self) -> None:
        state = self._connection.connectionState
        if state in ("failed", "closed"):
            self.end()
        elif state == "connected" and self._connection.sctp is None:
            self.ready.set()

    def _take(self, message: str | bytes | np.ndarray) -> None:
        if self._inbox.qsize() >= MAX_INBOX:
            logger.warning("a call was ended: its client sends faster than events are served")
            self.end()
        elif not self.closed:
            self._inbox.put_nowait(message)


class RealtimeCall(RealtimeConnection):
    """The connection of a Realtime client over WebRTC.

    While its ticket waits in the queue the call is silent, and its events wait.

    Attributes:
        call_id: names the call to its client.
    """

    def __init__(self, context: ServerContext, ticket: QueueTicket) -> None:
        self._peer, self._track = Peer(), ReplyTrack(self._report)
        super().__init__(context, self._peer, self._peer.end, ticket, self._track)
        self.call_id = f"rtc_{self.session.name}"

    async def answer(self, offer: str) -> str:
        """Return the answer to a client's offer.

        Raises:
            ApiError: the offer cannot be read, or has no audio.
        """
        return await self._peer.answer(offer, self._track)

    async def release(self) -> None:
        """Give up the ticket and everything below the call."""
        self._context.lobby.leave(self._ticket)
        await self._peer.release()

    async def run(self) -> None:
        """Serve the call until it ends, then release everything it holds."""
        try:
            await super().run()
        finally:
            await self.release()

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        return [self._limit_connecting()]

    async def _limit_connecting(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._peer.ready.wait()
        except TimeoutError:
            logger.info("a client did not connect", extra={"session": self.session.name})
            self._peer.end()

    async def _greet(self) -> None:
        await self._peer.ready.wait()
        await super()._greet()
        self._peer.begin()

    async def _read(self) -> None:
        while (message := await self._peer.receive()) is not None:
            if isinstance(message, np.ndarray):
                await self._hear(message)
            else:
                await self._receive(message)

    async def _hear(self, samples: np.ndarray) -> None:
        try:
            await self.session.hear(samples, 1000 * len(samples) / INPUT_RATE_HZ)
        except Exception as error:
            await self._report_failure(error)

    def _report(self, change: str, response: Response) -> None:
        kind = f"output_audio_buffer.{change}"
        self._spawn(self._outbox.emit(kind, response_id=response.id))


async def serve_call(
    request: web.Request, context: ServerContext, sessions: Sessions
) -> web.Response:
    """Answer an offer, and serve the call beside the request.

    Raises:
        ApiError: the request cannot be read, the model is not served, or there is no room.
    """
    offer, given = await _read_offer(request)
    model = given.get("model", request.query.get("model", context.models.name))
    check_model(context, str(model))
    call = RealtimeCall(context, enter_lobby(context))
    try:
        call.session.configure(given)
        answer = await call.answer(offer)
    except BaseException:
        await call.release()
        raise
    sessions.start(call)
    headers = {"Location": f"/v1/realtime/calls/{call.call_id}"}
    return web.Response(text=answer, status=201, content_type="application/sdp", headers=headers)


async def _read_offer(request: web.Request) -> tuple[str, dict[str, Any]]:
    """Return the offer and the session's fields of a request.

    Raises:
        ApiError: it has neither of the forms, or a field is wrong.
    """
    session = ""
    if request.content_type == "application/sdp":
        offer = (await request.read()).decode(errors="replace")
    elif request.content_type == "multipart/form-data":
        try:
            form = await request.post()
        except ValueError as error:
            raise ApiError(f"the form cannot be read ({error})", code="invalid_form") from error
        offer, session = _text(form.get("sdp", "")), _text(form.get("session", ""))
    else:
        raise ApiError("send application/sdp, or multipart/form-data with the fields sdp and "
                       "session", code="unsupported_content_type")  # fmt: skip
    for name, text in (("sdp", offer), ("session", session)):
        if len(text) > MAX_FIELD_CHARS:
            raise ApiError(f"{name}: {len(text)} characters; at most {MAX_FIELD_CHARS} are read",
                           name, "string_above_max_length")  # fmt: skip
    if not offer.strip():
        raise ApiError("sdp: the offer is missing", "sdp", "missing_required_parameter")
    try:
        given = json.loads(session or "{}")
    except (ValueError, RecursionError) as error:
        raise ApiError(f"session: not JSON ({error})", "session", "invalid_json") from error
    if not isinstance(given, dict):
        raise ApiError("session: must be a JSON object", "session", "invalid_value")
    return offer, given


def _text(value: str | bytes | bytearray | web.FileField) -> str:
    """Return the text of a form's field, which clients send with and without a file's name."""
    if isinstance(value, str):
        return value
    data = value.file.read() if isinstance(value, web.FileField) else value
    return data.decode(errors="replace")
