# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A tiny checkpoint in Whisper's format whose transcripts repeat the letter "a"."""

from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

_END, _START, _BEFORE = "<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>"
_UNTIMED = "<|notimestamps|>"


def build_whisper(folder: Path) -> None:
    """Write configuration, weights, feature extractor and tokenizer."""
    letters = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    # English-only models have no language and task tokens.
    tokenizer = WhisperTokenizer(
        vocab=letters, merges=[], additional_special_tokens=[_START, _BEFORE, _UNTIMED]
    )
    tokenizer.add_tokens([f"<|{step / 50:.2f}|>" for step in range(1501)])
    end, start, before, untimed, a = tokenizer.convert_tokens_to_ids(
        [_END, _START, _BEFORE, _UNTIMED, "a"]
    )
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, pad_token_id=end, bos_token_id=end, eos_token_id=end,
        decoder_start_token_id=start,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        last = model.model.decoder.layer_norm
        last.weight.zero_()
        last.bias.fill_(1)
        model.model.decoder.embed_tokens.weight[a] = 5
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start, eos_token_id=end, pad_token_id=end, max_length=8,
        no_timestamps_token_id=untimed, prev_sot_token_id=before, is_multilingual=False,
        return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
