# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Decide whether a checkpoint folder can be loaded, before anything slow and by name.

The checks follow the order of loading: the folder itself, ``config.json``,
``generation_config.json``, the tokenizers and the feature extractor, then the weights. Each raises
:class:`CheckpointError` with every fault it found. transformers accepts most of these faults
silently. The module imports neither torch nor transformers, so that the command line stays fast.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from funaudiochat.errors import CheckpointError, FunAudioChatError

_AUDIO_SIZES = (
    "num_mel_bins",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "d_model",
    "n_window",
    "output_dim",
    "group_size",
    "codebook_size",
)
_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
# Larger than any real model: a damaged value must not fill the memory.
_LARGEST_SIZE, _LARGEST_DEPTH = 1 << 20, 1 << 12
_FEATURE_SIZES = ("feature_size", "sampling_rate", "hop_length", "n_fft", "n_samples")
# Missing tensors of up to this many values are reported by name, which requires loading the others.
_SPARE_VALUES = 1 << 27


def refuse_adapter(folder: str | Path) -> None:
    """Raise CheckpointError, with the command that merges it, if a folder is a LoRA adapter."""
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is a LoRA adapter without its base model; merge them with `funaudiochat "
            f"train merge-lora {folder} --out FOLDER` and give that FOLDER"
        )


def check_config_fields(folder: Any, fields: Mapping[str, Any], model_type: str) -> None:
    """Check the fields of ``config.json`` that must be right before a config object is built.

    Raises:
        CheckpointError: the file describes another model type, or a model too deep to be real.
    """
    if fields.get("model_type") != model_type:
        raise CheckpointError(
            f"{folder} holds model type {fields.get('model_type')!r}, not {model_type!r}; "
            "are the folders of the language model and the detokenizer swapped?"
        )
    text = fields.get("text_config")
    depth = text.get("num_hidden_layers") if isinstance(text, Mapping) else None
    if isinstance(depth, int) and depth > _LARGEST_DEPTH:  # the config lists its layers
        _refuse(f"config.json in {folder}", [f"text_config.num_hidden_layers is {depth}"])


def check_config(folder: Any, config: Any) -> None:
    """Check that a model can be built from a config and can decode a reply.

    Args:
        folder: where the config comes from, for the message.
        config: a ``FunAudioChatConfig``.

    Raises:
        CheckpointError: a size, mode or token id is out of range; the message names them all.
    """
    _refuse(f"config.json in {folder}", _config_faults(config))


def check_generation_file(folder: Any, vocabulary: int) -> None:
    """Check a folder's ``generation_config.json``, if it has one.

    transformers ignores a file that it cannot read, and accepts values of any type.

    Args:
        folder: the checkpoint folder.
        vocabulary: number of text token ids.

    Raises:
        CheckpointError: no reply can be decoded with it; the message names the fields.
    """
    path = Path(folder) / "generation_config.json"
    if not path.exists():
        return
    from transformers import GenerationConfig

    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        faults = _generation_faults(settings, vocabulary)
        if not faults:
            GenerationConfig.from_pretrained(folder)
    except Exception as error:  # transformers raises many kinds
        faults = [str(error)]
    if faults:
        raise CheckpointError(
            f"generation_config.json in {folder} is wrong: {'; '.join(faults)}. Correct it, or "
            "download the folder again with `funaudiochat download`"
        )


def check_feature_extractor(feature_extractor: Any) -> None:
    """Raise CheckpointError if a size in ``preprocessor_config.json`` is not a positive integer."""
    sizes = {name: getattr(feature_extractor, name) for name in _FEATURE_SIZES}
    _refuse(
        "preprocessor_config.json",
        [f"{n} is {v!r}" for n, v in sizes.items() if type(v) is not int or v < 1],
    )


def check_text_tokenizer(tokenizer: Any) -> None:
    """Raise CheckpointError if the text tokenizer has no vocabulary or no padding token."""
    # transformers makes a tokenizer without words when the folder has none.
    if tokenizer.vocab_size <= len(tokenizer.added_tokens_decoder):
        raise CheckpointError(
            "the text tokenizer knows no words: tokenizer.json, or vocab.json and merges.txt, "
            "are missing; download the folder again with `funaudiochat download`"
        )
    if tokenizer.pad_token_id is None:
        _refuse("tokenizer_config.json", [f"pad_token is {tokenizer.pad_token!r}"])


def check_audio_tokens(tokens: Mapping[str, Any]) -> None:
    """Raise CheckpointError if an audio token of ``processor_config.json`` is not a text.

    Args:
        tokens: field name -> the token's text.
    """
    _refuse(
        "processor_config.json",
        [f"{n} is {v!r}" for n, v in tokens.items() if not isinstance(v, str) or not v],
    )


def check_speech_tokenizer(tokenizer: Any, pad_token: str, group_size: Any) -> int:
    """Check the vocabulary of speech tokens.

    Args:
        tokenizer: of the folder ``speech_tokenizer/``.
        pad_token: text of its padding token.
        group_size: of ``processor_config.json``; the speech tokenizer's own value wins.

    Returns:
        Speech tokens per group.

    Raises:
        CheckpointError: the folder is missing or holds another tokenizer, or the group size is
            not a positive integer.
    """
    own = "audio_group_size" in tokenizer.init_kwargs
    size = tokenizer.init_kwargs["audio_group_size"] if own else group_size
    if type(size) is not int or size < 1:
        file = "speech_tokenizer/tokenizer_config.json" if own else "processor_config.json"
        _refuse(file, [f"audio_group_size is {size!r}"])
    # transformers falls back to the text tokenizer when the folder has no speech tokenizer.
    if tokenizer.pad_token != pad_token:
        raise CheckpointError(
            f"the speech tokenizer pads with {tokenizer.pad_token!r}, not with "
            f"{pad_token!r}: the checkpoint's folder speech_tokenizer/ is missing or "
            "incomplete; download it again with `funaudiochat download`"
        )
    return int(size)


def stored_weights(folder: Any) -> tuple[int, list[str]]:
    """Count the values in a folder's weights and list the tensors that are not floats.

    transformers would convert those silently.
    """
    values, not_floats = 0, []
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                tensor = file.get_slice(key)
                values += math.prod(tensor.get_shape())
                if tensor.get_dtype() not in ("F64", "F32", "F16", "BF16"):
                    not_floats.append(key)
    return values, not_floats


def check_parameter_count(model: Any, stored: int) -> None:
    """Raise CheckpointError if filling up a model would take memory that its weights do not.

    Args:
        model: the planned model, on the meta device.
        stored: values in the folder's weights.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if stored and parameters > 2 * stored + _SPARE_VALUES:
        raise CheckpointError(
            f"config.json describes a model of {parameters:,} parameters, and the weights hold "
            f"{stored:,}; take both from the same checkpoint"
        )


def check_shared_weights(model: Any, device_map: Any = None) -> None:
    """Raise FunAudioChatError if weights that two parts share are not kept in memory.

    Offloaded weights are found by name or address; shared ones have two names or no address.

    Args:
        model: the loaded model, or the planned one together with its map.
        device_map: of a model that is yet to be loaded; only a map with names says where.
    """
    shared = sorted({name for pair in model.all_tied_weights_keys.items() for name in pair})
    if device_map is None:
        away = [name for name in shared if model.get_parameter(name).is_meta]
    else:
        away = [name for name in shared if _mapped_device(name, device_map) == "disk"]
    if away:
        modules = ", ".join(name.removesuffix(".weight") for name in shared)
        raise FunAudioChatError(
            f"device_map leaves {', '.join(away)} on the disk, or on the CPU beside a GPU; weights "
            f"that two parts share cannot be used from there. Write a device_map that gives "
            f"{modules} the device that computes; everything else may stay on the disk"
        )


def check_loaded_tensors(folder: Any, info: Mapping[str, Any], not_floats: list[str]) -> None:
    """Raise CheckpointError, naming the tensors, if weights and model do not fit each other.

    Args:
        folder: where the weights come from, for the message.
        info: transformers' loading info.
        not_floats: names of tensors that are not floats.
    """
    problems = [
        f"{len(names)} {kind}: {', '.join(sorted(map(str, names))[:5])}"
        + (", ..." if len(names) > 5 else "")
        for kind, names in (
            ("missing", info["missing_keys"]),
            ("not known", info["unexpected_keys"]),
            ("of another shape", info["mismatched_keys"]),
            ("not of floats", not_floats),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"the weights in {folder} do not fit its config.json. Tensors {'; '.join(problems)}"
            ". Check that both come from the same checkpoint"
        )


def _refuse(file: str, faults: list[str]) -> None:
    """Raise CheckpointError if a file has faults."""
    if faults:
        raise CheckpointError(
            f"{file} is wrong: {'; '.join(faults)}. Download the folder again with "
            "`funaudiochat download`"
        )


def _config_faults(config: Any) -> list[str]:
    audio, text = config.audio_config, config.text_config
    faults = _size_faults("audio_config", {name: getattr(audio, name) for name in _AUDIO_SIZES})
    # Not every backbone has all of these.
    sizes = {name: getattr(text, name, None) for name in _TEXT_SIZES}
    faults += _size_faults("text_config", {k: v for k, v in sizes.items() if v is not None})
    head = audio.crq_transformer_config
    if isinstance(head, dict) and head:
        sizes = {name: head[name] for name in _TEXT_SIZES if name in head}
        if sizes.get("num_hidden_layers") == 0:  # an ablation: no layers behind the backbone
            del sizes["num_hidden_layers"]
        faults += _size_faults("audio_config.crq_transformer_config", sizes)
    elif audio.enable_audio_invert_tower:
        faults.append(f"audio_config.crq_transformer_config is {head!r}")
    if audio.continuous_features_mode not in ("replace", "add"):
        mode = audio.continuous_features_mode
        faults.append(f"audio_config.continuous_features_mode is {mode!r}, not 'replace' or 'add'")
    if faults:
        return faults
    width, heads = audio.d_model, audio.encoder_attention_heads
    if width % 2 or width % heads:
        faults.append(f"audio_config.d_model is {width}, which {heads} heads cannot share")
    speech = {n: getattr(audio, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokens = {
        n: getattr(text, n, None) for n in ("audio_bos_index", "audio_eos_index", "sil_index")
    }
    tokens["audio_token_index"] = config.audio_token_index
    for ids, size in ((speech, audio.codebook_size), (tokens, text.vocab_size)):
        faults += [
            f"{name} is {value!r}, outside the vocabulary of {size}"
            for name, value in ids.items()
            if type(value) is not int or not 0 <= value < size
        ]
    return faults


def _size_faults(part: str, sizes: dict[str, Any]) -> list[str]:
    return [
        f"{part}.{name} is {size!r}"
        for name, size in sizes.items()
        if type(size) is not int
        or not 0 < size <= (_LARGEST_DEPTH if name.endswith("layers") else _LARGEST_SIZE)
    ]


# A description of the values that a setting accepts, and the test for them.
_Check = tuple[str, Callable[[Any], bool]]


def _integer(least: int) -> _Check:
    return f"an integer of at least {least}", lambda value: type(value) is int and value >= least


def _number(most: int, zero: bool = True) -> _Check:
    def accepts(value: Any) -> bool:
        return type(value) in (int, float) and 0 <= value <= most and (zero or value > 0)

    return f"a number {'from' if zero else 'above'} 0, at most {most}", accepts


def _generation_faults(settings: Any, vocabulary: int) -> list[str]:
    if not isinstance(settings, dict):
        return [f"it must hold a JSON object, not {settings!r:.40}"]

    def is_id(value: Any) -> bool:
        return type(value) is int and 0 <= value < vocabulary

    def are_ids(value: Any) -> bool:
        return isinstance(value, list) and len(value) > 0 and all(map(is_id, value))

    def are_words(value: Any) -> bool:
        return isinstance(value, list) and all(map(are_ids, value))

    below = f"below {vocabulary}"
    checks: dict[str, _Check] = {
        "do_sample": ("true or false", lambda value: isinstance(value, bool)),
        "eos_token_id": (
            f"an id {below} or a list of such ids",
            lambda value: is_id(value) or are_ids(value),
        ),
        "pad_token_id": (f"an id {below}", is_id),
        "bad_words_ids": (f"a list of lists of ids {below}", are_words),
        "temperature": _number(100, zero=not settings.get("do_sample")),
        "repetition_penalty": _number(100, zero=False),
        "top_p": _number(1),
        "min_p": _number(1),
    }
    for name in ("max_new_tokens", "max_length", "num_beams", "num_return_sequences"):
        checks[name] = _integer(1)
    for name in ("min_new_tokens", "min_length", "top_k", "no_repeat_ngram_size"):
        checks[name] = _integer(0)
    return [
        f"{name} is {settings[name]!r:.40}, not {kind}"
        for name, (kind, accepts) in checks.items()
        if settings.get(name) is not None and not accepts(settings[name])
    ]


def _mapped_device(name: str, device_map: Any) -> Any:
    """Return the device that a map assigns to a parameter, None if it does not say."""
    if not isinstance(device_map, dict):
        return None
    parts = [part for part in device_map if not part or f"{name}.".startswith(f"{part}.")]
    return device_map[max(parts, key=len)] if parts else None
