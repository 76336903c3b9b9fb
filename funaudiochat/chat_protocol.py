# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""OpenAI's chat protocol, as vLLM and other servers speak it: what a request and a list hold.

Needs neither torch nor transformers, so that what only asks a server starts at once.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import soundfile

from funaudiochat.errors import ServerError

_RATE_HZ = 16000
_VLLM_HEARS_S = 30  # its model of this family encodes no more of a sound
_POSITIONS_PER_SECOND = 5


def sound_part(wave: np.ndarray, rate_hz: int = _RATE_HZ, subtype: str = "FLOAT") -> dict[str, Any]:
    """A wave [samples] as a part of a message; as float no sample changes."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format="WAV", subtype=subtype)
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def api_address(url: str) -> str:
    """Of the protocol's routes on a server, given with or without ``/v1``."""
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def greedy_fields(max_tokens: int, owner: str | None, context_length: int | None) -> dict[str, Any]:
    """Fields of a request for a greedy answer.

    Args:
        owner: the server's ``owned_by`` of the model. vLLM takes the repetition penalty of a
            folder's generation_config.json unless told otherwise; others do not know the field.
        context_length: of the model, if known; vLLM refuses to be asked for more.
    """
    fields = {"temperature": 0.0, "max_tokens": min(max_tokens, context_length or max_tokens)}
    return fields | ({"repetition_penalty": 1.0} if owner == "vllm" else {})


def longest_sound_s(owner: str | None, context_length: int | None) -> float | None:
    """Of a question, so that all of it is heard; None if that is not known."""
    limits = [context_length / _POSITIONS_PER_SECOND] if context_length else []
    if owner == "vllm":
        limits.append(_VLLM_HEARS_S)
    return min(limits, default=None)


def served_model(
    where: str, entries: Iterable[dict[str, Any]], model: str | None
) -> tuple[str, str | None, int | None]:
    """Name, owner and context length (where told; vLLM does) of one of the models a server lists.

    Args:
        where: the server, for the message.
        entries: of its list.
        model: name; None for the first.

    Raises:
        ServerError: it serves no such model.
    """
    served = {entry["id"]: entry for entry in entries}
    if not served or model is not None and model not in served:
        raise ServerError(f"{where} serves {', '.join(served) or 'no model'}, not {model!r}")
    name = model or next(iter(served))
    return name, served[name].get("owned_by"), served[name].get("max_model_len")
