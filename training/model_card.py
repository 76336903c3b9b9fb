# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Describe a training run in a model card, and upload its folder to the Hugging Face hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from funaudiochat.errors import FunAudioChatError

# Fields whose values are folders or files of the machine: a card names only their last part.
_PATHS = ("model_name_or_path", "ref_model", "deepspeed", "fsdp_config", "adapter_name_or_path")
# Fields that say nothing of the model, or where it lies.
_LEFT_OUT = (
    "output_dir", "dataset_dir", "media_dir", "tokenized_path", "logging_dir", "run_name",
    "resume_from_checkpoint", "overwrite_output_dir", "report_to", "use_cpu", "plot_loss",
    "hf_hub_token",
)  # fmt: skip
_HUB_FIELDS = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_token")


@dataclass(frozen=True)
class HubTarget:
    """Where a run is uploaded to; ``token`` None is that of ``hf auth login`` or HF_TOKEN."""

    repository: str
    private: bool = True
    token: str | None = None


def take_hub_target(config: dict[str, Any]) -> HubTarget | None:
    """Take the fields of the hub out of a config; None if nothing is to be uploaded.

    LLaMA-Factory would upload before the processor's files and the losses are in the folder.
    """
    fields = {name: config.pop(name, None) for name in _HUB_FIELDS}
    if not fields["push_to_hub"]:
        return None
    private = fields["hub_private_repo"]
    return HubTarget(
        str(fields["hub_model_id"]), private is None or bool(private), fields["hub_token"]
    )


def write_card(folder: Path, config: dict[str, Any]) -> None:
    """Write ``README.md``: what was trained from what, the config, the losses and how to use it.

    Args:
        folder: output folder of a finished run, with ``trainer_state.json``.
        config: fields of the run.

    Raises:
        FunAudioChatError: ``trainer_state.json`` cannot be read.
    """
    try:
        state = json.loads((folder / "trainer_state.json").read_text())
        steps, history = state["global_step"], state["log_history"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FunAudioChatError(
            f"{folder} has no readable trainer_state.json ({error!r}); give the output_dir of a "
            "finished run"
        ) from error
    base = Path(str(config["model_name_or_path"])).name
    adapter = (folder / "adapter_config.json").is_file()
    data = ModelCardData(
        tags=["fun-audio-chat", str(config.get("stage")), str(config.get("finetuning_type"))],
        library_name="peft" if adapter else None,
    )
    losses = {
        name: value
        for entry in history
        for name, value in entry.items()
        if name.endswith("loss") and name != "train_loss"
    }
    fields = {
        name: Path(str(value)).name if name in _PATHS else value
        for name, value in sorted(config.items())
        if name not in _LEFT_OUT and value is not None
    }
    use = (
        f"funaudiochat train merge-lora FOLDER --base {base} --out MERGED\n"
        "funaudiochat chat --model-path MERGED"
        if adapter
        else "funaudiochat chat --model-path FOLDER"
    )
    sections = [
        f"---\n{data.to_yaml()}\n---\n# {folder.name}",
        f"{'A LoRA adapter of' if adapter else 'Trained from'} {base}: {steps} steps on "
        f"{config.get('dataset')}.",
        f"## Use\n\n```\n{use}\n```",
        "## Last losses\n\n| loss | value |\n|---|---|\n"
        + "\n".join(f"| `{name}` | {value:.4g} |" for name, value in losses.items()),
        "![losses by step](training_loss.png)" if (folder / "training_loss.png").is_file() else "",
        "## Config\n\n| field | value |\n|---|---|\n"
        + "\n".join(f"| `{name}` | `{value}` |" for name, value in fields.items()),
    ]
    ModelCard("\n\n".join(filter(None, sections)) + "\n", ignore_metadata_errors=True).save(
        folder / "README.md"
    )


def upload(folder: Path, target: HubTarget) -> str:
    """Upload a run's folder without its intermediate checkpoints; return the address.

    Raises:
        FunAudioChatError: the hub cannot be reached or refuses the upload.
    """
    api = HfApi(token=target.token)
    try:
        repository = api.create_repo(target.repository, private=target.private, exist_ok=True)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            ignore_patterns=["checkpoint-*", "torn-checkpoint-*", "training_args.bin", "runs/*"],
            commit_message="Training run",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FunAudioChatError(
            f"the upload to {target.repository} failed ({error}); the run itself is complete: "
            f"`hf upload {target.repository} {folder}` repeats it"
        ) from error
    return str(repository)
