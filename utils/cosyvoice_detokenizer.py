# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Names that programs written for the original import; the work is in funaudiochat.cosyvoice3."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer


def get_audio_detokenizer(
    model_dir: str | Path = "pretrained_models/Fun-CosyVoice3-0.5B-2512", device: str = "cpu"
) -> CosyVoice3Detokenizer:
    """Load the detokenizer of a folder."""
    return CosyVoice3Detokenizer.from_pretrained(model_dir, device)


def _sound_codes(audio_detokenizer: CosyVoice3Detokenizer, codes: Any) -> torch.Tensor:
    ids = torch.as_tensor(codes).flatten()
    return ids[(ids >= 0) & (ids < audio_detokenizer.flow.config.vocab_size)]


def token2wav(
    audio_detokenizer: CosyVoice3Detokenizer, codes: Any, speaker: torch.Tensor
) -> torch.Tensor:
    """Codes -> sound [1, samples] at 24 kHz; ids that are no sound are left out."""
    return audio_detokenizer.decode(_sound_codes(audio_detokenizer, codes), speaker)[None]


def tts_infer_streaming(
    audio_detokenizer: CosyVoice3Detokenizer, codes: Iterable[Any], speaker: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Groups of codes as they come -> pieces of sound [1, samples]."""
    stream = audio_detokenizer.stream(speaker)
    for group in codes:
        samples = stream.push(_sound_codes(audio_detokenizer, group))
        if len(samples):
            yield samples[None]
    yield stream.finish()[None]
