# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint that runs in this process, as a source of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evaluate.records import fingerprint
from evaluate.sources import ModelOutput, Prompt
from funaudiochat.constants import MAX_NEW_TOKENS
from funaudiochat.errors import FunAudioChatError
from funaudiochat.generation_funaudiochat import generate, spoken_tokens
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.sampling import SAMPLING_VALUES, Sampling, speech_sampling
from funaudiochat.voice_chat import VoiceChat


class LocalModel:
    """A checkpoint that runs in this process.

    Args:
        model_path: folder of the model.
        tts_path: folder of the detokenizer; None leaves spoken answers without audio.
        device: device to run on.
        dtype: data type of the weights.
        voice: name of a voice; None for the default.
        max_new_tokens: maximum length of an answer in 5 Hz steps.
    """

    def __init__(
        self,
        model_path: Path,
        tts_path: Path | None,
        device: str = "auto",
        dtype: str = "auto",
        voice: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> None:
        self.chat = VoiceChat.from_pretrained(
            model_path, tts_path, device=device, dtype=dtype, voice=voice
        )
        self.max_new_tokens = max_new_tokens
        sampling = speech_sampling(self.chat.model.generation_config)
        self.description: dict[str, Any] = {
            "model": model_path.name,
            "model_fingerprint": fingerprint(model_path),
            "dtype": str(self.chat.model.dtype).removeprefix("torch."),
            "text": "greedy",
            "max_new_tokens": max_new_tokens,
        }
        self.speech_description: dict[str, Any] = {
            "speech_sampling": {name: sampling[name] for name in SAMPLING_VALUES},
        }
        if tts_path is not None:
            self.speech_description |= {
                "detokenizer_fingerprint": fingerprint(tts_path),
                "voice": voice or "default",
            }

    def answer(self, prompts: list[Prompt]) -> list[ModelOutput | str]:
        """Answer prompts of the same kind as a batch or, if that fails, one by one."""
        try:
            return list(self._batch(prompts))
        except (FunAudioChatError, RuntimeError, ValueError) as error:
            if len(prompts) == 1:
                return [f"{type(error).__name__}: {error}"]
        return [self.answer([prompt])[0] for prompt in prompts]

    def _batch(self, prompts: list[Prompt]) -> list[ModelOutput]:
        chat, speech = self.chat, prompts[0].speech
        inputs = chat.prepare([prompt.turns for prompt in prompts])
        width = inputs["input_ids"].shape[1]
        limit = chat.model.config.text_config.max_position_embeddings
        room = limit - width
        if room <= 0:
            raise FunAudioChatError(f"the prompt needs {width} positions, the model has {limit}")
        if room < self.max_new_tokens and len(prompts) > 1:
            # The longest prompt would limit the length of the other answers.
            raise FunAudioChatError("the prompts are too long for a batch")
        offers_tools = any(prompt.offers_tools for prompt in prompts)
        sampling = Sampling(text_greedy=True, max_new_tokens=self.max_new_tokens)
        options = chat.generation_options(width, speech, sampling, offers_tools)
        generators: list[torch.Generator] = [
            torch.Generator(chat.model.device).manual_seed(prompt.seed) for prompt in prompts
        ]
        rows, tokens = generate(chat.model, inputs, options, generators)
        return [
            self._output(row[width:].tolist(), speech_tokens, options)
            for row, speech_tokens in zip(rows, tokens, strict=True)
        ]

    def _output(
        self, ids: list[int], speech_tokens: torch.Tensor, options: GenerationOptions
    ) -> ModelOutput:
        speech = not options.disable_speech
        end = next((i for i, id_ in enumerate(ids) if id_ in options.eos_token_ids), None)
        if end is not None:
            ids = ids[: end + 1]
        tokenizer = self.chat.processor.tokenizer
        spoken = spoken_tokens(self.chat.model, speech_tokens)
        audio, rate_hz = None, 0
        detokenizer = self.chat.detokenizer
        if speech and detokenizer is not None and len(spoken):
            assert self.chat.speaker is not None
            audio = detokenizer.decode(spoken, self.chat.speaker).cpu().numpy().reshape(-1)
            rate_hz = detokenizer.sample_rate_hz
        return ModelOutput(
            tokenizer.decode(ids, skip_special_tokens=True).strip(),
            tokenizer.decode(ids, skip_special_tokens=False),
            audio,
            rate_hz,
            len(ids),
            len(spoken) if speech else None,
            cut=end is None,
        )
