# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Encode and decode the messages of PROTOCOL.md: one type byte, then the payload."""

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

HANDSHAKE = b"\x00\x00\x00"
MAX_TEXT_BYTES = 2**16  # of text and metadata: parsing them must not delay other sessions


class Kind(IntEnum):
    """Type of a message."""

    HANDSHAKE = 0
    AUDIO = 1
    TEXT = 2
    CONTROL = 3
    METADATA = 4
    ERROR = 5
    PING = 6
    COLORED_TEXT = 7
    FILE = 8


class Control(IntEnum):
    """Payload of a control message."""

    START = 0
    END_TURN = 1
    PAUSE = 2
    RESTART = 3


class BadMessage(ValueError):
    """The payload of a message does not fit its type."""


@dataclass(frozen=True)
class Message:
    """One decoded message.

    Attributes:
        value: bytes of audio, file and ping; str of text and error; :class:`Control`; the object
            of metadata; None for the other kinds.
    """

    kind: Kind
    value: Any = None


def decode(data: bytes) -> Message | None:
    """Decode one frame; return None for an empty frame, an unknown type or control byte.

    Raises:
        BadMessage: text is too long or not UTF-8, or metadata is not a JSON object.
    """
    if not data or data[0] not in Kind._value2member_map_:
        return None
    kind, payload = Kind(data[0]), data[1:]
    match kind:
        case Kind.AUDIO | Kind.FILE | Kind.PING:
            return Message(kind, payload)
        case Kind.TEXT | Kind.ERROR:
            return Message(kind, _text(payload))
        case Kind.CONTROL:
            # A control message without its byte is a start in the reference.
            action = payload[0] if payload else Control.START
            if action not in Control._value2member_map_:
                return None
            return Message(kind, Control(action))
        case Kind.METADATA:
            text = _text(payload)
            try:
                value = json.loads(text)
                # JSON can escape half a surrogate pair ("\ud800"), which UTF-8 cannot encode.
                json.dumps(value, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise BadMessage(f"metadata is not JSON: {error}") from error
            if not isinstance(value, dict):
                raise BadMessage("metadata must be a JSON object")
            return Message(kind, value)
    return Message(kind)


def _text(payload: bytes) -> str:
    if len(payload) > MAX_TEXT_BYTES:
        raise BadMessage(f"text must have at most {MAX_TEXT_BYTES} bytes, not {len(payload)}")
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise BadMessage(f"text is not UTF-8: {error}") from error


def encode(kind: Kind, payload: bytes | str = b"") -> bytes:
    """Encode a message as one frame."""
    body = payload.encode() if isinstance(payload, str) else payload
    return bytes([kind]) + body


def encode_metadata(value: dict[str, Any]) -> bytes:
    """Encode a metadata message as one frame."""
    return encode(Kind.METADATA, json.dumps(value, ensure_ascii=False))
