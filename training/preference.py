# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Preference training over text and speech: ``stage: dpo`` of LLaMA-Factory.

The log-probability of an answer is ``pref_text_weight`` times that of its text targets plus
``pref_speech_weight`` times that of its speech targets. For ``pref_loss: sigmoid`` both are sums,
or with ``pref_length_normalized`` means over their targets; for ``ipo``, ``orpo`` and ``simpo``
they are always means, as in LLaMA-Factory. On written answers the losses are LLaMA-Factory's own.

Shapes: ``P`` pairs of a batch; a batch holds the P chosen answers, then the P rejected ones.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from llamafactory.data.collator import (
    MultiModalDataCollatorForSeq2Seq,
    PairwiseDataCollatorWithPadding,
)
from llamafactory.train.dpo import trainer as library
from llamafactory.train.dpo import workflow
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from torch import Tensor

from training.callbacks import check_finite
from training.plugin.rows import SIDES

_MEANS = ("ipo", "orpo", "simpo")


@dataclass(frozen=True)
class PreferenceSettings:
    """How the streams of an answer are weighed.

    Attributes:
        text_weight: of the log-probability of text.
        speech_weight: of the log-probability of speech tokens.
        length_normalized: whether log-probabilities are means over the targets of their stream.
        full_precision: whether the reference model computes in float32.
    """

    text_weight: float = 1.0
    speech_weight: float = 1.0
    length_normalized: bool = False
    full_precision: bool = True


@dataclass
class PairCollator(PairwiseDataCollatorWithPadding):
    """Builds a batch of all chosen, then all rejected answers, each side with its own audios."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the model inputs of a batch of pairs."""
        rows = [
            {
                **{
                    name: feature[f"{side}_{name}"]
                    for name in ("input_ids", "attention_mask", "labels")
                },
                "images": feature["images"],
                "videos": feature["videos"],
                "audios": (feature["audios"] or []) + (feature[f"{side}_audios"] or []),
            }
            for side in SIDES
            for feature in features
        ]
        batch: dict[str, Any] = MultiModalDataCollatorForSeq2Seq.__call__(self, rows)
        return batch


@dataclass(frozen=True)
class AnswerLogProbs:
    """Log-probabilities of the answers of a batch, [2 * P] each.

    Attributes:
        text, speech: weighted log-probabilities of the streams, as the loss compares them.
        mean: weighted sum of the means over the targets of each stream.
    """

    text: Tensor
    speech: Tensor
    mean: Tensor

    @property
    def total(self) -> Tensor:
        return self.text + self.speech


class PreferenceTrainer(CustomDPOTrainer):
    """Compares answers by text and speech.

    Args:
        model: the model that learns.
        ref_model: the frozen start; None with LoRA, where the adapter is switched off instead.
        settings: weights of the streams.
        **kwargs: LLaMA-Factory's.
    """

    def __init__(
        self, model: Any, ref_model: Any, settings: PreferenceSettings, **kwargs: Any
    ) -> None:
        self.settings = settings
        super().__init__(model=model, ref_model=ref_model, **kwargs)
        self.args.prediction_loss_only = True  # there are no logits to gather
        if self.ref_model is not None:
            start = self.accelerator.unwrap_model(self.ref_model)
            # Another scale of the user's audio would look like a reward of every answer.
            start.config.halve_untranscribed_audio = model.config.halve_untranscribed_audio
            if settings.full_precision:
                start.float()

    def answer_log_probs(self, model: Any, batch: dict[str, Any]) -> AnswerLogProbs:
        """Run a model over a batch and weigh the log-probabilities of its answers."""
        output = model(**batch, row_log_probs=True, use_cache=False)
        weights = self.settings.text_weight, self.settings.speech_weight
        sums = output.text_log_probs, output.speech_log_probs
        counts = output.text_target_counts, output.speech_target_counts
        # An answer without speech has a count, and a sum, of 0.
        means = [value / count.clamp(min=1) for value, count in zip(sums, counts, strict=True)]
        normalized = self.settings.length_normalized or self.loss_type in _MEANS
        text, speech = (
            weight * value
            for weight, value in zip(weights, means if normalized else sums, strict=True)
        )
        return AnswerLogProbs(text, speech, weights[0] * means[0] + weights[1] * means[1])

    def reference_log_probs(self, model: Any, batch: dict[str, Any]) -> AnswerLogProbs | None:
        """Return the log-probabilities under the frozen start; None for losses without one."""
        if not self.finetuning_args.use_ref_model:
            return None
        with torch.no_grad():
            if self.ref_model is not None:
                return self.answer_log_probs(self.ref_model, batch)
            with self.accelerator.unwrap_model(model).disable_adapter():
                return self.answer_log_probs(model, batch)

    def preference_losses(self, chosen: Tensor, rejected: Tensor, start: Tensor | None) -> Tensor:
        """Return the loss of each pair [P].

        Args:
            chosen: [P] log-probabilities of the chosen answers.
            rejected: [P].
            start: [2 * P] log-probabilities under the reference model, None for ORPO and SimPO.
        """
        if start is None:
            odds: Tensor = (
                self.odds_ratio_loss(chosen, rejected)
                if self.loss_type == "orpo"
                else self.simpo_loss(chosen, rejected)
            )
            return odds
        # LLaMA-Factory does not hand its kind of loss on, so that TRL takes the sigmoid for all.
        results = self.dpo_loss(chosen, rejected, *start.chunk(2), loss_type=self.loss_type)
        losses: Tensor = results[0]
        return losses

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Any], train_eval: Literal["train", "eval"] = "train"
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the mean loss of a batch and what is logged of it.

        Raises:
            FunAudioChatError: the loss of a training step is NaN or infinite.
        """
        batch = dict(batch)
        names = batch.pop("row_names", [])
        policy = self.answer_log_probs(model, batch)
        start = self.reference_log_probs(model, batch)
        chosen, rejected = policy.total.chunk(2)
        losses = self.preference_losses(chosen, rejected, None if start is None else start.total)
        sft_losses = -policy.mean.chunk(2)[0]
        if self.ftx_gamma > 1e-6:
            losses = losses + self.ftx_gamma * sft_losses
        loss = losses.mean()
        if train_eval == "train":
            check_finite(loss, self.state.global_step + 1, list(dict.fromkeys(names)))
        metrics = self._metrics(policy, start) | {"sft_loss": sft_losses.mean()}
        prefix = "eval_" if train_eval == "eval" else ""
        return loss, {f"{prefix}{name}": value.item() for name, value in metrics.items()}

    def _metrics(self, policy: AnswerLogProbs, start: AnswerLogProbs | None) -> dict[str, Tensor]:
        """Return mean rewards, the margins of each stream, and log-probabilities."""
        rewards = {
            name: self.beta * (value - (0 if start is None else getattr(start, name))).detach()
            for name, value in (("text", policy.text), ("speech", policy.speech))
        }
        chosen, rejected = (rewards["text"] + rewards["speech"]).chunk(2)
        metrics = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
        }
        for name, reward in rewards.items():
            one, other = reward.chunk(2)
            metrics[f"rewards/{name}_margins"] = one - other
        for side, value in zip(SIDES, policy.total.detach().chunk(2), strict=True):
            metrics[f"logps/{side}"] = value
        return {name: value.mean() for name, value in metrics.items()}


def install(config: dict[str, Any], full_precision: bool) -> None:
    """Make LLaMA-Factory's ``stage: dpo`` use collator and trainer of this module.

    Args:
        config: fields of the run; ours are taken out.
        full_precision: whether the model computes in float32.
    """
    given = {
        name: config.pop(f"pref_{name}")
        for name in ("text_weight", "speech_weight", "length_normalized")
        if f"pref_{name}" in config
    }
    settings = PreferenceSettings(**given, full_precision=full_precision)
    workflow.PairwiseDataCollatorWithPadding = PairCollator
    library.CustomDPOTrainer = partial(PreferenceTrainer, settings=settings)
