# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train with LLaMA-Factory: `python -m training.launch CONFIG [key=value ...]`.

Every worker process registers model, plugin and template itself; LLaMA-Factory's own launcher
would lose what its parent registered. Beside LLaMA-Factory's fields a config may hold
``train_parts`` (which of ``mel_encoder``, ``adapter``, ``shared_llm``, ``refined_head`` train; all
if absent), ``halve_untranscribed_audio`` and ``skip_bad_rows`` (leave out rows that cannot be used
and count them, where training otherwise ends with their name).

Environment: ``NPROC_PER_NODE`` (default: GPUs, else 1), ``NNODES``, ``NODE_RANK``,
``MASTER_ADDR``, ``MASTER_PORT``.
"""

import importlib
import importlib.machinery
import logging
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import torch
import yaml

from funaudiochat.errors import FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.register import register_funaudiochat
from training.callbacks import PARTS, LossLog, ModelSettings, draw_losses

logger = logging.getLogger(__name__)

_WORKER = "FUNAUDIOCHAT_TRAIN_WORKER"


def read_config(path: str, overrides: list[str]) -> dict[str, Any]:
    """A YAML file, with ``key=value`` overrides.

    Raises:
        FunAudioChatError: an unreadable file, an unknown part, or an override without ``=``.
    """
    try:
        config = dict(yaml.safe_load(Path(path).read_text()))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise FunAudioChatError(f"{path} is no YAML file of fields: {error}") from error
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise FunAudioChatError(f"{override!r} is no key=value")
        config[key] = yaml.safe_load(value)
    unknown = set(config.get("train_parts") or ()) - PARTS.keys()
    if unknown:
        raise FunAudioChatError(
            f"train_parts knows no {sorted(unknown)}; there are {', '.join(PARTS)}"
        )
    return config


def _stand_in_for_torchaudio() -> None:
    """LLaMA-Factory imports torchaudio at its top and uses it only where our plugin stands."""
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stub


def prepare_llamafactory(skip_bad_rows: bool = False) -> None:
    """Let LLaMA-Factory of this process know model, plugin and template; safe to repeat."""
    # The pinned transformers is newer than LLaMA-Factory's own limit and works with it.
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    register_funaudiochat()
    _stand_in_for_torchaudio()
    from training.plugin import register

    register(skip_bad_rows)


def _stream_rows(config: dict[str, Any]) -> None:
    """Set what ``streaming`` needs: a worker to read, and batches that each process makes itself.

    LLaMA-Factory divides a file among the workers, and batches of audio differ in shape, so that
    the first process cannot send them to the others.
    """
    config["dataloader_num_workers"] = max(1, config.get("dataloader_num_workers") or 0)
    config["accelerator_config"] = {
        "dispatch_batches": False, **(config.get("accelerator_config") or {})
    }


def train(config: dict[str, Any]) -> None:
    """Run one worker; the first one leaves a whole checkpoint folder, and loss curves if asked."""
    config = dict(config)
    parts = config.pop("train_parts", None)
    halve = config.pop("halve_untranscribed_audio", True)
    plot = config.pop("plot_loss", False)
    if config.get("streaming"):
        _stream_rows(config)
    prepare_llamafactory(config.pop("skip_bad_rows", False))
    from llamafactory.train.tuner import run_exp

    run_exp(dict(config), callbacks=[ModelSettings(parts, halve), LossLog()])
    if int(os.environ.get("RANK", 0)) == 0:
        output = Path(config["output_dir"])
        # LLaMA-Factory saves the tokenizer last, without the files other readers need.
        FunAudioChatProcessor.from_pretrained(config["model_name_or_path"]).save_pretrained(output)
        if plot:
            draw_losses(output)


def main() -> None:
    """Start the workers, or be one."""
    logging.basicConfig(level=logging.INFO)
    try:
        config = read_config(sys.argv[1], sys.argv[2:])
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
    processes = int(os.environ.get("NPROC_PER_NODE") or max(1, torch.cuda.device_count()))
    nodes = int(os.environ.get("NNODES") or 1)
    if os.environ.get(_WORKER) or processes * nodes == 1:
        try:
            return train(config)
        except FunAudioChatError as error:
            sys.exit(f"error: {error}")
    command = [
        sys.executable, "-m", "torch.distributed.run",
        f"--nproc_per_node={processes}", f"--nnodes={nodes}",
        f"--node_rank={os.environ.get('NODE_RANK', 0)}",
        f"--master_addr={os.environ.get('MASTER_ADDR', '127.0.0.1')}",
        f"--master_port={os.environ.get('MASTER_PORT', 29500)}",
        "-m", "training.launch", *sys.argv[1:],
    ]
    environment = {**os.environ, _WORKER: "1"}
    if config.get("use_cpu") or not torch.accelerator.is_available():
        # accelerate's own choice is "cpu:0", to which torch.load cannot restore a checkpoint.
        environment.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
    raise SystemExit(subprocess.run(command, env=environment).returncode)


if __name__ == "__main__":
    main()
