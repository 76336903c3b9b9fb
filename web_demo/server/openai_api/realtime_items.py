# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Items of a Realtime conversation, and the prompt that they make."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import numpy as np

from funaudiochat.audio import MIN_DURATION_MS
from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from funaudiochat.tool_calls import CALL_OPENS
from funaudiochat.turns import Turn
from web_demo.server.openai_api.errors import ApiError, unsupported
from web_demo.server.openai_api.messages import (
    Prompt,
    add_assistant,
    add_result,
    add_user,
    call_block,
)
from web_demo.server.openai_api.realtime_audio import AudioInput, stored_audio
from web_demo.server.openai_api.realtime_schemas import ItemFields, ItemPart, read

MAX_ITEMS = 1024
# Kept audio of the user; older audio is dropped, and its transcript, if any, takes its place.
MAX_AUDIO_S = 600
Status = Literal["completed", "incomplete", "in_progress"]
_PARTS = {
    "user": ("input_text", "input_audio"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}


def new_id(prefix: str) -> str:
    """Return a random id."""
    return f"{prefix}_{uuid4().hex[:24]}"


def clean(text: str) -> str:
    """Replace what cannot be encoded as UTF-8: a tokenizer fails on it."""
    return text.encode(errors="replace").decode()


def decode_base64(encoded: str, where: str) -> bytes:
    """Decode audio.

    Raises:
        ApiError: it is not base64.
    """
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(f"{where}: not base64 ({error})", where, "invalid_value") from error


@dataclass
class Part:
    """A part of a message.

    Attributes:
        kind: ``input_text``, ``input_audio``, ``output_text`` or ``output_audio``.
        pieces: its text or transcript, in pieces with the sample [24 kHz] at which each begins.
        audio: what the user said [S], 16 kHz.
        samples: of spoken output, how many were delivered [24 kHz].
    """

    kind: str
    pieces: list[tuple[str, int]] = field(default_factory=list)
    audio: np.ndarray | None = None
    samples: int = 0

    @property
    def text(self) -> str:
        """Text or transcript."""
        return "".join(text for text, _ in self.pieces)

    def truncate(self, samples: int) -> None:
        """Keep only what was heard of spoken output."""
        self.samples = samples
        self.pieces = [(text, start) for text, start in self.pieces if start < samples]

    def dump(self, audio: bool = False) -> dict[str, Any]:
        """Return the part as events show it.

        Args:
            audio: include the user's audio.
        """
        if self.kind in ("input_text", "output_text"):
            return {"type": self.kind, "text": self.text}
        shown: dict[str, Any] = {"type": self.kind, "transcript": self.text}
        if self.kind == "input_audio":
            shown["transcript"] = self.text or None
            if audio and self.audio is not None:
                shown["audio"] = base64.b64encode(stored_audio(self.audio)).decode()
        return shown


@dataclass
class Item:
    """A message, a function call or its result.

    Attributes:
        kind: ``message``, ``function_call`` or ``function_call_output``.
        role: of a message.
        parts: of a message.
        fields: of a call or a result.
        offered: names of the functions that were offered with a call.
    """

    id: str
    kind: str
    role: str = ""
    parts: list[Part] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    status: Status = "completed"
    offered: frozenset[str] = frozenset()

    @classmethod
    def spoken(cls, item_id: str, samples: np.ndarray) -> "Item":
        """Return the item of a spoken question [S] at 16 kHz."""
        return cls(item_id, "message", "user", [Part("input_audio", audio=samples)])

    @classmethod
    def given(cls, fields: dict[str, Any], where: str, max_seconds: float) -> "Item":
        """Check an item that a client gives.

        Args:
            fields: the item as received.
            where: names it in errors.
            max_seconds: longest audio.

        Raises:
            ApiError: names the field that is wrong.
        """
        item: ItemFields = read(ItemFields, fields, where)
        item_id = item.id or new_id("item")
        if item.type == "item_reference":
            raise ApiError(f"{where}.type: only responses refer to items", f"{where}.type",
                           "invalid_value")  # fmt: skip
        if item.type != "message":
            names = {"function_call": ("name", "arguments"), "function_call_output": ("output",)}
            wanted = (*names[item.type], "call_id")
            if item.type == "function_call" and item.call_id is None:
                item.call_id = new_id("call")
            values: dict[str, str] = {}
            for name in wanted:
                value = getattr(item, name)
                if value is None:
                    raise _missing(f"{where}.{name}")
                values[name] = clean(value)
            if item.type == "function_call":
                call_block(values["name"], values["arguments"], f"{where}.arguments")
            return cls(item_id, item.type, fields=values)
        if item.role is None:
            raise _missing(f"{where}.role")
        if not item.content:
            raise _missing(f"{where}.content")
        parts = [
            _part(part, item.role, f"{where}.content[{index}]", max_seconds)
            for index, part in enumerate(item.content)
        ]
        return cls(item_id, "message", item.role, parts)

    def dump(self, audio: bool = False) -> dict[str, Any]:
        """Return the item as events show it; ``audio`` includes the user's audio."""
        shown = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        if self.kind == "message":
            content = [part.dump(audio) for part in self.parts]
            return {**shown, "role": self.role, "content": content}
        return {**shown, **self.fields}


def _missing(where: str) -> ApiError:
    return ApiError(f"{where}: Field required", where, "missing_required_parameter")


def _part(part: ItemPart, role: str, where: str, max_seconds: float) -> Part:
    if part.type == "input_image":
        raise unsupported(f"{where}.type", "the model does not see")
    if part.type not in _PARTS[role]:
        raise ApiError(
            f"{where}.type: {role} messages consist of {' and '.join(_PARTS[role])}",
            f"{where}.type",
            "invalid_value",
        )
    if part.type in ("input_text", "output_text"):
        if part.text is None:
            raise _missing(f"{where}.text")
        return Part(part.type, [(clean(part.text), 0)])
    pieces = [(clean(part.transcript), 0)] if part.transcript else []
    if part.type == "output_audio":
        return Part(part.type, pieces)
    if part.audio is None:
        raise _missing(f"{where}.audio")
    decoder = AudioInput("audio/pcm")
    try:
        data = decoder.decode(decode_base64(part.audio, f"{where}.audio"))
    except ApiError as error:
        raise ApiError(error.message, f"{where}.audio", error.code) from error
    samples = np.concatenate([data, decoder.finish()])
    seconds = len(samples) / INPUT_RATE_HZ
    if not MIN_DURATION_MS / 1000 <= seconds <= max_seconds:
        raise ApiError(
            f"{where}.audio: {seconds:.3f} s of audio; {MIN_DURATION_MS / 1000:g} to "
            f"{max_seconds:g} s are taken",
            f"{where}.audio",
            "invalid_value",
        )
    return Part("input_audio", pieces, samples)


class Items:
    """The items of a conversation, in order."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._items: dict[str, Item] = {}
        self._audio_samples = 0

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Item]:
        return (self._items[item_id] for item_id in self._order)

    def find(self, item_id: str) -> Item | None:
        """Return an item by its id."""
        return self._items.get(item_id)

    @property
    def last_id(self) -> str | None:
        """Id of the last item."""
        return self._order[-1] if self._order else None

    def insert(self, item: Item, previous_id: str | None = None) -> str | None:
        """Insert an item behind another one, at the end without one, at the beginning for ``root``.

        Returns:
            The id of the item before it.

        Raises:
            ApiError: the id is taken, there is no such item before, or there are too many.
        """
        if item.id in self._items:
            raise ApiError(f"an item with the id {item.id!r} exists already", "item.id",
                           "item_create_duplicate_item_id")  # fmt: skip
        if len(self) >= MAX_ITEMS:
            raise ApiError(f"the conversation has {MAX_ITEMS} items; delete some of them", "item",
                           "conversation_too_long")  # fmt: skip
        if previous_id is None or previous_id == self.last_id:
            at = len(self._order)
        elif previous_id == "root":
            at = 0
        elif previous_id in self._items:
            at = self._order.index(previous_id) + 1
        else:
            raise ApiError(f"there is no item {previous_id!r}", "previous_item_id",
                           "item_create_invalid_previous_item_id")  # fmt: skip
        self._order.insert(at, item.id)
        self._items[item.id] = item
        self._audio_samples += _audio_samples(item)
        self._drop_old_audio()
        return self._order[at - 1] if at else None

    def remove(self, item_id: str) -> None:
        """Remove an item that exists."""
        self._order.remove(item_id)
        self._audio_samples -= _audio_samples(self._items.pop(item_id))

    def remove_oldest(self) -> str:
        """Remove the first item and return its id."""
        oldest = self._order[0]
        self.remove(oldest)
        return oldest

    def called(self, call_id: str) -> bool:
        """Return whether there is a function call with this id."""
        return any(
            item.kind == "function_call" and item.fields["call_id"] == call_id
            for item in self._items.values()
        )

    def _drop_old_audio(self) -> None:
        for item_id in self._order:
            if self._audio_samples <= MAX_AUDIO_S * INPUT_RATE_HZ:
                break
            item = self._items[item_id]
            self._audio_samples -= _audio_samples(item)
            for part in item.parts:
                part.audio = None


def _audio_samples(item: Item) -> int:
    return sum(len(part.audio) for part in item.parts if part.audio is not None)


def make_prompt(items: Iterable[Item], instructions: str) -> Prompt:
    """Turn items into the history and the turn to answer; unfinished ones are left out."""
    system, turns = [instructions] if instructions else [], list[Turn]()
    for item in items:
        if item.status == "in_progress":
            continue
        if item.kind == "function_call":
            call = call_block(item.fields["name"], item.fields["arguments"], "item.arguments")
            names = item.offered | {item.fields["name"]}
            add_assistant(turns, Turn("assistant", call, offered=names))
        elif item.kind == "function_call_output":
            # A result needs its call right before it; the call may have been deleted.
            if turns and (turns[-1].results or CALL_OPENS in turns[-1].content):
                add_result(turns, item.fields["output"])
            else:
                add_user(turns, Turn("user", item.fields["output"]))
        elif item.role == "system":
            system += [part.text for part in item.parts]
        elif item.role == "assistant":
            text = "".join(part.text for part in item.parts)
            add_assistant(turns, Turn("assistant", text))
        else:
            for part in item.parts:
                text = "" if part.audio is not None else part.text
                add_user(turns, Turn("user", text, part.audio))
    if not turns or turns[-1].role != "user":
        turns.append(Turn("user", ""))  # the model was trained on alternating turns
    return Prompt("\n".join(system) or None, turns[:-1], turns[-1])


def milliseconds(samples: int, rate_hz: int = OUTPUT_RATE_HZ) -> int:
    """Return the duration of samples."""
    return samples * 1000 // rate_hz
