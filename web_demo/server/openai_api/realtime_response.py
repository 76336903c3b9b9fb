# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Send one reply as the events of a Realtime response."""

import base64
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np

from funaudiochat.constants import GROUP_SIZE
from web_demo.server.metrics import Metrics
from web_demo.server.openai_api.errors import ApiError
from web_demo.server.openai_api.realtime_audio import AudioOutput
from web_demo.server.openai_api.realtime_items import Item, Part, Status, new_id
from web_demo.server.outbox import Socket, SocketWriter
from web_demo.server.turn import Turn

logger = logging.getLogger(__name__)

ServerEvent = tuple[str, dict[str, Any]]  # type and fields
CANCEL_REASONS = {"voice": "turn_detected"}  # by the cause of an interruption


class RealtimeOutbox(SocketWriter):
    """Sends server events over one socket."""

    def __init__(self, socket: Socket, session: str, metrics: Metrics) -> None:
        super().__init__(socket)
        self._session, self._metrics = session, metrics

    async def emit(self, kind: str, **fields: Any) -> None:
        """Send an event.

        Raises:
            ConnectionError: the client has disconnected.
        """
        logger.debug("%s", kind, extra={"session": self._session})
        await self.send(json.dumps({"type": kind, "event_id": new_id("event"), **fields}))

    async def error(self, error: ApiError, event_id: str | None = None) -> None:
        """Send an error.

        Args:
            error: the error to report.
            event_id: id of the client's event that caused it.
        """
        self._metrics.errors.labels(error.code or "invalid_request").inc()
        logger.info("%s: %s", error.code, error.message, extra={"session": self._session})
        await self.emit("error", error={**error.body(), "event_id": event_id})


class Player(Protocol):
    """Plays replies in real time, in the order in which they began."""

    def play(self, response: "Response", samples: np.ndarray) -> None:
        """Add audio [S] of a response, float32 at 24 kHz."""

    def finish(self, response: "Response") -> None:
        """Take note that no more audio of a response will come."""

    def clear(self) -> dict["Response", int]:
        """Drop what was not played -> the samples played of each response that is cut."""


class Response:
    """One response: turns what a turn reports into events and items.

    It implements :class:`~web_demo.server.client.Client`. An interruption may cancel any of its
    methods while it sends; the events that were left are sent before ``response.done``. Its output
    is at most one message, then function calls; the message begins with its first text or audio.

    Args:
        config: what ``response.created`` shows of its options.
        speech: the reply is spoken.
        form: format of its audio.
        functions: names of the functions offered.
        on_item: adds an item to the conversation and returns the events that report it; None out
            of band.
        on_done: awaited after ``response.done``.
        player: plays its audio, which otherwise is sent in events.

    Attributes:
        turn: the turn that makes the reply.
        cancel_cause: why it is being interrupted.
        message: its message, once that has begun.
        heard_samples: samples [24 kHz] that were played until its audio was cleared, else None.
    """

    def __init__(
        self,
        outbox: RealtimeOutbox,
        config: dict[str, Any],
        speech: bool,
        form: str,
        functions: frozenset[str],
        on_item: Callable[[Item], list[ServerEvent]] | None,
        on_done: Callable[["Response"], Awaitable[None]],
        player: Player | None = None,
    ) -> None:
        self.id = new_id("resp")
        self.turn: Turn | None = None
        self.cancel_cause = "client"
        self._outbox, self._config, self._speech = outbox, config, speech
        self._encoder = AudioOutput(form)
        self._functions, self._on_item, self._on_done = functions, on_item, on_done
        self._queued: deque[ServerEvent] = deque()
        self._player = player
        self.heard_samples: int | None = None
        self._finished = False
        self._output: list[Item] = []
        self.message: Item | None = None
        self._error: dict[str, str] | None = None
        self._kind = "response.output_audio_transcript" if speech else "response.output_text"

    @property
    def in_conversation(self) -> bool:
        """Whether its output belongs to the conversation."""
        return self._on_item is not None

    async def event(self, event: str, /, **fields: Any) -> None:
        """Take an event of the turn."""
        if event == "turn_start":
            self._queue("response.created", response=self._dump("in_progress"))
        elif event == "tool_call":
            self._call(fields["name"], json.dumps(fields["arguments"], ensure_ascii=False))
        elif event == "turn_end" and not self._finished:
            self._finished = True
            self._finish(fields["reason"])
            await self._flush()
            await self._on_done(self)
        await self._flush()

    async def error(
        self, code: str, message: str, turn: int | None = None, fatal: bool = False
    ) -> None:
        """Keep why the reply failed, for ``response.done``."""
        kind = "server_error" if code == "model_error" else "invalid_request_error"
        self._error = {"type": kind, "code": code, "message": message}

    async def reply_pending(self) -> None:
        """Send nothing: ``response.created`` says it."""

    async def text(self, text: str) -> None:
        """Send text or transcript."""
        part = self._open_message().parts[0]
        part.pieces.append((text, part.samples))
        self._queue_part(f"{self._kind}.delta", delta=text)
        await self._flush()

    async def audio(self, frame: np.ndarray) -> None:
        """Send audio."""
        part = self._open_message().parts[0]
        if self._player is None:
            part.samples += len(frame)
            self._queue_audio(self._encoder.encode(frame))
            await self._flush()
            return
        await self._flush()
        if self.heard_samples is None:
            part.samples += len(frame)
            self._player.play(self, frame)

    async def audio_done(self) -> None:
        """Send the audio that the encoder holds."""
        if self._player is None:
            self._queue_audio(self._encoder.encode(np.zeros(0, np.float32), last=True))
            await self._flush()

    async def _flush(self) -> None:
        while self._queued:
            kind, fields = self._queued.popleft()
            await self._outbox.emit(kind, **fields)

    def _queue(self, kind: str, **fields: Any) -> None:
        self._queued.append((kind, fields))

    def _queue_part(self, kind: str, **fields: Any) -> None:
        assert self.message is not None
        self._queue(
            kind,
            response_id=self.id,
            item_id=self.message.id,
            output_index=self._output.index(self.message),
            content_index=0,
            **fields,
        )

    def _queue_audio(self, data: bytes) -> None:
        if data:
            delta = base64.b64encode(data).decode()
            self._queue_part("response.output_audio.delta", delta=delta)

    def _open_message(self) -> Item:
        if self.message is None:
            part = Part("output_audio" if self._speech else "output_text")
            item = Item(new_id("item"), "message", "assistant", [part], status="in_progress")
            self.message = item
            self._add(item, {**item.dump(), "content": []})
            self._queue_part("response.content_part.added", part=self._part())
        return self.message

    def _part(self) -> dict[str, Any]:
        assert self.message is not None
        text = self.message.parts[0].text
        if self._speech:
            return {"type": "audio", "transcript": text}
        return {"type": "text", "text": text}

    def _add(self, item: Item, shown: dict[str, Any]) -> None:
        self._output.append(item)
        index = len(self._output) - 1
        self._queue(
            "response.output_item.added", response_id=self.id, output_index=index, item=shown
        )
        if self._on_item is not None:
            self._queued.extend(self._on_item(item))

    def _end(self, item: Item, status: Status) -> None:
        item.status = status
        if self.in_conversation:
            self._queue("conversation.item.done", item=item.dump())
        self._queue(
            "response.output_item.done",
            response_id=self.id,
            output_index=self._output.index(item),
            item=item.dump(),
        )

    def _close_message(self, status: Status) -> None:
        item = self._open_message()
        text = item.parts[0].text
        if self._speech:
            self._queue_part("response.output_audio.done")
            self._queue_part(f"{self._kind}.done", transcript=text)
        else:
            self._queue_part(f"{self._kind}.done", text=text)
        self._queue_part("response.content_part.done", part=self._part())
        self._end(item, status)

    def _call(self, name: str, arguments: str) -> None:
        if self.message is not None and self.message.status == "in_progress":
            self._close_message("completed")
        fields = {"call_id": new_id("call"), "name": name, "arguments": arguments}
        item = Item(
            new_id("item"),
            "function_call",
            fields=fields,
            status="in_progress",
            offered=self._functions,
        )
        self._add(item, {**item.dump(), "arguments": ""})
        where = {
            "response_id": self.id,
            "item_id": item.id,
            "output_index": len(self._output) - 1,
            "call_id": fields["call_id"],
        }
        kind = "response.function_call_arguments"
        self._queue(f"{kind}.delta", delta=arguments, **where)
        self._queue(f"{kind}.done", arguments=arguments, name=name, **where)
        self._end(item, "completed")

    def _finish(self, reason: str) -> None:
        """Close what is open and queue ``response.done``."""
        assert self.turn is not None
        reply = self.turn.reply
        details: dict[str, Any] | None = None
        status = {"done": "completed", "interrupted": "cancelled"}.get(reason, "failed")
        if status == "completed" and reply is not None and reply.finish_reason == "length":
            status = "incomplete"
            details = {"type": status, "reason": "max_output_tokens"}
        elif status == "cancelled":
            cause = CANCEL_REASONS.get(self.cancel_cause, "client_cancelled")
            details = {"type": status, "reason": cause}
        elif status == "failed":
            details = {"type": status, "error": self._error}
        open_message = self.message is not None and self.message.status == "in_progress"
        if open_message or (status == "completed" and not self._output):
            self._close_message("completed" if status == "completed" else "incomplete")
        if self._player is not None:
            self._player.finish(self)
        shown = self._dump(status, details)
        shown["usage"] = self._usage()
        self._queue("response.done", response=shown)

    def _dump(self, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": details,
            "output": [item.dump() for item in self._output],
            "usage": None,
            **self._config,
        }

    def _usage(self) -> dict[str, Any]:
        """Count the model's steps; a reply that is cut before its turn came has no prompt."""
        assert self.turn is not None
        reply, steps, prompt = self.turn.reply, self.turn.steps, self.turn.prompt_steps
        if reply is not None:
            spoken = -(-len(reply.speech_tokens) // GROUP_SIZE)
        else:
            spoken = steps if self._speech else 0
        spoken = min(spoken, steps)
        return {
            "input_tokens": prompt,
            "output_tokens": steps,
            "total_tokens": prompt + steps,
            "input_token_details": {"text_tokens": prompt, "audio_tokens": 0, "cached_tokens": 0},
            "output_token_details": {"text_tokens": steps - spoken, "audio_tokens": spoken},
        }
