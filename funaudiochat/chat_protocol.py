# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Requests and model lists of OpenAI's chat protocol, as vLLM and other servers speak it.

This module needs neither torch nor transformers, so that clients of a server start at once.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import soundfile

from funaudiochat.constants import INPUT_RATE_HZ, STEPS_PER_SECOND
from funaudiochat.errors import ServerError

_VLLM_LONGEST_S = 30  # vLLM's own model of this family encodes no more of a recording


def audio_part(
    samples: np.ndarray, rate_hz: int = INPUT_RATE_HZ, subtype: str = "FLOAT"
) -> dict[str, Any]:
    """Return a waveform [samples] as the audio part of a message; floats arrive unchanged."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def api_base_url(url: str) -> str:
    """Return the API base URL of a server, adding ``/v1`` if it is missing."""
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def greedy_fields(max_tokens: int, owner: str | None, context_length: int | None) -> dict[str, Any]:
    """Return the fields of a request for a greedy reply.

    Args:
        max_tokens: longest reply.
        owner: ``owned_by`` of the model on the server. vLLM applies the repetition penalty of the
            checkpoint's generation_config.json unless told otherwise; other servers do not know
            the field.
        context_length: of the model, if known; vLLM refuses requests for longer replies.
    """
    fields = {"temperature": 0.0, "max_tokens": min(max_tokens, context_length or max_tokens)}
    return fields | ({"repetition_penalty": 1.0} if owner == "vllm" else {})


def longest_audio_s(owner: str | None, context_length: int | None) -> float | None:
    """Return the longest audio in seconds that the server encodes in full, None if not known."""
    limits = [context_length / STEPS_PER_SECOND] if context_length else []
    if owner == "vllm":
        limits.append(_VLLM_LONGEST_S)
    return min(limits, default=None)


def served_model(
    where: str, entries: Iterable[dict[str, Any]], model: str | None
) -> tuple[str, str | None, int | None]:
    """Return name, owner and context length (None if not stated) of a model that a server lists.

    Args:
        where: the server, for the message.
        entries: the server's list of models.
        model: name; None for the first of the list.

    Raises:
        ServerError: the server has no such model.
    """
    served = {entry["id"]: entry for entry in entries}
    if not served or model is not None and model not in served:
        raise ServerError(f"{where} serves {', '.join(served) or 'no model'}, not {model!r}")
    name = model or next(iter(served))
    return name, served[name].get("owned_by"), served[name].get("max_model_len")
