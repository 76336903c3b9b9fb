# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Import path of the reference's speech tokenizer, implemented by funaudiochat.cosyvoice3."""

from pathlib import Path
from typing import Any

from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.cosyvoice3.speech_tokenizer import SpeechTokenizer


def get_audio_tokenizer(
    model_dir: str | Path = "pretrained_models/Fun-CosyVoice3-0.5B-2512", device: str = "cpu"
) -> SpeechTokenizer:
    """Load the speech tokenizer from a folder."""
    return SpeechTokenizer.from_pretrained(model_dir, device)


def extract_speech_token(audio_tokenizer: SpeechTokenizer, utts: list[Any]) -> list[list[int]]:
    """Encode several utterances, paths or pairs (samples, rate), as speech tokens."""
    return [audio_tokenizer.encode(load_audio(utt, INPUT_RATE_HZ)).tolist() for utt in utts]
