# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a page may set for its talk, and how it reaches the model."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funaudiochat.constants import DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT
from funaudiochat.sampling import LIMITS, Sampling

Answer = Literal["speech", "text"]


class BadSettings(ValueError):
    """Settings that cannot be taken; the message is for the user."""


def trained_prompt(speech: bool) -> str:
    """The system prompt that the model was trained with for such answers."""
    return DEFAULT_S2M_PROMPT if speech else DEFAULT_S2T_PROMPT


def _offered(name: str) -> Any:
    low, high = LIMITS[name].offered
    return Field(ge=low, le=high)


class SamplingSettings(BaseModel):
    """Validate :class:`funaudiochat.sampling.Sampling` within the limits offered to users."""

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
        """What the model takes."""
        return Sampling(**self.model_dump())


class Settings(BaseModel):
    """Settings of one talk; see PROTOCOL.md, section 4."""

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

    def changed(
        self,
        given: dict[str, Any],
        voices: list[str],
        answers: Sequence[Answer],
        vad: bool,
        prompt_chars: int,
    ) -> "Settings":
        """These settings with those given; unknown keys do nothing.

        Args:
            voices: names there are.
            answers: kinds there are; the first stands for one that there is not.
            vad: whether voice activity can be detected.
            prompt_chars: longest system prompt.

        Raises:
            BadSettings: a value is out of range; then none of them counts.
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
                f"at most {prompt_chars} are taken"
            )
        if new.voice is not None and new.voice not in voices:
            raise BadSettings(f"no voice named {new.voice!r}; there are: {', '.join(voices)}")
        if new.hands_free and not vad:
            raise BadSettings("hands_free needs voice detection, which this server does not have")
        if new.answer not in answers:
            new.answer = answers[0]
        return new

    def system(self, speech: bool) -> str | None:
        """The prompt the model gets: a persona follows the words it was trained with."""
        persona = (self.system_prompt or "").strip()
        if not persona:
            return None
        trained = trained_prompt(speech)
        return persona if persona.startswith(trained) else f"{trained} {persona}"
