# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Import path of the reference's detokenizer, implemented by funaudiochat.cosyvoice3."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer


def get_audio_detokenizer(
    model_dir: str | Path = "pretrained_models/Fun-CosyVoice3-0.5B-2512", device: str = "cpu"
) -> CosyVoice3Detokenizer:
    """Load the detokenizer from a folder."""
    return CosyVoice3Detokenizer.from_pretrained(model_dir, device)


def _audio_tokens(audio_detokenizer: CosyVoice3Detokenizer, codes: Any) -> torch.Tensor:
    ids = torch.as_tensor(codes).flatten()
    return ids[(ids >= 0) & (ids < audio_detokenizer.flow.config.vocab_size)]


def token2wav(
    audio_detokenizer: CosyVoice3Detokenizer, codes: Any, speaker: torch.Tensor
) -> torch.Tensor:
    """Synthesize a 24 kHz waveform [1, samples], ignoring ids outside the speech vocabulary."""
    return audio_detokenizer.decode(_audio_tokens(audio_detokenizer, codes), speaker)[None]


def tts_infer_streaming(
    audio_detokenizer: CosyVoice3Detokenizer, codes: Iterable[Any], speaker: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Synthesize groups of speech tokens as they arrive; yield waveforms [1, samples]."""
    stream = audio_detokenizer.stream(speaker)
    for group in codes:
        samples = stream.push(_audio_tokens(audio_detokenizer, group))
        if len(samples):
            yield samples[None]
    yield stream.finish()[None]
