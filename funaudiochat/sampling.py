# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sampling settings of a reply, their limits, and the defaults for speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from funaudiochat.constants import DEFAULT_S2M_GEN_KWARGS, MAX_NEW_TOKENS
from funaudiochat.errors import CheckpointError, FunAudioChatError

SAMPLING_VALUES = ("temperature", "top_p", "top_k", "repetition_penalty")


@dataclass(frozen=True)
class Limits:
    """Hold the range of one sampling value.

    Attributes:
        low: smallest value decoding can use.
        high: largest value decoding can use.
        offered: smallest and largest value that a user interface offers, between which replies
            stay intelligible.
        above: whether ``low`` itself is excluded.
    """

    low: float
    high: float
    offered: tuple[float, float]
    above: bool = False

    def check(self, name: str, value: float) -> None:
        """Raise FunAudioChatError for a value out of range, or NaN."""
        if not self.low <= value <= self.high or (self.above and value == self.low):
            allowed = f"from {self.low} to {self.high}"
            if self.above:
                allowed = f"above {self.low} and at most {self.high}"
            raise FunAudioChatError(f"{name} is {value}; it must be {allowed}")


_INT64 = (1 << 63) - 1
LIMITS = {
    "temperature": Limits(0, 100, (0.05, 2), above=True),
    "top_p": Limits(0, 1, (0.05, 1), above=True),
    "top_k": Limits(0, _INT64, (0, 1000)),
    "repetition_penalty": Limits(0, 100, (0.5, 2), above=True),
    "max_new_tokens": Limits(1, 1 << 20, (1, MAX_NEW_TOKENS)),
    "seed": Limits(0, _INT64, (0, _INT64)),
}


@dataclass(frozen=True)
class Sampling:
    """Choose how the tokens of a reply are picked; None keeps the checkpoint's or speech default.

    Attributes:
        greedy: take the arg-max of text and speech tokens.
        text_greedy: take the arg-max of the text. None does so as the checkpoint was trained,
            except for a text reply with one of ``SAMPLING_VALUES`` set, which would otherwise have
            no effect.
        temperature: divides the logits.
        top_p: probability mass of the candidates.
        top_k: number of candidates; 0 for all.
        repetition_penalty: above 1 discourages tokens that occurred before.
        max_new_tokens: longest reply, in steps of 0.2 s.
        seed: makes a sampled reply repeatable.
        stop: texts that end the reply; they are not part of it.

    Raises:
        FunAudioChatError: a value is outside its ``LIMITS``.
    """

    greedy: bool = False
    text_greedy: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, limits in LIMITS.items():
            if (value := getattr(self, name)) is not None:
                limits.check(name, value)
        if isinstance(self.stop, str) or not all(self.stop):
            raise FunAudioChatError(f"stop is {self.stop!r}; give a tuple of non-empty strings")

    def given(self, *names: str) -> dict[str, Any]:
        """Return the named fields that are set (not None)."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def takes_best_text(self, speech: bool) -> bool:
        """Return whether the text of a reply, spoken or not, is the arg-max."""
        if self.text_greedy is not None:
            return self.text_greedy
        return speech or not self.given(*SAMPLING_VALUES)


def speech_sampling(config: GenerationConfig) -> dict[str, Any]:
    """Return how speech tokens are sampled by default.

    These are the reference's values. A checkpoint that needs others overrides ``SAMPLING_VALUES``
    as ``speech_sampling`` in its ``generation_config.json``.

    Raises:
        CheckpointError: the checkpoint's values cannot be used.
    """
    own = getattr(config, "speech_sampling", None) or {}
    try:
        if unknown := set(own) - set(SAMPLING_VALUES):
            raise FunAudioChatError(
                f"{', '.join(sorted(unknown))} is not among {', '.join(SAMPLING_VALUES)}"
            )
        Sampling(**own)
    except (TypeError, FunAudioChatError) as error:
        raise CheckpointError(
            f"speech_sampling in generation_config.json is wrong ({error}); correct or remove it"
        ) from error
    return {**DEFAULT_S2M_GEN_KWARGS, **own}


class StopTexts:
    """Cut a text that arrives in pieces before the first of the stop texts.

    Attributes:
        found: whether a stop text was found; nothing more is returned then.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held, self.found = stops, "", False

    def push(self, piece: str, last: bool = False) -> str:
        """Add a piece; return the text that is now certain to precede any stop text."""
        if self.found:
            return ""
        self._held += piece
        starts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._held[: min(starts)]
        length = len(self._held)
        longest = max(map(len, self._stops), default=1)
        keep = next(
            (
                at
                for at in range(max(0, length - longest + 1), length)
                if any(stop.startswith(self._held[at:]) for stop in self._stops)
            ),
            length,
        )
        if last:
            keep = length
        given, self._held = self._held[:keep], self._held[keep:]
        return given
