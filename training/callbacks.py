# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What our config fields add to a LLaMA-Factory run: which parts train, and the losses apart."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

# Part -> prefixes of its parameters. The adapter is what joins sound and language model.
PARTS = {
    "mel_encoder": ("continuous_audio_tower.",),
    "adapter": ("continuous_audio_tower.proj.", "audio_tower."),
    "shared_llm": ("language_model.",),
    "refined_head": ("audio_invert_tower.",),
}
_LOSSES = ("text_loss", "speech_loss")


def part_of(name: str) -> str | None:
    """Part a parameter belongs to, the one with the longest prefix; adapters of LoRA included."""
    name = name.removeprefix("base_model.model.")
    prefixes = {prefix: part for part, names in PARTS.items() for prefix in names}
    owner = max((p for p in prefixes if name.startswith(p)), key=len, default=None)
    return prefixes[owner] if owner else None


def freeze_other_parts(model: nn.Module, parts: list[str]) -> None:
    """Leave only the named parts trainable, and of them what was trainable before."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and part_of(name) in parts)


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
    """Adds the mean text and speech loss since the last log, over all workers, to every log."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: list[Any] = [0.0] * len(_LOSSES)
        self._counts = [0] * len(_LOSSES)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].register_forward_hook(self._collect)

    def _collect(self, module: Any, inputs: Any, output: Any) -> None:
        if not module.training:
            return
        for index, name in enumerate(_LOSSES):
            loss = getattr(output, name, None)
            if loss is not None:
                self._sums[index] = self._sums[index] + loss.detach().float()
                self._counts[index] += 1

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        totals = torch.tensor([*self._sums, *self._counts], device=args.device)
        self._reset()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        sums, counts = totals.view(2, -1).tolist()
        logs = kwargs.get("logs") or {}
        for name, total, count in zip(_LOSSES, sums, counts, strict=True):
            if count:
                logs[name] = state.log_history[-1][name] = total / count


def draw_losses(folder: Path) -> None:
    """Write ``training_loss.png`` with total, text and speech loss by step."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    figure, axis = pyplot.subplots(figsize=(7, 4))
    for name in ("loss", *_LOSSES):
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
    axis.set(xlabel="step", ylabel="cross-entropy", ylim=(0, None))
    axis.legend()
    figure.tight_layout()
    figure.savefig(folder / "training_loss.png", dpi=90)
    pyplot.close(figure)
