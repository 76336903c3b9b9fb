# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Settings that a client may change for its session, and what they mean to the model."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funaudiochat.constants import DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT
from funaudiochat.sampling import LIMITS, Sampling

Answer = Literal["speech", "text"]


class BadSettings(ValueError):
    """The settings are invalid; the message is for the user."""


def trained_prompt(speech: bool) -> str:
    """Return the system prompt that the model was trained with for spoken or written replies."""
    return DEFAULT_S2M_PROMPT if speech else DEFAULT_S2T_PROMPT


def _offered(name: str) -> Any:
    low, high = LIMITS[name].offered
    return Field(ge=low, le=high)


class SamplingSettings(BaseModel):
    """The fields of :class:`funaudiochat.sampling.Sampling` with their limits."""

    model_config = ConfigDict(strict=True)

    temperature: Annotated[float, _offered("temperature")] | None = None
    top_p: Annotated[float, _offered("top_p")] | None = None
    top_k: Annotated[int, _offered("top_k")] | None = None
    repetition_penalty: Annotated[float, _offered("repetition_penalty")] | None = None
    max_new_tokens: Annotated[int, _offered("max_new_tokens")] | None = None
    seed: Annotated[int, _offered("seed")] | None = None
    greedy: bool = False
    text_greedy: bool | None = None

    def to_sampling(self) -> Sampling:
        """Convert to the model's own type."""
        return Sampling(**self.model_dump())


class Settings(BaseModel):
    """Settings of one session; see PROTOCOL.md, section 4."""

    model_config = ConfigDict(strict=True)

    system_prompt: str | None = None
    voice: str | None = None
    answer: Answer = "speech"
    tools: bool = False
    hands_free: bool = False
    barge_in: bool = True
    end_silence_ms: Annotated[int, Field(ge=200, le=3000)] = 600
    vad_threshold: Annotated[float, Field(ge=0.1, le=0.95)] = 0.5
    transcribe: bool = False
    sampling: SamplingSettings = SamplingSettings()

    @property
    def speech(self) -> bool:
        """Whether replies are spoken."""
        return self.answer == "speech"

    def changed(
        self,
        given: dict[str, Any],
        voices: list[str],
        answers: Sequence[Answer],
        vad: bool,
        prompt_chars: int,
    ) -> "Settings":
        """Return these settings with the given ones changed; unknown keys are ignored.

        Args:
            given: new values by name.
            voices: names of the voices.
            answers: kinds of replies; the first replaces a kind that is not among them.
            vad: whether voice activity can be detected.
            prompt_chars: limit of the system prompt's length.

        Raises:
            BadSettings: a value is invalid; none of them is applied.
        """
        known = {key: value for key, value in given.items() if key in Settings.model_fields}
        try:
            new = Settings.model_validate({**self.model_dump(), **known})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadSettings(f"{where}: {first['msg']}") from error
        if new.system_prompt is not None and len(new.system_prompt) > prompt_chars:
            raise BadSettings(
                f"system_prompt has {len(new.system_prompt)} characters; "
                f"the limit is {prompt_chars}"
            )
        if new.voice is not None and new.voice not in voices:
            raise BadSettings(f"unknown voice {new.voice!r}; choose one of: {', '.join(voices)}")
        if new.hands_free and not vad:
            raise BadSettings("hands_free needs voice activity detection, which this server lacks")
        if new.answer not in answers:
            new.answer = answers[0]
        return new

    def system(self, speech: bool) -> str | None:
        """Return the system prompt: the one the model was trained with, then the persona."""
        persona = (self.system_prompt or "").strip()
        if not persona:
            return None
        trained = trained_prompt(speech)
        return persona if persona.startswith(trained) else f"{trained} {persona}"
