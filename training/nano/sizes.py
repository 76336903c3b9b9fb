# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sizes of Nano's joint model: 11 million parameters in the published configuration."""

from typing import Any

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.constants import CODEBOOK_SIZE, GROUP_SIZE

WIDTH = 256
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "attention_bias": False,
    "rms_norm_eps": 1e-6,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
BACKBONE = {
    **_QWEN3,
    "hidden_size": WIDTH,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "rope_theta": 1e6,
}
HEAD = {
    **_QWEN3,
    "hidden_size": 192,
    "intermediate_size": 576,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "rope_theta": 1e6,
}
AUDIO: dict[str, Any] = {
    "num_mel_bins": 128,
    "d_model": 192,
    "encoder_layers": 4,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 768,
    "output_dim": WIDTH,
    # Windows of 6 s instead of 2: most questions fit in one, so that no word is cut in two.
    "n_window": 300,
    "group_size": GROUP_SIZE,
    # As published: start, end and padding follow the speech tokens, and one id is unused.
    "codebook_size": CODEBOOK_SIZE + 4,
    "bos_token_id": CODEBOOK_SIZE,
    "eos_token_id": CODEBOOK_SIZE + 1,
    "pad_token_id": CODEBOOK_SIZE + 2,
    "continuous_features_mode": "replace",
}

# Whisper attends to 30 s at once.
WHISPER_WINDOW = 1500


def whisper_audio(sizes: dict[str, int], width: int = WIDTH) -> dict[str, Any]:
    """Return the audio configuration with Whisper's encoder as the mel encoder.

    Args:
        sizes: ``sizes`` of a ``training.whisper_encoder.WhisperEncoder``.
        width: width of the language model.
    """
    return {**AUDIO, **sizes, "output_dim": width, "n_window": WHISPER_WINDOW}


def nano_config(
    vocab: dict[str, int], text_vocab_size: int, audio: dict[str, Any] = AUDIO
) -> FunAudioChatConfig:
    """Build the joint configuration for a text vocabulary.

    Args:
        vocab: ids of the special tokens.
        text_vocab_size: rows of the text embedding.
        audio: configuration of the audio parts, without the head.
    """
    text = {
        **BACKBONE,
        "vocab_size": text_vocab_size,
        "bos_token_id": vocab["<|endoftext|>"],
        "eos_token_id": vocab["<|endoftext|>"],
        "audio_bos_index": vocab["<|audio_bos|>"],
        "audio_eos_index": vocab["<|audio_eos|>"],
        "sil_index": vocab["<|sil|>"],
    }
    head = {**HEAD, "vocab_size": text_vocab_size}
    return FunAudioChatConfig(
        audio_config={**audio, "crq_transformer_config": head},
        text_config=text,
        audio_token_index=vocab["<|AUDIO|>"],
        halve_untranscribed_audio=False,
    )
