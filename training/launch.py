# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Train with LLaMA-Factory: `python -m training.launch CONFIG [key=value ...]`.

Every worker process registers model, plugin and template itself; LLaMA-Factory's own launcher
would lose what its parent registered. Beside LLaMA-Factory's fields a config may hold
``train_parts`` (which of ``mel_encoder``, ``adapter``, ``shared_llm``, ``refined_head`` train; all
if absent) and ``halve_untranscribed_audio``.

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
from transformers import TrainerCallback

from funaudiochat.register import register_funaudiochat

logger = logging.getLogger(__name__)

# Part -> prefixes of its parameters. The adapter is what joins sound and language model.
PARTS = {
    "mel_encoder": ("continuous_audio_tower.",),
    "adapter": ("continuous_audio_tower.proj.", "audio_tower."),
    "shared_llm": ("language_model.",),
    "refined_head": ("audio_invert_tower.",),
}
_WORKER = "FUNAUDIOCHAT_TRAIN_WORKER"


def read_config(path: str, overrides: list[str]) -> dict[str, Any]:
    """A YAML file, with ``key=value`` overrides.

    Raises:
        ValueError: an unknown part, or an override without ``=``.
    """
    config = yaml.safe_load(Path(path).read_text())
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ValueError(f"{override!r} is no key=value")
        config[key] = yaml.safe_load(value)
    unknown = set(config.get("train_parts") or ()) - PARTS.keys()
    if unknown:
        raise ValueError(f"train_parts knows no {sorted(unknown)}; there are {', '.join(PARTS)}")
    return config


def freeze_other_parts(model: torch.nn.Module, parts: list[str]) -> None:
    """Leave only the named parts trainable; a part with the longer prefix owns a parameter."""
    prefixes = {prefix: part for part, names in PARTS.items() for prefix in names}
    for name, parameter in model.named_parameters():
        owner = max((p for p in prefixes if name.startswith(p)), key=len, default=None)
        parameter.requires_grad_(owner is not None and prefixes[owner] in parts)


class ModelSettings(TrainerCallback):
    """Applies our own config fields before the optimizer is made."""

    def __init__(self, parts: list[str] | None, halve_untranscribed_audio: bool) -> None:
        self.parts, self.halve = parts, halve_untranscribed_audio

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        model.config.halve_untranscribed_audio = self.halve
        model.lean_speech_loss = True
        if self.parts is not None:
            freeze_other_parts(model, self.parts)


class LossLog(TrainerCallback):
    """Adds the mean text and speech loss since the last log to every log."""

    def __init__(self) -> None:
        self._sums = {"text_loss": [0.0, 0], "speech_loss": [0.0, 0]}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].register_forward_hook(self._collect)

    def _collect(self, module: Any, inputs: Any, output: Any) -> None:
        if not module.training:
            return
        for name, pair in self._sums.items():
            loss = getattr(output, name, None)
            if loss is not None:
                pair[0] = pair[0] + loss.detach()
                pair[1] += 1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        for name, pair in self._sums.items():
            if pair[1]:
                logs[name] = state.log_history[-1][name] = float(pair[0]) / pair[1]
                self._sums[name] = [0.0, 0]


def _stand_in_for_torchaudio() -> None:
    """LLaMA-Factory imports torchaudio at its top and uses it only where our plugin stands."""
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError):
        stub = types.ModuleType("torchaudio")
        stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = stub


def train(config: dict[str, Any]) -> None:
    """Run one worker."""
    parts = config.pop("train_parts", None)
    halve = config.pop("halve_untranscribed_audio", True)
    # The pinned transformers is newer than LLaMA-Factory's own limit and works with it.
    os.environ.setdefault("DISABLE_VERSION_CHECK", "1")
    register_funaudiochat()
    _stand_in_for_torchaudio()
    from llamafactory.train.tuner import run_exp

    from training.plugin import register

    register()
    run_exp(config, callbacks=[ModelSettings(parts, halve), LossLog()])


def main() -> None:
    """Start the workers, or be one."""
    logging.basicConfig(level=logging.INFO)
    config = read_config(sys.argv[1], sys.argv[2:])
    processes = int(os.environ.get("NPROC_PER_NODE") or max(1, torch.cuda.device_count()))
    nodes = int(os.environ.get("NNODES") or 1)
    if os.environ.get(_WORKER) or processes * nodes == 1:
        return train(config)
    command = [
        sys.executable, "-m", "torch.distributed.run",
        f"--nproc_per_node={processes}", f"--nnodes={nodes}",
        f"--node_rank={os.environ.get('NODE_RANK', 0)}",
        f"--master_addr={os.environ.get('MASTER_ADDR', '127.0.0.1')}",
        f"--master_port={os.environ.get('MASTER_PORT', 29500)}",
        "-m", "training.launch", *sys.argv[1:],
    ]
    raise SystemExit(subprocess.run(command, env={**os.environ, _WORKER: "1"}).returncode)


if __name__ == "__main__":
    main()
