# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""LoRA adapters: merge a trained one into its base, as a folder that everything else loads."""

import json
from pathlib import Path

from torch import nn

from funaudiochat.errors import CheckpointError, FunAudioChatError
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor

_TRAINING = Path(__file__).parent


def base_of(adapter: Path) -> Path:
    """Return the folder of the model that an adapter was trained on.

    Raises:
        CheckpointError: the folder holds no adapter, or its base is not where it was.
    """
    try:
        named = str(
            json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{adapter} holds no readable adapter_config.json ({error}); give the output_dir of a "
            "run with finetuning_type: lora"
        ) from error
    for base in (Path(named), _TRAINING / named):  # run.sh trains from inside training/
        if (base / "config.json").is_file():
            return base
    raise CheckpointError(f"{adapter} was trained on {named}, which is not there; give --base")


def _adapts_output_matrix(adapter: Path) -> bool:
    """Tell whether the language model's output matrix is among the adapter's targets."""
    try:
        targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # loading the adapter says what is wrong
    return bool({"lm_head", "language_model.lm_head"} & set(targets))


def _untie_output_matrix(model: FunAudioChatForConditionalGeneration) -> None:
    """Store the output matrix of text beside the embedding that it is tied to."""
    head = model.language_model.lm_head
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.text_config.tie_word_embeddings = False
    del model.all_tied_weights_keys["language_model.lm_head.weight"]


def merge_lora(adapter: Path, out: Path, base: Path | None = None) -> Path:
    """Write a whole checkpoint folder: the base with the adapter in its weights.

    An adapter of the output matrix of text leaves the embedding as it is: where both are tied in
    the base, the folder stores them separately.

    Args:
        adapter: output folder of a run with ``finetuning_type: lora``.
        out: folder to write.
        base: folder of the model it was trained on; the one that the adapter names if None.

    Returns:
        The base.

    Raises:
        CheckpointError: adapter or base cannot be read or do not fit, or ``out`` is one of them.
        FunAudioChatError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise FunAudioChatError("merging needs peft; run `make train-setup`") from error
    base = base or base_of(adapter)
    if out.resolve() in (adapter.resolve(), base.resolve()):
        raise CheckpointError(f"{out} would be written over; give another --out")
    model = FunAudioChatForConditionalGeneration.from_pretrained(base)
    if model.config.text_config.tie_word_embeddings and _adapts_output_matrix(adapter):
        _untie_output_matrix(model)
    try:
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{adapter} cannot be merged into {base}: {error}") from error
    merged.save_pretrained(out)
    FunAudioChatProcessor.from_pretrained(base).save_pretrained(out)
    return base
