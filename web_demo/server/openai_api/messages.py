# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn the messages of a request into a conversation and the question to answer."""

import base64
import binascii
import json
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from uuid import uuid4

import numpy as np

from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.errors import AudioError
from funaudiochat.tool_calls import CALL_CLOSES, CALL_OPENS
from funaudiochat.turns import Turn
from web_demo.server.openai_api.errors import ApiError
from web_demo.server.openai_api.schemas import ContentPart, Message

_KEPT_REPLIES, _KEPT_S = 1000, 3600


def new_id() -> str:
    """Return an id for a spoken reply."""
    return f"audio_{uuid4().hex}"


class SpokenReplies:
    """Transcripts of spoken replies, by the id that a later request may refer to."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def keep(self, transcript: str, name: str | None = None) -> tuple[str, int]:
        """Keep a transcript for an hour -> its id, and when it expires, in Unix seconds."""
        name, expires = name or new_id(), time.time() + _KEPT_S
        self._texts[name] = expires, transcript
        while len(self._texts) > _KEPT_REPLIES:
            self._texts.popitem(last=False)
        return name, int(expires)

    def find(self, name: str) -> str | None:
        """Return the transcript of an id that has not expired."""
        expires, transcript = self._texts.get(name, (0.0, ""))
        return transcript if expires > time.time() else None


@dataclass(frozen=True)
class Prompt:
    """A request's messages, read.

    Attributes:
        system: text of its system messages, None without any.
        history: turns before the last one; users' and assistants' alternate.
        question: the last turn, a user's, with words, audio or results of tools.
    """

    system: str | None
    history: list[Turn]
    question: Turn


def read_messages(
    messages: list[Message],
    tools: frozenset[str],
    spoken: SpokenReplies,
    max_seconds: float,
) -> Prompt:
    """Decode and check the messages of a request.

    Args:
        messages: the messages as validated.
        tools: names of the functions the request offers.
        spoken: replies that assistants' messages may refer to.
        max_seconds: longest audio.

    Raises:
        ApiError: names the message.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        match message.role:
            case "system" | "developer":
                system.append(_text_of(message, f"{where}.content"))
            case "user":
                add_user(turns, _user_turn(message, f"{where}.content", max_seconds))
            case "tool":
                if message.tool_call_id is None:
                    raise ApiError(
                        f"{where}: a tool's message needs tool_call_id",
                        f"{where}.tool_call_id",
                        "missing_required_parameter",
                    )
                if not turns or CALL_OPENS not in turns[-1].content and not turns[-1].results:
                    raise ApiError(f"{where} follows no assistant message with tool_calls", where)
                add_result(turns, _text_of(message, f"{where}.content"))
            case "assistant":
                add_assistant(turns, _assistant_turn(message, where, tools, spoken))
    if not turns or turns[-1].role != "user":
        raise ApiError("the last message must be the user's or a tool's", "messages")
    return Prompt("\n".join(system) or None, turns[:-1], turns[-1])


def add_user(turns: list[Turn], turn: Turn) -> None:
    """Append a user's turn; messages in a row are one turn while one audio is enough for them."""
    if turns and turns[-1].role == "user":
        before = turns[-1]
        if before.audio is None or turn.audio is None:
            words = "\n".join(text for text in (before.content, turn.content) if text)
            audio = turn.audio if before.audio is None else before.audio
            turns[-1] = replace(before, content=words, audio=audio)
            return
        turns.append(Turn("assistant", ""))
    turns.append(turn)


def add_result(turns: list[Turn], result: str) -> None:
    """Append a function's result to the user's turn that follows its call."""
    if turns[-1].role == "user":
        turns[-1] = replace(turns[-1], results=(*turns[-1].results, result))
    else:
        turns.append(Turn("user", results=(result,)))


def add_assistant(turns: list[Turn], turn: Turn) -> None:
    """Append an assistant's turn; messages in a row are one turn."""
    if turns and turns[-1].role == "assistant":
        before = turns[-1]
        words = "\n".join(text for text in (before.content, turn.content) if text)
        turns[-1] = replace(before, content=words, offered=before.offered | turn.offered)
        return
    if not turns:
        turns.append(Turn("user", ""))  # a greeting: the model was trained on alternating turns
    turns.append(turn)


def _user_turn(message: Message, where: str, max_seconds: float) -> Turn:
    words: list[str] = []
    audio: np.ndarray | None = None
    if isinstance(message.content, str):
        words.append(message.content)
    for index, part in enumerate(_parts(message)):
        at = f"{where}[{index}]"
        if part.type == "text":
            words.append(part.text or "")
        elif part.type == "refusal":
            raise ApiError(f"{at}: only assistants refuse", f"{at}.type", "invalid_value")
        elif audio is not None:
            raise ApiError(f"{at}: a message holds one audio part; send one message for each", at)
        else:
            audio = _decode(part, at, max_seconds)
    content = "\n".join(text for text in words if text)
    if audio is None and not content.strip():
        raise ApiError(f"{where}: the message holds neither text nor audio", where)
    return Turn("user", content, audio)


def _assistant_turn(
    message: Message, where: str, tools: frozenset[str], spoken: SpokenReplies
) -> Turn:
    words = _text_of(message, f"{where}.content") if message.content is not None else ""
    if message.audio is not None:
        transcript = spoken.find(message.audio.id)
        if transcript is None:
            raise ApiError(
                f"{where}.audio: no reply {message.audio.id!r} is kept; replies are kept for "
                f"{_KEPT_S // 60} minutes, send its transcript as content",
                f"{where}.audio.id",
                "invalid_value",
            )
        words = transcript
    calls = message.tool_calls or []
    blocks = [
        call_block(
            call.function.name,
            call.function.arguments,
            f"{where}.tool_calls[{i}].function.arguments",
        )
        for i, call in enumerate(calls)
    ]
    names = frozenset(call.function.name for call in calls)
    content = "\n".join(text for text in (words, *blocks) if text)
    return Turn("assistant", content, offered=tools | names if calls else frozenset())


def call_block(name: str, arguments: str, where: str) -> str:
    """Return a call as the model writes it.

    Args:
        name: name of the function.
        arguments: a JSON object in a string.
        where: names the field in errors.

    Raises:
        ApiError: the arguments are not a JSON object.
    """
    try:
        given = json.loads(arguments or "{}")
        if not isinstance(given, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ApiError(
            f"{where}: arguments must be a JSON object in a string ({error})",
            where,
            "invalid_value",
        ) from error
    body = json.dumps({"name": name, "arguments": given}, ensure_ascii=False)
    return f"{CALL_OPENS}\n{body}\n{CALL_CLOSES}"


def _parts(message: Message) -> list[ContentPart]:
    return message.content if isinstance(message.content, list) else []


def _text_of(message: Message, where: str) -> str:
    """Return the text of a message that cannot hold audio."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for index, part in enumerate(_parts(message)):
        if part.type not in ("text", "refusal"):
            raise ApiError(
                f"{where}[{index}]: audio belongs to users' messages", f"{where}[{index}].type"
            )
        texts.append(part.text or part.refusal or "")
    return "\n".join(texts)


def _decode(part: ContentPart, where: str, max_seconds: float) -> np.ndarray:
    """Return the waveform [samples] of an audio part, float32 at 16 kHz."""
    if part.input_audio is not None:
        encoded, where = part.input_audio.data, f"{where}.input_audio.data"
    elif part.audio_url is not None:
        where = f"{where}.audio_url.url"
        kind, _, encoded = part.audio_url.url.partition(",")
        if not kind.startswith("data:") or not kind.endswith(";base64"):
            raise ApiError(
                f"{where}: nothing is fetched; send the audio as data:audio/wav;base64,...", where
            )
    else:
        raise ApiError(f"{where}: {part.type} is missing", where, "missing_required_parameter")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(f"{where}: not base64 ({error})", where, "invalid_value") from error
    return read_audio(data, where, max_seconds)


def read_audio(data: bytes, where: str, max_seconds: float) -> np.ndarray:
    """Return the waveform [samples] of an audio file, float32 at 16 kHz.

    Raises:
        ApiError: it cannot be read, is too short or too long.
    """
    try:
        return load_audio(data, INPUT_RATE_HZ, max_seconds=max_seconds)
    except AudioError as error:
        raise ApiError(f"{where}: {error}", where, "invalid_value") from error
