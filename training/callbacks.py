# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Callbacks that add our config fields to LLaMA-Factory: trainable parts and separate losses."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from funaudiochat.errors import FunAudioChatError

logger = logging.getLogger(__name__)

# Part -> prefixes of its parameters. The adapter connects the mel encoder and the language model.
PARTS = {
    "mel_encoder": ("continuous_audio_tower.",),
    "adapter": ("continuous_audio_tower.proj.", "audio_tower."),
    "shared_llm": ("language_model.",),
    "refined_head": ("audio_invert_tower.",),
}
_LOSSES = ("text_loss", "speech_loss")


def part_of(name: str) -> str | None:
    """Return the part of a parameter by the longest prefix; LoRA adapters belong to one, too."""
    name = name.removeprefix("base_model.model.")
    prefixes = {prefix: part for part, names in PARTS.items() for prefix in names}
    owner = max((p for p in prefixes if name.startswith(p)), key=len, default=None)
    return prefixes[owner] if owner else None


def freeze_other_parts(model: nn.Module, parts: list[str]) -> None:
    """Freeze all parts that are not named; parameters that were frozen before stay frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and part_of(name) in parts)


def _size_and_storage(parameter: nn.Parameter) -> tuple[int, str]:
    """Return the number of values of a parameter and how they are stored."""
    kind = type(parameter).__name__
    if kind == "Params4bit":  # bitsandbytes packs two values into a byte of whatever type
        return 2 * parameter.numel() * parameter.element_size(), "4-bit"
    return parameter.numel(), (
        "8-bit" if kind == "Int8Params" else str(parameter.dtype).removeprefix("torch.")
    )


def training_table(model: nn.Module) -> list[str]:
    """Return a table of what is trained and what is frozen.

    A line stands for the modules of a part that are in the same state and stored alike. The state
    is "trained", "LoRA" (frozen with a trained adapter) or "frozen". Tied parameters are counted
    where they come first.
    """
    modules: dict[tuple[str, str], dict[str, Any]] = {}
    counted: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        part = part_of(name)
        if part is None:
            continue
        module = re.sub(r"\.(base_layer|modules_to_save\.\w+|original_module)$", "",
                        name.rpartition(".")[0])  # fmt: skip
        module, adapter, _ = module.partition(".lora_")
        found = modules.setdefault(
            (part, module), {"state": "frozen", "size": 0, "trained": 0, "stored": ""}
        )
        size, stored = _size_and_storage(parameter)
        if adapter:
            found["state"] = "LoRA"
        else:
            found["stored"] = found["stored"] or stored
            if parameter.requires_grad:
                found["state"] = "trained"
        if id(parameter) not in counted:
            counted.add(id(parameter))
            found["size"] += size
            found["trained"] += size if parameter.requires_grad else 0
    rows: dict[tuple[str, str, str], list[Any]] = {}
    for (part, module), found in modules.items():
        row = rows.setdefault((part, found["state"], found["stored"]), [0, 0, set()])
        row[0] += found["size"]
        row[1] += found["trained"]
        row[2].add(module.rpartition(".")[2])
    total, trained = (sum(row[column] for row in rows.values()) for column in (0, 1))
    form = "{:<12} {:<8} {:>15} {:>14} {:<9} {}"
    lines = [
        f"{trained:,} of {total:,} parameters are trained ({trained / max(1, total):.2%}):",
        form.format("part", "state", "parameters", "trained", "stored as", "modules"),
    ]
    for part, state, stored in sorted(
        rows, key=lambda key: (list(PARTS).index(key[0]), "tLf".index(key[1][0]), key[2])
    ):
        size, learned, names = rows[part, state, stored]
        lines.append(
            form.format(part, state, f"{size:,}", f"{learned:,}", stored, ", ".join(sorted(names)))
        )
    return lines


class ModelSettings(TrainerCallback):
    """Applies our config fields before the optimizer is created, and logs what is trained."""

    def __init__(
        self,
        parts: list[str] | None,
        halve_untranscribed_audio: bool | None,
        full_precision: bool,
        lean_losses: bool,
    ) -> None:
        self.parts, self.halve = parts, halve_untranscribed_audio
        self.full_precision, self.lean_losses = full_precision, lean_losses

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        if self.halve is not None:  # else the checkpoint's own
            model.config.halve_untranscribed_audio = self.halve
        unwrap = getattr(model, "get_base_model", None)  # of PEFT
        (unwrap() if unwrap else model).lean_losses = self.lean_losses
        if self.full_precision:
            # LLaMA-Factory leaves frozen parts in the precision of the file. Their activations
            # would be float16, which is slow and imprecise on CPUs.
            model.float()
        if isinstance(model, PreTrainedModel):
            # A checkpoint stores tied weights once; resuming would warn that they are missing.
            model._keys_to_ignore_on_save = list(model.all_tied_weights_keys)
        if self.parts is not None:
            freeze_other_parts(model, self.parts)
        if state.is_world_process_zero:
            logger.info("%s", "\n  ".join(training_table(model)))


class ResumeReport(TrainerCallback):
    """Logs whether the changed config or the checkpoint's state applies when a run resumes."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.global_step or not state.is_world_process_zero:
            return
        rates = getattr(kwargs.get("lr_scheduler"), "base_lrs", None)
        if rates and abs(max(rates) - args.learning_rate) > 1e-3 * args.learning_rate:
            logger.warning(
                "resumed at step %d with the learning rate %g of the checkpoint: optimizer and "
                "schedule come from it, and learning_rate=%g does not act. To train on with "
                "another rate, begin a new output_dir from this one's weights",
                state.global_step,
                max(rates),
                args.learning_rate,
            )
        if state.train_batch_size not in (None, args.train_batch_size):
            logger.warning(
                "resumed at step %d with a batch size of %d, which acts from here on; it was %d, "
                "so that rows are seen again or left out in this epoch",
                state.global_step,
                args.train_batch_size,
                state.train_batch_size,
            )


def check_finite(loss: torch.Tensor, step: int, row_names: list[str]) -> None:
    """Raise FunAudioChatError, naming step and rows, if a loss is NaN or infinite."""
    if bool(torch.isfinite(loss)):
        return
    rows = f"Its rows: {'; '.join(row_names)}. " if row_names else ""
    raise FunAudioChatError(
        f"the loss of step {step} is {float(loss.detach())}; the step was not saved. "
        f"{rows}Lower the learning rate, or look at these rows with `funaudiochat train check-data`"
    )


class LossLog(TrainerCallback):
    """Adds mean text and speech loss over all workers to every log; stops if the loss is NaN.

    A training log has the means since the previous log, an evaluation log those of the evaluation,
    as ``eval_text_loss`` and ``eval_speech_loss``; with ``eval_on_each_dataset`` the name of the
    data set follows ``eval_``.
    """

    def __init__(self) -> None:
        self._totals = {True: self._zeros(), False: self._zeros()}  # by model.training
        self._step = 0
        self._names: list[str] = []

    @staticmethod
    def _zeros() -> list[Any]:
        return [0.0] * (2 * len(_LOSSES))

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].register_forward_pre_hook(self._take_names, with_kwargs=True)
        kwargs["model"].register_forward_hook(self._collect)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._step = state.global_step + 1

    def _take_names(self, module: Any, inputs: Any, named: dict[str, Any]) -> Any:
        """Remove the names of the rows from a batch before the model gets it."""
        self._names = named.pop("row_names", [])
        return inputs, named

    def _collect(self, module: Any, inputs: Any, output: Any) -> None:
        totals = self._totals[module.training]
        for index, name in enumerate(_LOSSES):
            loss = getattr(output, name, None)
            if loss is not None:
                totals[index] = totals[index] + loss.detach().float()
                totals[index + len(_LOSSES)] += 1
        loss = getattr(output, "loss", None)
        if module.training and loss is not None:
            check_finite(loss, self._step, self._names)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        # "eval", or "eval_" and the name of a data set
        evaluation = next(
            (
                name.removesuffix("_runtime")
                for name in logs
                if name.startswith("eval_") and name.endswith("_runtime")
            ),
            "",
        )
        evaluated = bool(evaluation)
        totals = torch.tensor(self._totals[not evaluated], device=args.device)
        self._totals[not evaluated] = self._zeros()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(totals)
        sums, counts = totals.view(2, -1).tolist()
        for name, total, count in zip(_LOSSES, sums, counts, strict=True):
            if count:
                name = f"{evaluation}_{name}" if evaluated else name
                logs[name] = state.log_history[-1][name] = total / count


def draw_losses(folder: Path) -> None:
    """Plot total, text and speech loss by step to ``training_loss.png``."""
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
