# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint folder, in this process, as a source of answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evaluate.records import fingerprint
from evaluate.sources import Produced, Prompt, render
from funaudiochat.errors import FunAudioChatError
from funaudiochat.generation_funaudiochat import generate
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.sampling import SAMPLING_VALUES, speech_sampling
from funaudiochat.voice_chat import VoiceChat, tool_call_ids


class LocalModel:
    """A checkpoint folder, in this process.

    Args:
        model_path, tts_path: folders; without the second spoken answers have no sound.
        max_new_tokens: longest answer, in 5 Hz steps.
    """

    def __init__(
        self,
        model_path: Path,
        tts_path: Path | None,
        device: str = "auto",
        dtype: str = "auto",
        voice: str | None = None,
        max_new_tokens: int = 2048,
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
        tokenizer = self.chat.processor.tokenizer
        ends = self.chat.model.generation_config.eos_token_id
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self._ends = tuple(dict.fromkeys([tokenizer.convert_tokens_to_ids("<|im_end|>"), *ends]))
        self._pad = tokenizer.pad_token_id

    def answer(self, prompts: list[Prompt]) -> list[Produced | str]:
        """Answer prompts of one kind, as a batch; where that fails, one by one."""
        try:
            return list(self._batch(prompts))
        except (FunAudioChatError, RuntimeError, ValueError) as error:
            if len(prompts) == 1:
                return [f"{type(error).__name__}: {error}"]
        return [self.answer([prompt])[0] for prompt in prompts]

    def _options(self, speech: bool, offers_tools: bool = False) -> GenerationOptions:
        options = GenerationOptions(
            max_new_tokens=self.max_new_tokens,
            eos_token_ids=self._ends,
            pad_token_id=self._pad,
            text_greedy=True,
            disable_speech=not speech,
            force_text_abos=speech,
            suppressed_ids=() if offers_tools else tool_call_ids(self.chat.processor.tokenizer),
        )
        if not speech:
            return options
        return replace(options, do_sample=True, **self.speech_description["speech_sampling"])

    def _batch(self, prompts: list[Prompt]) -> list[Produced]:
        chat, speech = self.chat, prompts[0].speech
        inputs = chat.processor(
            text=[render(chat.processor, prompt) for prompt in prompts],
            audio=[prompt.audio for prompt in prompts],
            return_tensors="pt",
            padding_side="left",
        ).to(chat.model.device)
        width = inputs["input_ids"].shape[1]
        limit = chat.model.config.text_config.max_position_embeddings
        room = limit - width
        if room <= 0:
            raise FunAudioChatError(f"the prompt needs {width} positions, the model has {limit}")
        if room < self.max_new_tokens and len(prompts) > 1:
            # The longest prompt would shorten the others' answers.
            raise FunAudioChatError("too long for a batch")
        offers_tools = any(prompt.offers_tools for prompt in prompts)
        options = replace(
            self._options(speech, offers_tools), max_new_tokens=min(self.max_new_tokens, room)
        )
        generators: list[torch.Generator] = [
            torch.Generator(chat.model.device).manual_seed(prompt.seed) for prompt in prompts
        ]
        rows, codes = generate(chat.model, dict(inputs), options, generators)
        return [
            self._produced(row[width:].tolist(), code, speech)
            for row, code in zip(rows, codes, strict=True)
        ]

    def _produced(self, ids: list[int], codes: torch.Tensor, speech: bool) -> Produced:
        end = next((i for i, id_ in enumerate(ids) if id_ in self._ends), None)
        if end is not None:
            ids = ids[: end + 1]
        tokenizer = self.chat.processor.tokenizer
        spoken = codes[codes < self.chat.model.config.audio_config.bos_token_id].cpu()
        wave, rate_hz = None, 0
        detokenizer = self.chat.detokenizer
        if speech and detokenizer is not None and len(spoken):
            assert self.chat.speaker is not None
            wave = detokenizer.decode(spoken, self.chat.speaker).cpu().numpy().reshape(-1)
            rate_hz = detokenizer.sample_rate_hz
        return Produced(
            tokenizer.decode(ids, skip_special_tokens=True).strip(),
            tokenizer.decode(ids, skip_special_tokens=False),
            wave,
            rate_hz,
            len(ids),
            len(spoken) if speech else None,
            cut=end is None,
        )
