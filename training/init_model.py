# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Build the joint checkpoint that training starts from: `funaudiochat init`.

As in the paper (arXiv 2512.20156, section 2.4), a text LLM becomes the shared backbone, Whisper's
encoder the mel encoder, and a small LLM the refined head. The layers between them are initialized
at random.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.constants import CODEBOOK_SIZE, GROUP_SIZE, MAX_NEW_TOKENS
from funaudiochat.errors import CheckpointError
from funaudiochat.modeling_funaudiochat import (
    FunAudioChatAudioEncoder,
    FunAudioChatDecoder,
    FunAudioChatDiscreteEncoder,
)
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.weights import INDEX, config_of, tensors_of, weight_files
from training.whisper_encoder import read_whisper

# In the order of their ids in the published checkpoint.
SPECIAL = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|audio_pad|>", "<|sil|>")
_EMBEDDING_STD = 0.02
# The rest of the three audio parts must come from the given folders.
_FRESH = (
    "continuous_audio_tower.proj.", "continuous_audio_tower.audio_bos_eos_token.", "audio_tower.",
    "audio_invert_tower.pre_matching.", "audio_invert_tower.input_matching.",
    "audio_invert_tower.output_matching.",
)  # fmt: skip


def speech_tokenizer(codes: int = CODEBOOK_SIZE) -> PreTrainedTokenizerFast:
    """Build the speech token vocabulary: ``[AU0000]`` and so on, start, end, padding, unknown."""
    names = [f"[AU{code:04d}]" for code in range(codes)]
    names += ["<|audio_bos|>", "<|audio_eos|>", "<|audio_pad|>", "<|audio_unk|>"]
    words = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=names[-1]))
    piece = Regex(r"\[AU\d{4}\]|<\|[a-z_]+\|>")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(piece, "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[-4],
        eos_token=names[-3],
        pad_token=names[-2],
        unk_token=names[-1],
        audio_group_size=GROUP_SIZE,
        clean_up_tokenization_spaces=False,
    )


def _joint_config(
    text: PretrainedConfig,
    sizes: dict[str, int],
    head: PretrainedConfig,
    ids: dict[str, int],
    codes: int,
) -> FunAudioChatConfig:
    text_fields = text.to_dict() | {
        "audio_bos_index": ids["<|audio_bos|>"],
        "audio_eos_index": ids["<|audio_eos|>"],
        "sil_index": ids["<|sil|>"],
        "vocab_size": max(text.vocab_size, -(-(max(ids.values()) + 1) // 64) * 64),
    }
    audio_fields = sizes | {
        "output_dim": text.hidden_size,
        "group_size": GROUP_SIZE,
        "codebook_size": codes + 4,
        "bos_token_id": codes,
        "eos_token_id": codes + 1,
        "pad_token_id": codes + 2,
        "crq_transformer_config": head.to_dict(),
    }
    return FunAudioChatConfig(
        audio_config=audio_fields,
        text_config=text_fields,
        audio_token_index=ids["<|AUDIO|>"],
        architectures=["FunAudioChatForConditionalGeneration"],
        dtype=text.dtype,
    )


def _head_weights(folder: Path) -> dict[str, Tensor]:
    """Map a text model's layers and last norm to the head's transformer."""
    prefix = "audio_invert_tower.crq_transformer."
    return {
        prefix + key.removeprefix("model."): tensor
        for key, tensor in tensors_of(folder)
        if key.startswith(("model.layers.", "model.norm."))
    }


def _audio_weights(
    config: FunAudioChatConfig, given: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """All tensors of the three audio parts, given ones or fresh ones.

    Raises:
        CheckpointError: one that must be given is not, or has another shape.
    """
    with torch.device("meta"):
        parts = {
            "continuous_audio_tower": FunAudioChatAudioEncoder(config.audio_config),
            "audio_tower": FunAudioChatDiscreteEncoder(config.audio_config),
            "audio_invert_tower": FunAudioChatDecoder(config.audio_config),
        }
    found = {}
    for part, module in parts.items():
        for name, wanted in module.state_dict().items():
            key = f"{part}.{name}"
            if key == "audio_invert_tower.lm_head.weight":  # tied to the code embedding
                continue
            if key in given:
                if given[key].shape != wanted.shape:
                    raise CheckpointError(
                        f"{key} has shape {list(given[key].shape)}, its folder's config.json says "
                        f"{list(wanted.shape)}"
                    )
                found[key] = given[key]
            elif not key.startswith(_FRESH):
                raise CheckpointError(f"the given folders hold no weights for {key}")
            elif key.endswith("bias"):
                found[key] = torch.zeros(wanted.shape)
            else:
                # A projection preserves the scale of its input.
                std = _EMBEDDING_STD if "embed" in key else wanted.shape[1] ** -0.5
                found[key] = torch.randn(wanted.shape, generator=generator) * std
    return found


def _with_rows(table: Tensor, rows: int, new: list[int], generator: torch.Generator) -> Tensor:
    """[V, H] -> [rows, H]; the rows ``new`` and all added ones are drawn like the others."""
    known = torch.ones(len(table), dtype=torch.bool)
    known[[index for index in new if index < len(table)]] = False
    values = table[known].float()
    drawn = torch.randn(rows, table.shape[1], generator=generator) * values.std(0) + values.mean(0)
    drawn[: len(table)][known] = values
    return drawn.to(table.dtype)


def _write_weights(
    llm: Path,
    audio: dict[str, Tensor],
    dtype: torch.dtype,
    table_rows: Callable[[Tensor], Tensor],
    out: Path,
) -> int:
    """Write the backbone's shards, one more for the audio parts, and the index.

    Returns:
        the backbone's parameters.
    """
    shards = weight_files(llm)
    names = [f"model-{n + 1:05d}-of-{len(shards) + 1:05d}.safetensors" for n in range(len(shards))]
    last = names[0].replace("00001-of", f"{len(names) + 1:05d}-of")
    weight_map: dict[str, str] = {}
    parameters = 0
    for shard, name in zip(shards, names, strict=True):
        tensors = {}
        with safe_open(shard, "pt") as file:
            for key in file.keys():
                tensor = file.get_tensor(key)
                if key in ("model.embed_tokens.weight", "lm_head.weight"):
                    tensor = table_rows(tensor)
                tensors[f"language_model.{key}"] = tensor
                parameters += tensor.numel()
        save_file(tensors, out / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    audio = {key: tensor.to(dtype).contiguous() for key, tensor in audio.items()}
    save_file(audio, out / last, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(audio, last)
    total = sum((out / name).stat().st_size for name in (*names, last))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return parameters


def init_model(
    llm: Path, audio_encoder: Path, head: Path, out: Path, codes: int = CODEBOOK_SIZE, seed: int = 0
) -> dict[str, int]:
    """Write a fresh joint checkpoint; the backbone is copied shard by shard.

    Args:
        llm: Qwen3 folder, dense or mixture of experts: backbone, tokenizer, precision.
        audio_encoder: Whisper folder, of Transformers or of CTranslate2; the number of mel bins
            follows it.
        head: folder of a small Qwen3.
        out: folder to write.
        codes: codebook size of the speech tokenizer; four more entries mark start, end, padding,
            unknown.
        seed: of the drawn weights.

    Returns:
        Parameters by origin: ``backbone``, ``encoder``, ``head`` and ``fresh``.

    Raises:
        CheckpointError: a folder is of another kind, or its weights do not fit its config.
    """
    text = config_of(llm, "qwen3", "qwen3_moe")
    whisper, head_config = read_whisper(audio_encoder), config_of(head, "qwen3")
    tokenizer = AutoTokenizer.from_pretrained(llm)
    before = len(tokenizer)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in SPECIAL}
    config = _joint_config(text, whisper.sizes, head_config, ids, codes)
    generator = torch.Generator().manual_seed(seed)
    head_weights = _head_weights(head)
    audio = _audio_weights(config, whisper.weights | head_weights, generator)

    out.mkdir(parents=True, exist_ok=True)
    new = [index for index in ids.values() if index >= before]
    rows = config.text_config.vocab_size
    table_rows = partial(_with_rows, rows=rows, new=new, generator=generator)
    dtype = text.dtype if isinstance(text.dtype, torch.dtype) else torch.float32
    backbone = _write_weights(llm, audio, dtype, table_rows, out)
    config.save_pretrained(out)
    end, pad = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>"))
    GenerationConfig(
        bos_token_id=pad, eos_token_id=[end, pad], pad_token_id=pad, max_new_tokens=MAX_NEW_TOKENS
    ).save_pretrained(out)
    speech = speech_tokenizer(codes)
    FunAudioChatProcessor(whisper.extractor, tokenizer, speech).save_pretrained(out)
    taken = {"encoder": whisper.weights, "head": head_weights}
    counts = {part: sum(t.numel() for t in weights.values()) for part, weights in taken.items()}
    fresh = sum(t.numel() for t in audio.values()) - sum(counts.values())
    return {"backbone": backbone, **counts, "fresh": fresh}
