# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Request bodies of the HTTP interface; fields that no rule here names are ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from funaudiochat.constants import MAX_NEW_TOKENS
from web_demo.server.openai_api.errors import unsupported

ReplyFormat = Literal["wav", "mp3", "flac", "opus", "pcm16"]
SpeechFormat = Literal["mp3", "opus", "flac", "wav", "pcm"]
Modality = Literal["text", "audio"]


class Body(BaseModel):
    """Take numbers as numbers and texts as texts, and ignore unknown fields."""

    model_config = ConfigDict(strict=True, extra="ignore")


class InputAudio(Body):
    """Audio in base64."""

    data: str
    format: str | None = None


class AudioUrl(Body):
    """Audio as a ``data:`` URL, as vLLM's clients send it."""

    url: str


class ContentPart(Body):
    """One part of a message's content."""

    type: Literal["text", "input_audio", "audio_url", "refusal"]
    text: str | None = None
    refusal: str | None = None
    input_audio: InputAudio | None = None
    audio_url: AudioUrl | None = None


class AudioReference(Body):
    """An earlier spoken reply of this server."""

    id: str


class FunctionCall(Body):
    """A call that the model asked for; the arguments are JSON in a string."""

    name: str
    arguments: str


class ToolCallPart(Body):
    """A call of an assistant's message."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Body):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    audio: AudioReference | None = None
    tool_calls: list[ToolCallPart] | None = None
    tool_call_id: str | None = None


class AudioOutput(Body):
    """How a spoken reply is wanted."""

    voice: str | dict[str, Any] | None = None
    format: ReplyFormat


class Function(Body):
    """A function the model may call."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Body):
    """A tool: always a function."""

    type: Literal["function"]
    function: Function


class StreamOptions(Body):
    """Options of a streamed reply."""

    include_usage: bool = False


class ChatRequest(Body):
    """Body of ``POST /v1/chat/completions``."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    modalities: list[Modality] | None = None
    audio: AudioOutput | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: int | None = None
    logprobs: bool | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: dict[str, Any] | None = None

    def refuse_unsupported(self) -> None:
        """Refuse what would otherwise be wrong in silence.

        Raises:
            ApiError: names the option.
        """
        if self.n not in (None, 1):
            raise unsupported("n", "one reply is generated for each request")
        if self.logprobs:
            raise unsupported("logprobs", "log probabilities are not returned")
        for name in ("frequency_penalty", "presence_penalty"):
            if getattr(self, name):
                raise unsupported(name, "not supported; repetition_penalty is")
        if self.logit_bias:
            raise unsupported("logit_bias", "not supported")
        if (self.response_format or {"type": "text"}).get("type") != "text":
            raise unsupported("response_format", "the model was not trained for structured output")
        if self.tool_choice not in (None, "auto", "none"):
            raise unsupported("tool_choice", 'the model decides itself; use "auto" or "none"')
        if self.speaks and self.audio is None:
            raise unsupported("audio", 'spoken output needs audio={"voice": ..., "format": ...}')

    @property
    def speaks(self) -> bool:
        """Whether spoken output is wanted."""
        return "audio" in (self.modalities or ())

    @property
    def most_tokens(self) -> int:
        """Longest reply in steps."""
        return min(self.max_completion_tokens or self.max_tokens or MAX_NEW_TOKENS, MAX_NEW_TOKENS)

    @property
    def stops(self) -> list[str]:
        """Texts that end the reply."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    def definitions(self) -> list[dict[str, Any]]:
        """Return the functions offered, as the model's prompt has them."""
        if self.tool_choice == "none":
            return []
        return [tool.function.model_dump(exclude_none=True) for tool in self.tools or []]


class SpeechRequest(Body):
    """Body of ``POST /v1/audio/speech``."""

    model: str
    input: Annotated[str, Field(min_length=1)]
    voice: str | dict[str, Any] | None = None
    response_format: SpeechFormat = "mp3"
    speed: float | None = None
    stream_format: Literal["audio", "sse"] = "audio"

    def refuse_unsupported(self) -> None:
        """Refuse what cannot be honoured.

        Raises:
            ApiError: names the option.
        """
        if self.speed not in (None, 1):
            raise unsupported("speed", "the model speaks at its own speed; leave it out")
        if self.stream_format != "audio":
            raise unsupported("stream_format", "only 'audio' is supported")
