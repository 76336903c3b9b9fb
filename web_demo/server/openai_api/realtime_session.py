# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The session of a Realtime client: its configuration, items, audio buffer and responses."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from funaudiochat.constants import INPUT_RATE_HZ, MAX_NEW_TOKENS, OUTPUT_RATE_HZ
from funaudiochat.conversation import Conversation
from funaudiochat.errors import FunAudioChatError
from funaudiochat.turns import tool_names
from web_demo.server.context import ServerContext
from web_demo.server.openai_api.errors import ApiError, unsupported
from web_demo.server.openai_api.realtime_audio import AudioInput
from web_demo.server.openai_api.realtime_items import (
    MAX_ITEMS,
    Item,
    Items,
    clean,
    decode_base64,
    make_prompt,
    milliseconds,
    new_id,
)
from web_demo.server.openai_api.realtime_response import (
    Player,
    RealtimeOutbox,
    Response,
    ServerEvent,
)
from web_demo.server.openai_api.realtime_schemas import (
    Append,
    ClientEvent,
    ItemCreate,
    ItemId,
    ItemTruncate,
    ResponseCancel,
    ResponseConfig,
    ResponseCreate,
    SemanticVad,
    SessionConfig,
    SessionUpdate,
    VoiceId,
    check_choice,
    read,
)
from web_demo.server.session import Session, Spawn
from web_demo.server.settings import SamplingSettings, Settings
from web_demo.server.turn import Turn
from web_demo.server.turn_detector import SpeechEvent
from web_demo.server.vad import WINDOW_SAMPLES

logger = logging.getLogger(__name__)

MIN_COMMIT_MS = 100
MAX_ASIDE = 4
# Silence that ends a turn, by eagerness: there is no model of meaning, so eagerness is patience.
_EAGERNESS_MS = {"high": 500, "medium": 1000, "auto": 1000, "low": 2000}
Handler = Callable[[Any], Awaitable[None]]


@dataclass
class History:
    """What a response continues: a conversation of its own, made from the items."""

    chat: Conversation
    settings: Settings


class RealtimeSession(Session):
    """Decides what a question, a reply and an interruption are for a Realtime client.

    The connection calls :meth:`take` with one event after another.

    Args:
        player: plays the replies to a client that does not get them in events; what it drops at an
            interruption, the session takes out of the conversation.
    """

    def __init__(
        self,
        name: str,
        context: ServerContext,
        outbox: RealtimeOutbox,
        spawn: Spawn,
        player: Player | None = None,
    ) -> None:
        super().__init__(name, context, spawn)
        self._outbox, self._player = outbox, player
        self._id, self._conversation_id = new_id("sess"), new_id("conv")
        detects = context.vad_network is not None
        models = context.models
        config = SessionConfig(
            model=models.name,
            output_modalities=["audio" if models.answers[0] == "speech" else "text"],
        )
        default = {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
        self._config = config.changed(default) if detects else config
        self._items = Items()
        self._responses: dict[str, Response] = {}
        self._turn_count = 0
        self._input = AudioInput("audio/pcm")
        self._buffered_ms = 0.0
        self._spoken_id = new_id("item")  # of the question that is being spoken
        self._owes_response = False
        self._activity = 0
        self._configure_detector()
        self._handlers: dict[str, tuple[type[ClientEvent], Handler]] = {
            "session.update": (SessionUpdate, self._update),
            "input_audio_buffer.append": (Append, self._append),
            "input_audio_buffer.commit": (ClientEvent, self._commit_buffer),
            "input_audio_buffer.clear": (ClientEvent, self._clear_buffer),
            "conversation.item.create": (ItemCreate, self._create_item),
            "conversation.item.delete": (ItemId, self._delete_item),
            "conversation.item.retrieve": (ItemId, self._retrieve_item),
            "conversation.item.truncate": (ItemTruncate, self._truncate_item),
            "response.create": (ResponseCreate, self._create_response),
            "response.cancel": (ResponseCancel, self._cancel_response),
        }
        if player is not None:
            self._handlers["output_audio_buffer.clear"] = (ClientEvent, self._clear_output)

    def shown(self) -> dict[str, Any]:
        """Return the session as events show it."""
        shown = {"id": self._id, **self._config.dump()}
        output = shown["audio"]["output"]
        output["voice"] = output["voice"] or self._context.models.voice
        return shown

    async def take(self, event: dict[str, Any]) -> None:
        """Take an event of the client.

        Raises:
            ApiError: it is refused; nothing has changed.
        """
        kind = event.get("type")
        if kind is None:
            raise ApiError("type: Field required", "type", "missing_required_parameter")
        found = self._handlers.get(kind) if isinstance(kind, str) else None
        if found is None:
            known = ", ".join(self._handlers)
            raise ApiError(f"unknown event {str(kind)[:100]!r}; known are {known}", "type",
                           "invalid_value")  # fmt: skip
        schema, handler = found
        await handler(read(schema, event))

    # The session

    async def _update(self, event: SessionUpdate) -> None:
        self.configure(event.session)
        await self._outbox.emit("session.updated", session=self.shown())

    def configure(self, given: dict[str, Any]) -> None:
        """Change the configuration, all given fields or none of them.

        Raises:
            ApiError: names the field that cannot be taken.
        """
        new = self._config.changed(given)
        if new.audio.input.turn_detection is not None and self._context.vad_network is None:
            raise unsupported("session.audio.input.turn_detection", "silero-vad is not installed")
        self._check_modality(new.output_modalities, "session.output_modalities")
        old, self._config = self._config, new
        if new.audio.input.format != old.audio.input.format:
            self._input = AudioInput(new.audio.input.format.type)
        self._configure_detector()

    def _check_modality(self, modalities: list[Any], where: str) -> None:
        if modalities == ["audio"] and "speech" not in self._context.models.answers:
            raise unsupported(where, 'this server replies with text only; use ["text"]')

    def _configure_detector(self) -> None:
        detection, detector = self._config.audio.input.turn_detection, self.detector
        hands_free = detection is not None
        if hands_free != detector.hands_free:
            detector.hands_free, detector.speaking = hands_free, False
        if isinstance(detection, SemanticVad):
            detector.end_silence_ms = _EAGERNESS_MS[detection.eagerness]
            detector.threshold, detector.preroll_ms = 0.5, 300
        elif detection is not None:
            detector.end_silence_ms = detection.silence_duration_ms
            detector.threshold = detection.threshold
            detector.preroll_ms = detection.prefix_padding_ms

    # The audio buffer

    async def _append(self, event: Append) -> None:
        data = await asyncio.to_thread(decode_base64, event.audio, "audio")
        samples = await asyncio.to_thread(self._input.decode, data)
        await self.hear(samples, len(data) / self._input.bytes_per_ms)

    async def hear(self, samples: np.ndarray, duration_ms: float) -> None:
        """Add audio to the buffer; it may complete a question, or interrupt a reply.

        Args:
            samples: the audio [S] at 16 kHz.
            duration_ms: how long it is with what a resampler still holds back.
        """
        self._buffered_ms += duration_ms
        while len(samples):
            found, samples = await asyncio.to_thread(self._detect, samples)
            for each in found:
                await (
                    self._begin_speech if each is SpeechEvent.SPEECH_START else self._end_speech
                )()

    def _detect(self, samples: np.ndarray) -> tuple[list[SpeechEvent], np.ndarray]:
        """Push samples [S] until something is detected; return that and the samples left."""
        for start in range(0, len(samples), WINDOW_SAMPLES):
            found = self.detector.push(samples[start : start + WINDOW_SAMPLES])
            if found:
                return found, samples[start + WINDOW_SAMPLES :]
        return [], samples[:0]

    async def _begin_speech(self) -> None:
        detection = self._config.audio.input.turn_detection
        assert detection is not None
        self._activity += 1
        begin_ms = milliseconds(self.detector.speech_position, INPUT_RATE_HZ)
        await self._outbox.emit(
            "input_audio_buffer.speech_started",
            audio_start_ms=max(0, begin_ms - self.detector.preroll_ms),
            item_id=self._spoken_id,
        )
        if detection.interrupt_response:
            if self.in_play:
                self._stop_response("voice")
            await self._stop_playback()

    async def _end_speech(self) -> None:
        detection = self._config.audio.input.turn_detection
        assert detection is not None
        await self._outbox.emit(
            "input_audio_buffer.speech_stopped",
            audio_end_ms=milliseconds(self.detector.position, INPUT_RATE_HZ),
            item_id=self._spoken_id,
        )
        item = await self._commit(self.detector.take())
        await self._answer_speech(item, detection.create_response)

    async def _answer_speech(self, item: Item, respond: bool) -> None:
        """Create the response to a spoken question, now or after the one that is running."""
        turn = None
        if respond and self.replying:
            self._owes_response = True
        elif respond:
            turn = (await self._respond(ResponseConfig())).turn
        self._transcribe(item, turn)

    async def _commit_buffer(self, event: ClientEvent) -> None:
        if self._buffered_ms < MIN_COMMIT_MS:
            raise ApiError(
                f"the audio buffer holds {self._buffered_ms:.0f} ms; at least {MIN_COMMIT_MS} ms "
                "are needed",
                code="input_audio_buffer_commit_empty",
            )
        await asyncio.to_thread(self._detect, self._input.finish())
        samples = self.detector.take()
        least = MIN_COMMIT_MS * INPUT_RATE_HZ // 1000
        item = await self._commit(np.pad(samples, (0, max(0, least - len(samples)))))
        self._transcribe(item, None)

    async def _commit(self, samples: np.ndarray) -> Item:
        """Make the buffer's audio [S] at 16 kHz an item."""
        item = Item.spoken(self._spoken_id, samples)
        self._spoken_id, self._buffered_ms = new_id("item"), 0.0
        self._activity += 1
        previous = self._items.last_id
        await self._outbox.emit(
            "input_audio_buffer.committed", item_id=item.id, previous_item_id=previous
        )
        for kind, fields in self._add_item(item):
            await self._outbox.emit(kind, **fields)
        await self._outbox.emit(
            "conversation.item.done", item=item.dump(), previous_item_id=previous
        )
        return item

    async def _clear_buffer(self, event: ClientEvent) -> None:
        self.detector.clear()
        self._input.finish()
        self._buffered_ms = 0.0
        await self._outbox.emit("input_audio_buffer.cleared")

    def _transcribe(self, item: Item, turn: Turn | None) -> None:
        if self._config.audio.input.transcription is not None:
            self._spawn(self._report_transcript(item, turn))

    async def _report_transcript(self, item: Item, turn: Turn | None) -> None:
        part, kind = item.parts[0], "conversation.item.input_audio_transcription"
        if part.audio is None:
            return
        where = {"item_id": item.id, "content_index": 0}
        seconds = len(part.audio) / INPUT_RATE_HZ
        try:
            text = await self.transcribe(part.audio, turn)
        except Exception as error:
            logger.warning("no transcript", exc_info=True, extra={"session": self.name})
            shown = str(error) if isinstance(error, FunAudioChatError) else "the model failed"
            failure = {"type": "server_error", "code": "model_error", "message": shown}
            await self._outbox.emit(f"{kind}.failed", error=failure, **where)
            return
        part.pieces = [(text, 0)]
        await self._outbox.emit(f"{kind}.delta", delta=text, **where)
        usage = {"type": "duration", "seconds": seconds}
        await self._outbox.emit(f"{kind}.completed", transcript=text, usage=usage, **where)

    async def _watch_silence(self, limit_ms: int, activity: int) -> None:
        """Ask for a response if the user stays silent after a reply."""
        await self.reply_played()
        await asyncio.sleep(limit_ms / 1000)
        if self._activity != activity or self.replying or self.detector.speaking:
            return
        end_ms = milliseconds(self.detector.position, INPUT_RATE_HZ)
        samples = self.detector.take()
        item_id = self._spoken_id
        await self._outbox.emit(
            "input_audio_buffer.timeout_triggered",
            audio_start_ms=max(0, end_ms - milliseconds(len(samples), INPUT_RATE_HZ)),
            audio_end_ms=end_ms,
            item_id=item_id,
        )
        least = MIN_COMMIT_MS * INPUT_RATE_HZ // 1000
        item = await self._commit(np.pad(samples, (0, max(0, least - len(samples)))))
        await self._answer_speech(item, respond=True)

    # Items

    def _add_item(self, item: Item) -> list[ServerEvent]:
        """Add an item of the server's own -> the events that report it.

        In a full conversation the oldest items give room for it.
        """
        events: list[ServerEvent] = []
        while len(self._items) >= MAX_ITEMS:
            deleted = {"item_id": self._items.remove_oldest()}
            events.append(("conversation.item.deleted", deleted))
        previous = self._items.insert(item)
        added = {"item": item.dump(), "previous_item_id": previous}
        return [*events, ("conversation.item.added", added)]

    async def _create_item(self, event: ItemCreate) -> None:
        limit_s = self._context.options.max_utterance_seconds
        item = await asyncio.to_thread(Item.given, event.item, "item", limit_s)
        if item.kind == "function_call_output" and not self._items.called(item.fields["call_id"]):
            raise ApiError(f"there is no call {item.fields['call_id']!r}", "item.call_id",
                           "invalid_tool_call_id")  # fmt: skip
        previous = self._items.insert(item, event.previous_item_id)
        self._activity += 1
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._outbox.emit(kind, item=item.dump(), previous_item_id=previous)

    async def _delete_item(self, event: ItemId) -> None:
        self._find(event.item_id, "delete")
        self._items.remove(event.item_id)
        await self._outbox.emit("conversation.item.deleted", item_id=event.item_id)

    async def _retrieve_item(self, event: ItemId) -> None:
        item = self._find(event.item_id, "retrieve")
        # A data channel cannot carry the audio of a long question in one message.
        shown = await asyncio.to_thread(item.dump, self._player is None)
        await self._outbox.emit("conversation.item.retrieved", item=shown)

    async def _truncate_item(self, event: ItemTruncate) -> None:
        item = self._find(event.item_id, "truncate")
        if item.role != "assistant" or item.parts[0].kind != "output_audio":
            raise ApiError("only spoken messages of the assistant can be truncated", "item_id",
                           "item_truncate_invalid_item_id")  # fmt: skip
        if event.content_index != 0:
            raise ApiError(f"content_index {event.content_index}: the message has one part",
                           "content_index", "invalid_value")  # fmt: skip
        length_ms = milliseconds(item.parts[0].samples)
        if event.audio_end_ms > length_ms:
            raise ApiError(
                f"audio_end_ms {event.audio_end_ms}: the audio has only {length_ms} ms",
                "audio_end_ms",
                "invalid_value",
            )
        item.parts[0].truncate(event.audio_end_ms * OUTPUT_RATE_HZ // 1000)
        await self._outbox.emit(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=event.audio_end_ms,
        )

    def _find(self, item_id: str, action: str) -> Item:
        item = self._items.find(item_id)
        if item is None:
            raise ApiError(
                f"there is no item {item_id[:100]!r} to {action}",
                "item_id",
                f"item_{action}_invalid_item_id",
            )
        return item

    # Responses

    async def _create_response(self, event: ResponseCreate) -> None:
        config = read(ResponseConfig, event.response or {}, "response")
        check_choice(config.tool_choice, "response.tool_choice")
        if config.prompt is not None:
            raise unsupported("response.prompt", "prompts are not stored here; send instructions")
        if config.conversation not in ("auto", "none"):
            raise ApiError('response.conversation: use "auto" or "none"', "response.conversation",
                           "invalid_value")  # fmt: skip
        if config.conversation == "auto" and self.replying:
            raise ApiError(
                "the conversation has an active response; cancel it or wait for response.done",
                code="conversation_already_has_active_response",
            )
        await self._respond(config)

    async def _respond(self, given: ResponseConfig) -> Response:
        """Start a response with the session's options where it overrides none of them.

        Raises:
            ApiError: it cannot be started.
        """
        session, aside = self._config, given.conversation == "none"
        if self._context.draining:
            raise ApiError("the server is shutting down", code="draining", status=503)
        if aside and sum(not r.in_conversation for r in self._responses.values()) >= MAX_ASIDE:
            raise ApiError(f"{MAX_ASIDE} responses out of band are running; wait for one",
                           code="rate_limit_exceeded", status=429)  # fmt: skip
        modalities = given.output_modalities or session.output_modalities
        self._check_modality(modalities, "response.output_modalities")
        speech = modalities == ["audio"]
        most = given.max_output_tokens or session.max_output_tokens
        voice = given.audio.output.voice or session.audio.output.voice
        voice = voice.id if isinstance(voice, VoiceId) else voice
        form = given.audio.output.format or session.audio.output.format
        choice = given.tool_choice or session.tool_choice
        tools = session.tools if given.tools is None else given.tools
        functions = [] if choice == "none" else [tool.definition() for tool in tools]
        instructions = session.instructions if given.instructions is None else given.instructions
        prompt = make_prompt(await self._context_of(given), clean(instructions))
        models = self._context.models
        chat = models.new_chat()
        chat.resume(prompt.history)
        steps = MAX_NEW_TOKENS if most == "inf" else min(most, MAX_NEW_TOKENS)
        settings = Settings(
            system_prompt=prompt.system,
            voice=voice if voice in models.voices else None,
            answer="speech" if speech else "text",
            sampling=SamplingSettings(max_new_tokens=steps),
        )
        shown = {
            "conversation_id": None if aside else self._conversation_id,
            "output_modalities": modalities,
            "max_output_tokens": most,
            "audio": {"output": {"format": form.dump(), "voice": voice or models.voice}},
            "metadata": given.metadata,
        }
        response = Response(
            self._outbox,
            shown,
            speech,
            form.type,
            tool_names(functions),
            None if aside else self._add_item,
            self._finished,
            self._player,
        )
        self._turn_count += 1
        self._activity += 1
        self._responses[response.id] = response
        response.turn = self.begin_turn(
            self._turn_count,
            "realtime",
            prompt.question,
            History(chat, settings),
            response,
            functions,
            aside,
        )
        return response

    async def _context_of(self, given: ResponseConfig) -> list[Item]:
        """Return the items that a response answers."""
        if given.input is None:
            return list(self._items)
        limit_s, items = self._context.options.max_utterance_seconds, list[Item]()
        for index, fields in enumerate(given.input):
            where = f"response.input[{index}]"
            if fields.get("type") == "item_reference":
                found = self._items.find(str(fields.get("id")))
                if found is None:
                    raise ApiError(f"{where}: there is no such item", f"{where}.id",
                                   "invalid_value")  # fmt: skip
                items.append(found)
            else:
                items.append(await asyncio.to_thread(Item.given, fields, where, limit_s))
        return items

    async def _cancel_response(self, event: ResponseCancel) -> None:
        wanted = event.response_id
        response = self._responses.get(wanted or "")
        if response is not None and not response.in_conversation:
            assert response.turn is not None
            return self.interrupt_aside(response.turn, "client")
        if not self.replying or (wanted is not None and response is None):
            raise ApiError("Cancellation failed: no active response found", "response_id",
                           "response_cancel_not_active")  # fmt: skip
        self._stop_response("client")

    def _stop_response(self, cause: str) -> None:
        for response in self._responses.values():
            if response.turn is self._turn:
                response.cancel_cause = cause
        self.interrupt(cause)

    async def _clear_output(self, event: ClientEvent) -> None:
        if self.in_play:
            self._stop_response("client")
        await self._stop_playback()

    async def _stop_playback(self) -> None:
        """Drop the audio that was not played; the conversation keeps what was heard."""
        if self._player is None:
            return
        for response, samples in self._player.clear().items():
            response.heard_samples = samples
            await self._outbox.emit("output_audio_buffer.cleared", response_id=response.id)
            if response.id not in self._responses:
                await self._keep_heard(response, samples)

    async def _keep_heard(self, response: Response, samples: int) -> None:
        item = response.message
        if item is None or self._items.find(item.id) is not item:
            return
        item.parts[0].truncate(samples)
        await self._outbox.emit(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=milliseconds(samples),
        )

    async def _finished(self, response: Response) -> None:
        del self._responses[response.id]
        if response.heard_samples is not None:
            await self._keep_heard(response, response.heard_samples)
        if not response.in_conversation:
            return
        if self._owes_response and not self.replying:
            self._owes_response = False
            await self._respond(ResponseConfig())
            return
        limit_ms = getattr(self._config.audio.input.turn_detection, "idle_timeout_ms", None)
        if limit_ms is not None:
            self._spawn(self._watch_silence(limit_ms, self._activity))
