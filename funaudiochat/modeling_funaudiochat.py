# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The joint model: audio encoders, text backbone and refined head, and their losses.

Shapes: ``B`` batch, ``L`` text positions (5 Hz where they hold audio), ``G`` group size (5),
``N`` audios in the batch, ``T`` 25 Hz positions, ``H`` text width, ``C`` speech vocabulary,
``V`` text vocabulary. Paper: arXiv 2512.20156, section 2.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils.generic import ModelOutput

from funaudiochat import checkpoint_validation as validation
from funaudiochat.audio_encoders import FunAudioChatAudioEncoder, FunAudioChatDiscreteEncoder
from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.errors import CheckpointError, FunAudioChatError
from funaudiochat.generation_funaudiochat import generate
from funaudiochat.generation_options import SPEECH_SWITCHES, GenerationOptions
from funaudiochat.modeling_common import (
    FunAudioChatPreTrainedModel,
    cache_argument,
    is_packed,
    run_packed,
    sample_ids,
)
from funaudiochat.prompt_blocks import Blocks, PromptBlock, block_size, forward_in_blocks
from funaudiochat.refined_head import FunAudioChatDecoder

__all__ = [
    "FunAudioChatAudioEncoder",
    "FunAudioChatDecoder",
    "FunAudioChatDiscreteEncoder",
    "FunAudioChatForConditionalGeneration",
    "FunAudioChatGenerateOutput",
    "FunAudioChatOutput",
    "FunAudioChatPreTrainedModel",
]


POSITIONS_PER_PAIR = 64  # of a block that costs about as much as two windows of the mel encoder
LOSS_POSITIONS = 256  # whose log-probabilities are in memory at once, with `lean_losses`


class FunAudioChatForConditionalGeneration(FunAudioChatPreTrainedModel, GenerationMixin):
    """The joint model: audio in at 5 Hz, speech tokens out at 25 Hz through the refined head.

    ``sp_gen_kwargs`` holds the default speech switches of ``generate``: ``text_greedy``,
    ``only_crq_sampling``, ``disable_speech``, ``force_text_abos``. With ``lean_losses`` a
    training step projects only positions that have something to learn, and runs the head only on
    rows that have a speech token to learn: same losses and gradients, but no logits.
    """

    lean_losses = False

    main_input_name = "input_ids"
    _tied_weights_keys = {"audio_invert_tower.lm_head.weight": "audio_tower.embed_tokens.weight"}

    def __init__(self, config: FunAudioChatConfig) -> None:
        super().__init__(config)
        audio = config.audio_config
        if audio.output_dim != config.text_config.hidden_size:
            raise CheckpointError(
                f"audio_config.output_dim is {audio.output_dim}, but the backbone is "
                f"{config.text_config.hidden_size} wide; both must be equal in config.json"
            )
        self.continuous_audio_tower = FunAudioChatAudioEncoder(audio)
        self.audio_tower = FunAudioChatDiscreteEncoder(audio)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        if audio.enable_audio_invert_tower:
            self.audio_invert_tower = FunAudioChatDecoder(audio)
        else:
            self._tied_weights_keys = {}
        self.sp_gen_kwargs = {
            "text_greedy": False,
            "only_crq_sampling": True,
            "disable_speech": False,
            "force_text_abos": False,
        }
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        feature_exist_mask: Tensor | None = None,
        speech_ids: Tensor | None = None,
        speech_attention_mask: Tensor | None = None,
        text_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        disable_speech: bool = False,
        row_log_probs: bool = False,
        inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> FunAudioChatOutput:
        """Run backbone and head over whole rows; with labels, compute both losses.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L], 0/1 or, for packed rows, sample numbers from 1; or the
                block-diagonal mask [B, 1, L, L] of packed rows, 0 for visible.
            position_ids: [B, L]; packed rows always count from 0 in every sample.
            input_features: [N', mel bins, frames] of the audios that have a waveform.
            feature_attention_mask: [N', frames].
            feature_exist_mask: bool [N], which audios have features.
            speech_ids: [N, T] speech tokens of every audio.
            speech_attention_mask: [N, T], which of them are valid.
            text_ids: [N, *] transcripts (training).
            text_attention_mask: bool [N], which audios have a transcript.
            labels: [B, L].
            past_key_values: backbone cache, extended in place.
            use_cache: return a cache, a new one if none is given.
            disable_speech: do not run the head.
            row_log_probs: with labels and one sample a row, return nothing but the summed
                log-probabilities of each row's text and speech targets and their numbers;
                output matrices are applied, and the head is run, only where there are targets.
            inputs_embeds: without effect, like the rest; PEFT's wrapper names them in every call.
            output_attentions: without effect.
            output_hidden_states: without effect.
            return_dict: without effect.

        Raises:
            FunAudioChatError: placeholders and audio groups differ in number.
        """
        merged = None
        text_embeds = self.get_input_embeddings()(input_ids)
        embeds = text_embeds
        if speech_ids is not None and input_ids.shape[1] > 1 and speech_ids.numel():
            merged = self._merge_audio(
                input_ids,
                text_embeds,
                speech_ids,
                speech_attention_mask,
                input_features,
                feature_attention_mask,
                feature_exist_mask,
                text_ids,
                text_attention_mask,
            )
            embeds, text_embeds = merged.inputs_embeds, merged.text_embeds
        cache = past_key_values
        if use_cache and cache is None:
            cache = DynamicCache()
        if attention_mask is not None:
            attention_mask = sample_ids(attention_mask)
        backbone = self._run_backbone(embeds, attention_mask, position_ids, cache, use_cache)
        hidden = backbone.last_hidden_state
        if row_log_probs:
            if labels is None:
                raise FunAudioChatError("row_log_probs needs labels, which say what to sum over")
            return self._row_log_probs(
                labels, merged, hidden, text_embeds, attention_mask, position_ids
            )
        lean = self.lean_losses and self.training and labels is not None
        output = FunAudioChatOutput(
            logits=None if lean else self.language_model.lm_head(hidden),
            last_hidden_state=hidden,
            inputs_embeds=embeds,
            cache=cache,
        )
        speech_labels = None
        if labels is not None:
            text_labels, speech_labels = self._targets(labels, merged)
            targets = text_labels[:, 1:]
            if output.logits is None:
                wanted = targets != self.config.ignore_index
                chosen = self.language_model.lm_head(hidden[:, :-1][wanted])
                output.text_loss = self._cross_entropy(chosen, targets[wanted])
            else:
                output.text_loss = self._cross_entropy(output.logits[:, :-1], targets)
            if getattr(self.config.text_config, "output_router_logits", False):
                router_loss = self._router_loss(backbone.router_logits, attention_mask)
                output.text_loss = output.text_loss + router_loss
            output.loss = output.text_loss
        if disable_speech or not self.config.audio_config.enable_audio_invert_tower:
            return output
        if self.training and labels is not None and merged is None:
            return output  # Rule 32: no speech loss, so nothing would read the head's result.
        if (
            lean
            and speech_labels is not None
            and (_alone() and not bool((speech_labels != self.config.ignore_index).any()))
        ):
            return output  # Several workers stay in step instead: their parts may be sharded.
        teacher = self._teacher_embeds(speech_labels) if speech_labels is not None else None
        head_inputs = (hidden + text_embeds.detach(), attention_mask, position_ids, teacher)
        shift = self.config.audio_config.group_size
        if lean and speech_labels is not None:
            targets = self._shift(speech_labels, shift)
            wanted = targets != self.config.ignore_index
            chosen = self.audio_invert_tower(*head_inputs, wanted)
            output.speech_loss = self._cross_entropy(chosen, targets[wanted])
        else:
            output.speech_logits = self.audio_invert_tower(*head_inputs)
            if speech_labels is not None:
                output.speech_loss = self._cross_entropy(
                    output.speech_logits[:, :-shift], speech_labels[:, shift:]
                )
        if output.loss is not None and output.speech_loss is not None:
            output.loss = output.loss + output.speech_loss
        return output

    def _row_log_probs(
        self,
        labels: Tensor,
        merged: _MergedAudio | None,
        hidden: Tensor,
        text_embeds: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
    ) -> FunAudioChatOutput:
        """Sum the log-probabilities of the text and speech targets of each row."""
        ignore = self.config.ignore_index
        text_labels, speech_labels = self._targets(labels, merged)
        targets = self._shift(text_labels, 1)
        text_logits = self.language_model.lm_head(hidden[targets != ignore])
        text_sums, text_counts = self._sum_rows(text_logits, targets)
        output = FunAudioChatOutput(
            text_log_probs=text_sums,
            text_target_counts=text_counts,
            speech_log_probs=torch.zeros_like(text_sums),
            speech_target_counts=torch.zeros_like(text_counts),
        )
        if speech_labels is None or not self.config.audio_config.enable_audio_invert_tower:
            return output
        targets = self._shift(speech_labels, self.config.audio_config.group_size)
        wanted = targets != ignore
        if _alone() and not bool(wanted.any()):
            return output
        teacher = self._teacher_embeds(speech_labels)
        inputs = hidden + text_embeds.detach()
        chosen = self.audio_invert_tower(inputs, mask, positions, teacher, wanted)
        sums = self._sum_rows(chosen, targets)
        output.speech_log_probs, output.speech_target_counts = sums
        return output

    def _sum_rows(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the log-probabilities of the targets of each row.

        Args:
            logits: [targets, V] of the positions that have a target, row by row.
            targets: [B, L], the ignored index where there is none.

        Returns:
            Sums [B], in float32 or the precision of the logits if that is higher, and counts [B].
        """
        wanted = targets != self.config.ignore_index
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, targets[wanted], reduction="none")
        sums = losses.new_zeros(len(targets)).index_add(0, wanted.nonzero()[:, 0], -losses)
        return sums, wanted.sum(1)

    def _shift(self, labels: Tensor, by: int) -> Tensor:
        """Move labels [B, L] to the positions that predict them, ``by`` positions earlier."""
        return F.pad(labels[:, by:], (0, by), value=self.config.ignore_index)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **audio: Tensor,
    ) -> Blocks[Tensor]:
        """Compute the backbone's states [B, L, H] of a prompt in blocks, without projection.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L] of 0/1; None if no row is padded.
            position_ids: [B, L].
            past_key_values: backbone cache, extended in place.
            **audio: the processor's audio inputs, as in :meth:`forward`.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if audio.get("speech_ids") is not None and audio["speech_ids"].numel():
            vectors = None
            mel, frame_mask = map(audio.get, ("input_features", "feature_attention_mask"))
            if mel is not None and frame_mask is not None and len(input_ids) == 1:
                vectors = yield from self._mel_vectors(mel, frame_mask.bool())
            merged = self._merge_audio(input_ids, embeds, **audio, mel_vectors=vectors)
            embeds = merged.inputs_embeds
        hidden = yield from forward_in_blocks(
            self.language_model.model, embeds, attention_mask, position_ids, past_key_values
        )
        return hidden

    def _mel_vectors(self, mel: Tensor, frame_mask: Tensor) -> Blocks[list[Tensor]]:
        """Run the mel encoder over a few windows at a time.

        Args:
            mel: [N', mel bins, frames].
            frame_mask: bool [N', frames].

        Returns:
            Vectors [25 Hz positions, H] of each audio.
        """
        tower, found = self.continuous_audio_tower, []
        # An even number of windows, as pairs of positions are averaged.
        windows = 2 * max(1, block_size(mel.device) // POSITIONS_PER_PAIR)
        for frames, mask in zip(mel, frame_mask, strict=True):
            parts: list[Tensor] = []
            for part in frames[:, mask].split(windows * tower.window_frames, 1):
                yield PromptBlock()
                length = torch.tensor([part.shape[1]])
                count = int(tower._get_feat_extract_output_lengths(length)[1])
                # An odd last position is kept only where it is the only one.
                count = max(count, not parts)
                parts.append(tower(part, length, speech_maxlen=count).last_hidden_state[0])
            found.append(torch.cat(parts))
        return found

    def _merge_audio(
        self,
        input_ids: Tensor,
        token_embeds: Tensor,
        speech_ids: Tensor,
        speech_attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        feature_exist_mask: Tensor | None = None,
        text_ids: Tensor | None = None,
        text_attention_mask: Tensor | None = None,
        mel_vectors: list[Tensor] | None = None,
    ) -> _MergedAudio:
        """Replace the placeholders of every audio by its group vectors (rules 11-17, 27-30)."""
        audio, ignore = self.config.audio_config, self.config.ignore_index
        if speech_attention_mask is None:
            speech_attention_mask = (speech_ids != audio.pad_token_id).long()
        short = -speech_ids.shape[1] % audio.group_size
        tokens = F.pad(speech_ids, (0, short), value=audio.pad_token_id)
        valid = F.pad(speech_attention_mask.bool(), (0, short))

        features, width = None, tokens.shape[1]
        if mel_vectors is not None:
            features = torch.stack(
                [F.pad(x[:width], (0, 0, 0, max(0, width - len(x)))) for x in mel_vectors]
            )
        elif input_features is not None and feature_attention_mask is not None:
            frame_mask = feature_attention_mask.bool()
            features = self.continuous_audio_tower(
                input_features.transpose(0, 1)[:, frame_mask],
                frame_mask.sum(1),
                speech_maxlen=width,
            ).last_hidden_state
        vectors = self.audio_tower(tokens, features, feature_exist_mask).last_hidden_state
        vectors = vectors.to(token_embeds.device)

        groups = -(-valid.sum(1) // audio.group_size)
        chosen = torch.arange(vectors.shape[1], device=groups.device) < groups[:, None]
        placeholder = input_ids == self.config.audio_token_index
        if int(placeholder.sum()) != int(chosen.sum()):
            raise FunAudioChatError(
                f"the text holds {int(placeholder.sum())} audio placeholders, but the audios "
                f"have {int(chosen.sum())} groups; build both with the processor"
            )
        transcript, text_embeds = None, token_embeds
        # A batch in which no audio has a transcript comes with text ids of width 0.
        if text_ids is not None and text_ids.shape[1]:
            transcript = self._aligned_transcript(text_ids, vectors.shape[1])
            aligned = self.get_input_embeddings()(transcript)
            if text_attention_mask is not None:
                aligned = aligned * text_attention_mask[:, None, None].to(aligned.dtype)
                transcript = transcript.masked_fill(~text_attention_mask[:, None].bool(), ignore)
            mixed = (aligned + vectors) / 2
            # Every audio is halved, also those without a transcript: checkpoints were trained so.
            if text_attention_mask is not None and not self.config.halve_untranscribed_audio:
                mixed = torch.where(text_attention_mask[:, None, None].bool(), mixed, vectors)
            vectors = mixed
            text_embeds = token_embeds.masked_scatter(
                placeholder[..., None], aligned[chosen].to(token_embeds.dtype)
            )
            transcript = transcript[chosen]
        grouped = tokens.masked_fill(~valid, ignore).unflatten(1, (-1, audio.group_size))
        return _MergedAudio(
            inputs_embeds=token_embeds.masked_scatter(
                placeholder[..., None], vectors[chosen].to(token_embeds.dtype)
            ),
            text_embeds=text_embeds,
            placeholder=placeholder,
            speech_tokens=grouped[chosen],
            transcript=transcript,
        )

    def _aligned_transcript(self, text_ids: Tensor, groups: int) -> Tensor:
        """Fit transcripts [N, *] to [N, groups]; ends and padding become silence (rule 27)."""
        text = self.config.text_config
        eos, pad = text.eos_token_id, getattr(text, "pad_token_id", None)
        ids = F.pad(text_ids[:, :groups], (0, max(0, groups - text_ids.shape[1])), value=pad or eos)
        silent = ids == eos
        if pad is not None:
            silent = silent | (ids == pad)
        return ids.masked_fill(silent, text.sil_index)

    def _targets(self, labels: Tensor, merged: _MergedAudio | None) -> tuple[Tensor, Tensor | None]:
        """Return text labels [B, L] and, with audio, speech labels [B, L*G] (rules 30, 31)."""
        ignore, audio = self.config.ignore_index, self.config.audio_config
        if merged is None:
            return labels, None
        unlabelled = labels == ignore
        text = labels.masked_fill(labels == self.config.audio_token_index, ignore)
        if merged.transcript is not None:
            text = text.masked_scatter(merged.placeholder, merged.transcript)
        text = text.masked_fill(unlabelled, ignore)
        speech = labels.new_full((*labels.shape, audio.group_size), ignore)
        speech = speech.masked_scatter(merged.placeholder[..., None], merged.speech_tokens)
        speech = speech.masked_fill(unlabelled[..., None], ignore)
        ends = labels == self.config.text_config.audio_eos_index
        return text, speech.masked_fill(ends[..., None], audio.eos_token_id).flatten(1)

    def _run_backbone(
        self,
        embeds: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: Any,
        use_cache: bool,
    ) -> Any:
        """Run the backbone over whole rows [B, L, H], packed ones sample by sample."""
        if mask is not None and is_packed(mask):
            return run_packed(self.language_model.model, embeds, mask)
        return self.language_model.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=use_cache,
            **cache_argument(self.language_model.model, cache),
        )

    def _router_loss(self, router_logits: Any, mask: Tensor | None) -> Tensor:
        """Return the load-balancing loss of a mixture of experts (rule 32)."""
        experts = self.language_model
        if mask is not None and is_packed(mask):
            mask = None  # padding was not run
        balance = load_balancing_loss_func(
            router_logits, experts.num_experts, experts.num_experts_per_tok, mask
        )
        return experts.router_aux_loss_coef * balance

    def _teacher_embeds(self, speech_labels: Tensor) -> Tensor:
        """Embed the speech token before each position's target: [B, L*G, H] (rule 31).

        The roll wraps round the row and crosses packed samples; only positions without a target
        are touched by that.
        """
        audio = self.config.audio_config
        tokens = speech_labels.masked_fill(
            speech_labels == self.config.ignore_index, audio.pad_token_id
        )
        return self.audio_tower.embed_tokens(tokens).roll(1 - audio.group_size, dims=1)

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Average over valid targets in float32, 0 without any: [..., V] and [...] -> scalar.

        With ``lean_losses`` no float32 copy and no log-probabilities [..., V] are kept for the
        backward pass: they are computed again, so many positions at a time.
        """
        ignore, targets = self.config.ignore_index, targets.flatten()
        flat = logits.flatten(0, -2)

        def summed(logits: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(logits.float(), targets, ignore_index=ignore, reduction="sum")

        if self.lean_losses and self.training:
            parts = zip(flat.split(LOSS_POSITIONS), targets.split(LOSS_POSITIONS), strict=True)
            total = sum(checkpoint(summed, *part, use_reentrant=False) for part in parts)
        else:
            total = summed(flat, targets)
        return total / (targets != ignore).sum().clamp(min=1)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @property
    def device(self) -> torch.device:
        """Device for the inputs; parts on the disk have none."""
        here = (p.device for p in self.parameters() if not p.is_meta)
        return next(here, super().device)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        config: Any = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint folder strictly, from safetensors only.

        A ``quantization_config`` of transformers that names no modules to leave out acts on the
        text backbone alone.

        Raises:
            CheckpointError: not a Fun-Audio-Chat folder, or tensors are missing, unexpected,
                damaged, not floats or of another shape, or ``generation_config.json`` is wrong;
                the message names them.
            FunAudioChatError: ``device_map`` puts weights that two parts share on the disk.
        """
        folder = pretrained_model_name_or_path
        if config is None:
            config = FunAudioChatConfig.from_pretrained(folder)
        validation.check_generation_file(folder, config.text_config.vocab_size)
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = _of_backbone(kwargs["quantization_config"])
        kwargs["use_safetensors"] = True
        kwargs["ignore_mismatched_sizes"] = True  # reported below, by name
        try:
            not_floats: list[str] = []
            if not hasattr(config, "quantization_config"):
                stored, not_floats = validation.stored_weights(folder)
                with torch.device("meta"):
                    planned = cls(config)
                validation.check_parameter_count(planned, stored)
                validation.check_shared_weights(planned, kwargs.get("device_map") or {})
            loaded: Any = super().from_pretrained(
                folder, *args, config=config, output_loading_info=True, **kwargs
            )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the weights in {folder} cannot be read ({error}); a file is missing or was cut "
                "off: download the folder again with `funaudiochat download`"
            ) from error
        except FunAudioChatError:
            raise
        except ImportError as error:
            raise FunAudioChatError(
                f"{error} Install the package, or leave out the option that needs it"
            ) from error
        except Exception as error:  # the backbones raise many kinds
            raise CheckpointError(
                f"no model can be built from config.json in {folder} with the options given "
                f"({error}); check them, or download the folder again with `funaudiochat download`"
            ) from error
        model, info = loaded
        validation.check_loaded_tensors(folder, info, not_floats)
        if kwargs.get("device_map"):
            validation.check_shared_weights(model)
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, generation_config: Any = None, streamer: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor] | FunAudioChatGenerateOutput:
        """Decode text and speech in parallel.

        Args:
            generation_config: settings; None takes the checkpoint's own, which also provides the
                end and padding ids that a given config does not name.
            streamer: see :func:`funaudiochat.generation_funaudiochat.generate`.
            **kwargs: the processor's outputs, settings that replace the config's, and the speech
                switches ``text_greedy``, ``only_crq_sampling``, ``disable_speech`` and
                ``force_text_abos``, which replace those of ``sp_gen_kwargs`` for this call.

        Returns:
            Text token ids [B, L + steps] with the prompt, and speech token ids [B, G * groups],
            shorter rows filled with the padding token; width 0 if no row has speech. With
            ``return_dict_in_generate=True`` a :class:`FunAudioChatGenerateOutput` of the two.

        Raises:
            FunAudioChatError: the prompt or the audio of a placeholder is missing, or a setting
                is unknown or not supported.
        """
        given = {name: kwargs.pop(name, None) for name in _MODEL_INPUTS}
        inputs = {name: value for name, value in given.items() if value is not None}
        if "input_ids" not in inputs:
            raise FunAudioChatError("generate() needs input_ids; give what the processor returns")
        placeholders = bool((inputs["input_ids"] == self.config.audio_token_index).any())
        if placeholders and "speech_ids" not in inputs:
            raise FunAudioChatError(
                "the text holds audio placeholders and no audio was given; build both with the "
                "processor"
            )
        own = {name: kwargs.pop(name) for name in SPEECH_SWITCHES if name in kwargs}
        switches = {**self.sp_gen_kwargs, **{k: v for k, v in own.items() if v is not None}}
        settings = copy.deepcopy(generation_config or self.generation_config)
        for name in ("eos_token_id", "pad_token_id"):
            if getattr(settings, name) is None:
                setattr(settings, name, getattr(self.generation_config, name))
        unknown = settings.update(**kwargs)
        if unknown:
            raise FunAudioChatError(f"generate() knows no setting or input named {sorted(unknown)}")
        length = inputs["input_ids"].shape[1]
        options = GenerationOptions.from_config(settings, length, **switches)
        sequences, speech = generate(self, inputs, options, streamer=streamer)
        pad = self.config.audio_config.pad_token_id
        speech_ids = nn.utils.rnn.pad_sequence(speech, batch_first=True, padding_value=pad)
        if settings.return_dict_in_generate:
            return FunAudioChatGenerateOutput(sequences=sequences, speech_ids=speech_ids)
        return sequences, speech_ids


@dataclass
class FunAudioChatOutput(ModelOutput):
    """Result of a forward pass; losses are None without labels.

    Attributes:
        loss: text loss plus speech loss, scalar.
        text_loss, speech_loss: mean cross-entropies, scalars; the text loss with the router's
            if the backbone is a mixture of experts that asks for it.
        logits: [B, L, V], None where only the losses were wanted.
        speech_logits: [B, L*G, C], None when the head did not run or only ran for its loss.
        last_hidden_state: [B, L, H] after the backbone's final norm.
        inputs_embeds: [B, L, H] merged backbone input.
        cache: of the backbone, None without one; ``past_key_values`` is its older name.
        text_log_probs, speech_log_probs: [B] sums over the targets of each row; like the next two
            only with ``row_log_probs``.
        text_target_counts, speech_target_counts: [B] how many targets were summed.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    speech_loss: Tensor | None = None
    logits: Tensor | None = None
    speech_logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    inputs_embeds: Tensor | None = None
    # transformers 5.24 gave this field its new name and renames it in every output class.
    cache: Any = None
    text_log_probs: Tensor | None = None
    speech_log_probs: Tensor | None = None
    text_target_counts: Tensor | None = None
    speech_target_counts: Tensor | None = None

    @property
    def past_key_values(self) -> Any:
        return self.cache


@dataclass
class FunAudioChatGenerateOutput(ModelOutput):
    """Result of :meth:`FunAudioChatForConditionalGeneration.generate` as a dictionary.

    Attributes:
        sequences: [B, L + steps] text token ids with the prompt.
        speech_ids: [B, G * groups] speech token ids, shorter rows filled with the padding token.
    """

    sequences: Tensor | None = None
    speech_ids: Tensor | None = None


@dataclass
class _MergedAudio:
    """Result of merging the audios of a batch, for the backbone and for the losses."""

    inputs_embeds: Tensor  # [B, L, H]
    text_embeds: Tensor  # [B, L, H] the text term of rule 19
    placeholder: Tensor  # bool [B, L]
    speech_tokens: Tensor  # [placeholders, G]; ignore index where there is no speech token
    transcript: Tensor | None  # [placeholders] text targets; ignore index where there is none


_MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "input_features",
    "feature_attention_mask",
    "feature_exist_mask",
    "speech_ids",
    "speech_attention_mask",
)


def _alone() -> bool:
    """Return whether this process trains without others."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_world_size() == 1
    )


def _of_backbone(quantization_config: Any) -> Any:
    """Copy the settings so that they quantise nothing but the backbone's layers."""
    settings = copy.deepcopy(quantization_config)
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if hasattr(settings, name) and not getattr(settings, name):
            kept = ["continuous_audio_tower", "audio_tower", "audio_invert_tower", "lm_head"]
            setattr(settings, name, kept)
    return settings
