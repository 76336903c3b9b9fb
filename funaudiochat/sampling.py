# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sampling settings of a reply, their limits, and the defaults of speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from funaudiochat.constants import DEFAULT_S2M_GEN_KWARGS
from funaudiochat.errors import CheckpointError, FunAudioChatError

_SAMPLING_LIMITS = {
    "temperature": 100.0,
    "top_p": 1.0,
    "repetition_penalty": 100.0,
    "max_new_tokens": 1 << 20,
}
SAMPLING_VALUES = ("temperature", "top_p", "top_k", "repetition_penalty")


@dataclass(frozen=True)
class Sampling:
    """How an answer is chosen; None leaves a value to the checkpoint or the speech defaults.

    Attributes:
        greedy: arg-max for text and codes.
        text_greedy: arg-max for the text. None is as the checkpoint was trained: yes, but not for
            a text answer with one of ``SAMPLING_VALUES`` given, which has nothing else to act on.
        seed: makes a sampled answer repeatable.
        stop: texts that end the answer, which does not hold them.

    Raises:
        FunAudioChatError: a value that nothing can be chosen by.
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
        for name, most in _SAMPLING_LIMITS.items():
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise FunAudioChatError(f"{name} is {value}; it must be above 0, at most {most}")
        for name in ("top_k", "seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1 << 63:
                raise FunAudioChatError(f"{name} is {value}; it must be from 0 to 2^63 - 1")
        if isinstance(self.stop, str) or not all(self.stop):
            raise FunAudioChatError(f"stop is {self.stop!r}; give a tuple of texts, none empty")

    def given(self, *names: str) -> dict[str, Any]:
        """Those of these values that are not left to others."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def takes_best_text(self, speech: bool) -> bool:
        """Whether the text of an answer, spoken or not, is the arg-max."""
        if self.text_greedy is not None:
            return self.text_greedy
        return speech or not self.given(*SAMPLING_VALUES)


def speech_sampling(config: GenerationConfig) -> dict[str, Any]:
    """How codes are chosen if nothing else is asked for.

    These are the reference's values. A folder that was not trained for them names others of
    ``SAMPLING_VALUES`` as ``speech_sampling`` in its ``generation_config.json``.

    Raises:
        CheckpointError: the folder's values are not such.
    """
    own = getattr(config, "speech_sampling", None) or {}
    try:
        if unknown := set(own) - set(SAMPLING_VALUES):
            raise FunAudioChatError(f"{sorted(unknown)} is none of {', '.join(SAMPLING_VALUES)}")
        Sampling(**own)
    except (TypeError, FunAudioChatError) as error:
        raise CheckpointError(
            f"speech_sampling in generation_config.json is wrong ({error}); mend or remove it"
        ) from error
    return {**DEFAULT_S2M_GEN_KWARGS, **own}


class StopTexts:
    """Cuts a text, given in pieces, before the first of the stop texts.

    Attributes:
        found: a stop text came; nothing more is given.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held, self.found = stops, "", False

    def push(self, piece: str, last: bool = False) -> str:
        """Take a piece -> the text that is now certain to precede any stop text."""
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
