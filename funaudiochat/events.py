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
    """New text of the running reply, always whole characters."""

    text: str


@dataclass(frozen=True)
class SpeechTokens:
    """Speech tokens of one step.

    Attributes:
        tokens: [G]; an end group holds nothing but the end token.
        spoken: [T], T <= G, those of them that are audio, on the CPU; push them to a detokenizer.
    """

    tokens: Tensor
    spoken: Tensor


@dataclass
class Latency:
    """Seconds from the question to the first text, the first audio and the end; None if absent."""

    first_text_s: float | None = None
    first_audio_s: float | None = None
    total_s: float = 0.0


@dataclass(frozen=True)
class Usage:
    """Steps of prompt and reply: five per second of audio, one per text token."""

    prompt_steps: int = 0
    steps: int = 0


@dataclass
class Reply:
    """A whole reply.

    Attributes:
        text: the text, ``<tool_call>`` blocks included.
        speech_tokens: [T] at 25 Hz, without start and end tokens.
        audio: waveform, float32 [samples]; None without speech or detokenizer.
        sample_rate_hz: sample rate of the audio.
        tool_calls: the well-formed tool calls of the text.
        problems: messages about malformed calls, calls of tools that were not offered, and rounds
            that were dropped because the context was full.
        latency: how long the reply took.
        usage: lengths of prompt and reply; zeros if a server does not report them.
        finish_reason: "stop", or "length" for a reply that was cut off at ``max_new_tokens``.
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
        """Duration of the audio."""
        return 0.0 if self.audio is None else len(self.audio) / self.sample_rate_hz


@dataclass(frozen=True)
class AudioChunk:
    """New audio of the running reply: float32 [samples]."""

    samples: np.ndarray


@dataclass(frozen=True)
class ReplyDone:
    """The last event of a stream."""

    reply: Reply


Event = TextDelta | SpeechTokens | AudioChunk | ReplyDone
