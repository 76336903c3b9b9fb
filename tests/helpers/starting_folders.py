# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What `funaudiochat init` begins with, made tiny by transformers: an LLM, Whisper, a head."""

import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from tests.helpers.golden import TINY_A

CODES = 125
# Weights of trained models are larger than those of the library's new ones.
_STD = 0.16


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without audio tokens."""
    bpe = Tokenizer(models.BPE.from_file(str(TINY_A / "vocab.json"), str(TINY_A / "merges.txt")))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    bpe.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=(TINY_A / "chat_template.jinja").read_text(),
    )


def write_llm(folder: Path, experts: int = 0, **changes) -> Path:
    torch.manual_seed(0)
    text = tokenizer()
    fields = {
        "vocab_size": len(text), "hidden_size": 64, "intermediate_size": 160, "head_dim": 24,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "initializer_range": _STD, "eos_token_id": text.pad_token_id, **changes,
    }  # fmt: skip
    if experts:
        fields |= {"num_experts": experts, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**fields))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**fields))
    model.save_pretrained(folder, max_shard_size="300KB")
    text.save_pretrained(folder)
    return folder


def write_whisper(folder: Path, positions: int = 1500, mels: int = 128) -> Path:
    torch.manual_seed(1)
    sizes = {
        "num_mel_bins": mels, "d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4,
        "encoder_ffn_dim": 160, "decoder_layers": 1, "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64, "vocab_size": 100, "max_source_positions": positions,
        "init_std": _STD, "pad_token_id": 0,
    }  # fmt: skip
    WhisperModel(WhisperConfig(**sizes)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(folder)
    return folder


def write_ct2(whisper: Path, folder: Path, dtype: type = np.float16) -> Path:
    """The encoder of a Whisper folder as CTranslate2 writes it, without the decoder."""
    model = WhisperModel.from_pretrained(whisper).encoder
    state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    arrays = {
        "num_heads": np.int16(model.config.encoder_attention_heads),
        "position_encodings/encodings": state["embed_positions.weight"],
    }

    def put(ours: str, theirs: str, names: tuple[str, str] = ("weight", "bias")) -> None:
        for part, name in zip(("weight", "bias"), names, strict=True):
            arrays[f"{theirs}/{name}"] = state[f"{ours}.{part}"]

    norm = ("gamma", "beta")
    put("layer_norm", "layer_norm", norm)
    put("conv1", "conv1")
    put("conv2", "conv2")
    for n in range(model.config.encoder_layers):
        ours, theirs = f"layers.{n}", f"layer_{n}"
        put(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm", norm)
        put(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm", norm)
        put(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
        put(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
        put(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        state[f"{ours}.self_attn.k_proj.bias"] = np.zeros(model.config.d_model, np.float32)
        for part in ("weight", "bias"):
            thirds = [state[f"{ours}.self_attn.{letter}_proj.{part}"] for letter in "qkv"]
            arrays[f"{theirs}/self_attention/linear_0/{part}"] = np.concatenate(thirds)
    types = {np.float32: 0, np.int8: 1, np.int16: 2, np.float16: 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        array = array.astype(dtype) if array.dtype == np.float32 else array
        data += text(f"encoder/{name}") + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", types[array.dtype.type], array.nbytes) + array.tobytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(data)
    return folder


def write_head(folder: Path) -> Path:
    torch.manual_seed(2)
    config = Qwen3Config(
        vocab_size=100,
        hidden_size=48,
        intermediate_size=96,
        head_dim=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=_STD,
        rope_parameters={"rope_type": "default", "rope_theta": 3e6},
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def write_all(folder: Path) -> dict[str, Path]:
    """Write llm/, whisper/ and head/ and return each folder by the option that takes it."""
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "llm": write_llm(folder / "llm"),
        "audio_encoder": write_whisper(folder / "whisper"),
        "head": write_head(folder / "head"),
    }
