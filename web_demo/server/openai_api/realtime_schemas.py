# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Client events of the Realtime interface and the session they configure."""

import copy
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from funaudiochat.constants import OUTPUT_RATE_HZ
from web_demo.server.openai_api.errors import ApiError, unsupported
from web_demo.server.openai_api.schemas import Body, Modality

MaxTokens = Annotated[int, Field(ge=1)] | Literal["inf"]
_TAGS = (".server_vad", ".semantic_vad")


class AudioFormat(Body):
    """Format of audio, in either direction."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: int | None = None

    @field_validator("rate")
    @classmethod
    def _check_rate(cls, rate: int | None) -> int | None:
        if rate not in (None, 8000, OUTPUT_RATE_HZ):
            raise ValueError(f"audio/pcm has {OUTPUT_RATE_HZ} Hz, G.711 has 8000 Hz")
        return rate

    def dump(self) -> dict[str, Any]:
        """Return the format as events show it."""
        rate = {"rate": OUTPUT_RATE_HZ} if self.type == "audio/pcm" else {}
        return {"type": self.type, **rate}


class ServerVad(Body):
    """Turns end with a silence of fixed length."""

    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=10_000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=0, le=60_000)] = 500
    idle_timeout_ms: Annotated[int, Field(ge=5000, le=30_000)] | None = None
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Body):
    """Turns end with a silence whose length follows from the eagerness."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]


class Transcription(Body):
    """Transcription of the user's audio; the served model makes it, whatever is asked for."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None


class InputConfig(Body):
    """Audio from the client."""

    format: AudioFormat = AudioFormat(type="audio/pcm")
    transcription: Transcription | None = None
    noise_reduction: dict[str, Any] | None = None
    turn_detection: TurnDetection | None = None


class VoiceId(Body):
    """A voice by its id."""

    id: str


class OutputConfig(Body):
    """Audio to the client."""

    format: AudioFormat = AudioFormat(type="audio/pcm")
    voice: str | VoiceId | None = None
    speed: float | None = None


class AudioConfig(Body):
    """Audio of a session."""

    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()


class FunctionTool(Body):
    """A function that the client runs."""

    type: Literal["function"] = "function"
    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, Any] | None = None

    def definition(self) -> dict[str, Any]:
        """Return the function as the model's prompt has it."""
        return self.model_dump(exclude={"type"}, exclude_none=True)


class RetentionRatio(Body):
    """Truncation that keeps a part of the context."""

    type: Literal["retention_ratio"]
    retention_ratio: Annotated[float, Field(ge=0, le=1)]
    token_limits: dict[str, Any] | None = None


def check_choice(tools: Any, where: str) -> None:
    """Refuse a ``tool_choice`` that the model cannot honour.

    Raises:
        ApiError: it is neither ``auto`` nor ``none``.
    """
    if tools not in (None, "auto", "none"):
        raise unsupported(where, 'the model decides itself; use "auto" or "none"')


class SessionConfig(Body):
    """What ``session.update`` changes; unknown fields are ignored."""

    type: Literal["realtime"] = "realtime"
    model: str
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1)]
    instructions: str = ""
    tools: list[FunctionTool] = []
    tool_choice: Any = "auto"
    max_output_tokens: MaxTokens = "inf"
    truncation: Literal["auto", "disabled"] | RetentionRatio = "auto"
    tracing: Any = None
    prompt: Any = None
    audio: AudioConfig = AudioConfig()

    def changed(self, given: dict[str, Any]) -> "SessionConfig":
        """Return this configuration with the given fields replaced, all or none of them.

        Raises:
            ApiError: names the field that cannot be taken.
        """
        merged = self.model_dump()
        for name, value in given.items():
            if name == "audio" and isinstance(value, dict):
                _merge_audio(merged["audio"], value)
            elif name in merged:
                merged[name] = value
        try:
            new = SessionConfig.model_validate(merged)
        except ValidationError as error:
            raise named(ApiError.of(error), "session") from error
        new._refuse_unsupported(self)
        return new

    def _refuse_unsupported(self, before: "SessionConfig") -> None:
        if self.model != before.model:
            raise unsupported("session.model", f"this session's model is {before.model!r}")
        check_choice(self.tool_choice, "session.tool_choice")
        if self.audio.output.speed not in (None, 1):
            raise unsupported("session.audio.output.speed", "the model speaks at its own speed")
        if self.prompt is not None:
            raise unsupported("session.prompt", "prompts are not stored here; send instructions")

    def dump(self) -> dict[str, Any]:
        """Return the session as events show it."""
        shown = self.model_dump()
        for side in ("input", "output"):
            shown["audio"][side]["format"] = getattr(self.audio, side).format.dump()
        shown["tools"] = [tool.model_dump(exclude_none=True) for tool in self.tools]
        shown["audio"]["output"]["speed"] = 1.0
        return {**shown, "object": "realtime.session"}


def _merge_audio(merged: dict[str, Any], given: dict[str, Any]) -> None:
    for side, values in given.items():
        if side not in merged:
            continue
        if not isinstance(values, dict):
            merged[side] = values
            continue
        for name, value in values.items():
            old = merged[side].get(name)
            if (
                name == "turn_detection"
                and isinstance(value, dict)
                and isinstance(old, dict)
                and value.get("type", old["type"]) == old["type"]
            ):
                value = {**old, **value}
            if name in merged[side]:
                merged[side][name] = copy.copy(value)


class ResponseOutputConfig(Body):
    """Audio of one response."""

    format: AudioFormat | None = None
    voice: str | VoiceId | None = None


class ResponseAudioConfig(Body):
    """Audio of one response."""

    output: ResponseOutputConfig = ResponseOutputConfig()


class ResponseConfig(Body):
    """What ``response.create`` overrides for one response."""

    conversation: str = "auto"
    input: list[dict[str, Any]] | None = None
    instructions: str | None = None
    output_modalities: Annotated[list[Modality], Field(min_length=1, max_length=1)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Any = None
    max_output_tokens: MaxTokens | None = None
    metadata: dict[str, str] | None = None
    prompt: Any = None
    audio: ResponseAudioConfig = ResponseAudioConfig()


class ItemPart(Body):
    """A part of a message."""

    type: Literal["input_text", "input_audio", "output_text", "output_audio", "input_image"]
    text: str | None = None
    audio: str | None = None
    transcript: str | None = None


class ItemFields(Body):
    """An item of the conversation as a client gives it."""

    type: Literal["message", "function_call", "function_call_output", "item_reference"]
    id: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    role: Literal["user", "assistant", "system"] | None = None
    content: list[ItemPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | None = None


class ClientEvent(Body):
    """Fields of any event of a client."""

    event_id: str | None = None


class SessionUpdate(ClientEvent):
    """``session.update``."""

    session: dict[str, Any]


class Append(ClientEvent):
    """``input_audio_buffer.append``."""

    audio: str


class ItemCreate(ClientEvent):
    """``conversation.item.create``."""

    item: dict[str, Any]
    previous_item_id: str | None = None


class ItemId(ClientEvent):
    """``conversation.item.delete`` and ``conversation.item.retrieve``."""

    item_id: str


class ItemTruncate(ClientEvent):
    """``conversation.item.truncate``."""

    item_id: str
    content_index: int
    audio_end_ms: Annotated[int, Field(ge=0)]


class ResponseCreate(ClientEvent):
    """``response.create``."""

    response: dict[str, Any] | None = None


class ResponseCancel(ClientEvent):
    """``response.cancel``."""

    response_id: str | None = None


def named(error: ApiError, where: str) -> ApiError:
    """Return an error whose field lies inside another field."""
    message, param = error.message, error.param or ""
    for tag in _TAGS:
        message, param = message.replace(tag, ""), param.replace(tag, "")
    return ApiError(f"{where}.{message}", f"{where}.{param}".rstrip("."), error.code, error.status)


def read(schema: type[Any], given: Any, where: str | None = None) -> Any:
    """Check fields that a client sent.

    Args:
        schema: the fields.
        given: what the client sent.
        where: the field of the event that holds them, None for the event itself.

    Raises:
        ApiError: names the first field that is wrong.
    """
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        refused = ApiError.of(error)
        raise (refused if where is None else named(refused, where)) from error
