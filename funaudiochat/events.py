# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Events of a reply while it is generated, and the reply itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from funaudiochat.tool_calls import ToolCall


@dataclass(frozen=True)
class TextDelta:
    """Text of a running answer; always whole characters."""

    text: str


@dataclass(frozen=True)
class SpeechTokens:
    """Speech tokens [G] of one step; an end group holds nothing but the end token."""

    tokens: Tensor


@dataclass
class Latency:
    """Seconds from the question's arrival; None for what never came."""

    first_text_s: float | None = None
    first_audio_s: float | None = None
    total_s: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Positions of the language model: five for a second of audio, one for a token of text."""

    prompt_steps: int = 0
    steps: int = 0


@dataclass
class Reply:
    """An answer.

    Attributes:
        text: whole text, ``<tool_call>`` blocks included.
        speech_tokens: [T] at 25 Hz, without start and end tokens.
        audio: float32 [samples], None without speech or detokenizer.
        sample_rate_hz: of the audio.
        tool_calls: well-formed calls in the text.
        problems: which calls are malformed or of a tool that was not offered, and how many rounds a
            full context dropped.
        latency: when things happened.
        usage: how long prompt and reply were; zeros where a server does not tell.
        finish_reason: "stop", or "length" for a reply that was cut at ``max_new_tokens``.
    """

    text: str
    speech_tokens: Tensor
    audio: np.ndarray | None
    sample_rate_hz: int
    tool_calls: list[ToolCall]
    problems: list[str]
    latency: Latency
    usage: Usage = Usage()
    finish_reason: str = "stop"

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return 0.0 if self.audio is None else len(self.audio) / self.sample_rate_hz


@dataclass(frozen=True)
class AudioChunk:
    """Samples [S], float32, of a running answer."""

    samples: np.ndarray


@dataclass(frozen=True)
class ReplyDone:
    """The last event of a stream."""

    reply: Reply


Event = TextDelta | SpeechTokens | AudioChunk | ReplyDone
