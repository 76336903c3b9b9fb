# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The refined head: 25 Hz speech tokens from the backbone's 5 Hz states.

Shapes: ``B`` rows, ``L`` or ``S`` 5 Hz positions, ``G`` group size (5), ``H`` text width, ``C``
speech vocabulary.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, DynamicCache, PretrainedConfig
from transformers.utils.generic import ModelOutput

from funaudiochat import decoder_kernel
from funaudiochat.compact_weights import CompactLinear
from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.decoder_stack import (
    Positions,
    Prefix,
    advance_together,
    follow,
    kernel_rows,
    known_prompt,
)
from funaudiochat.errors import CheckpointError
from funaudiochat.modeling_common import (
    FunAudioChatPreTrainedModel,
    cache_argument,
    is_packed,
    run_packed,
)
from funaudiochat.prompt_blocks import (
    PRODUCT_BLOCKS,
    Blocks,
    PromptBlock,
    block_size,
    forward_in_blocks,
    spans,
)


class FunAudioChatDecoder(FunAudioChatPreTrainedModel):
    """Refined head: widens each 5 Hz hidden state to G positions that predict speech tokens."""

    config_class = FunAudioChatAudioEncoderConfig

    def __init__(self, config: Any) -> None:
        """Build the head from our config, or an engine's own with the same fields as attributes."""
        if not isinstance(config, PretrainedConfig):
            names = signature(FunAudioChatAudioEncoderConfig.__init__).parameters
            fields = {name: getattr(config, name) for name in names if hasattr(config, name)}
            config = FunAudioChatAudioEncoderConfig(**fields)
        super().__init__(config)
        fields = dict(config.crq_transformer_config or {})
        attention = fields.pop("_attn_implementation", None) or config._attn_implementation
        head_config = CONFIG_MAPPING[fields.pop("model_type", "qwen3")](**fields)
        width, head_width = config.output_dim, head_config.hidden_size
        self.group_size = config.group_size
        self.pre_matching = nn.Linear(width, width * config.group_size)
        self.input_matching = nn.Linear(width, head_width, bias=False)
        self.crq_transformer = AutoModel.from_config(head_config, attn_implementation=attention)
        # The head is only ever fed vectors; the checkpoint holds no token embedding for it.
        self.crq_transformer.embed_tokens = None
        self.output_matching = nn.Linear(head_width, width, bias=False)
        if config.codebook_size is None:
            raise CheckpointError("config.json needs audio_config.codebook_size")
        self.lm_head = nn.Linear(width, config.codebook_size, bias=False)
        self.start_token = config.bos_token_id
        self.crq_do_sample = False
        self.crq_release()
        self.post_init()

    def expand(self, hidden: Tensor) -> Tensor:
        """Widen every 5 Hz position to its G fine positions: [B, S, H] -> [B, S*G, H]."""
        return self.pre_matching(hidden).unflatten(-1, (self.group_size, -1)).flatten(1, 2)

    def prompt(
        self,
        hidden: Tensor,
        start_tokens: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Blocks[tuple[Tensor, Positions]]:
        """Run the prompt, up to the first speech token's own position (rule 44).

        Args:
            hidden: [B, S, H], hidden state plus text embedding of its 5 Hz positions.
            start_tokens: [B], added to every fine position.
            attention_mask: [B, S * G], rows padded on the left; None without padding.
            position_ids: [B, S * G] fine positions, with a mask.
            prefix: fine positions before these.

        Returns:
            Logits [B, C] of the first speech token in float32, and the positions to continue from.
        """
        start = self._before(start_tokens)[:, None]
        parts: list[Tensor] = []
        stop = 1 - self.group_size or None
        for span in spans(hidden.shape[1], PRODUCT_BLOCKS * block_size(hidden.device)):
            if parts:
                yield PromptBlock()
            fine = self.expand(hidden[:, span])
            fine = fine[:, :stop] if span.stop == hidden.shape[1] else fine
            parts.append(self.input_matching(fine + start))
        embeds = torch.cat(parts, 1)
        known = None
        if attention_mask is None:
            known = known_prompt(self.crq_transformer, embeds, prefix)
        if known is not None:
            last, positions = yield from known
            return self._logits(last), positions
        cache = DynamicCache() if prefix is None else prefix.cache()
        mask, places = (None if x is None else x[:, :stop] for x in (attention_mask, position_ids))
        out = yield from forward_in_blocks(self.crq_transformer, embeds, mask, places, cache)
        logits = self._logits(out[:, -1])
        if prefix is not None:
            return logits, prefix.followed(cache)
        return logits, follow(self.crq_transformer, cache, mask)

    def next_tokens(
        self,
        fine: Tensor,
        last_tokens: Tensor,
        positions: Sequence[Positions],
        choices: Sequence[Sequence[decoder_kernel.Choice]],
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Choose the next speech tokens, or as many as can be chosen here (rules 44, 45).

        Args:
            fine: [B, S, H] expanded positions of the next speech tokens.
            last_tokens: [B] the speech token before.
            positions: of the rows in this head, batch by batch; advanced by every pass made.
            choices: of the same batches, one for each row.

        Returns:
            Per batch, the tokens chosen [rows, n] and, where the next one is left to the caller,
            its logits [rows, C] in float32; a batch may also stop early for the sake of others.
        """
        sizes = [len(own) for own in choices]
        linears = (self.input_matching, self.output_matching, self.lm_head)
        rows = kernel_rows(positions, fine.shape[1]) if all(map(_multiplies, linears)) else None
        if rows is None:
            embeds = self.input_matching(fine[:, 0] + self._before(last_tokens))
            logits = self._logits(advance_together(positions, embeds))
            none = last_tokens.new_empty(len(logits), 0)
            return list(zip(none.split(sizes), logits.split(sizes), strict=True))
        every = [choice for own in choices for choice in own]
        head = decoder_kernel.Head(*map(decoder_kernel.Matrix.of, linears))
        fine, count = fine.contiguous(), fine.shape[1]
        tokens = last_tokens.new_empty(len(every), count + 1)
        tokens[:, 0] = last_tokens
        logits = fine.new_empty(len(every), self.lm_head.out_features)
        chosen = rows.kernel.choose_group(
            rows.stack, head, rows.rows, (decoder_kernel.Choice * len(every))(*every),
            fine.data_ptr(), tokens.data_ptr(), logits.data_ptr(),
            len(every), count, torch.get_num_threads(),
        )  # fmt: skip
        rows.count(min(chosen + 1, count))
        tokens = tokens[:, 1:]
        if chosen == count:
            return [(own, None) for own in tokens.split(sizes)]
        return [
            (own[:, :chosen], scores)
            if -1 in own[:, chosen].tolist()
            else (own[:, : chosen + 1], None)
            for own, scores in zip(tokens.split(sizes), logits.split(sizes), strict=True)
        ]

    def _before(self, tokens: Tensor) -> Tensor:
        head: Any = self.lm_head
        if isinstance(head, CompactLinear):
            return head.rows(tokens)
        return F.embedding(tokens.to(head.weight.device), head.weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(self.output_matching(hidden)).float()

    def crq_release(self) -> None:
        """Drop the state of a request that an engine drives by :meth:`crq_generate_forward`."""
        self.crq_audio_embeds: Tensor | None = None
        self.crq_past_key_values: Any = None
        self.crq_logits_processor: Any = None
        self.crq_speech_ids: Tensor | None = None
        self.crq_generate_tokens: Any = None
        self.crq_generator: torch.Generator | None = None

    @torch.no_grad()
    def crq_generate_forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_dict: bool = True,
    ) -> ModelOutput:
        """Choose one group for an engine that keeps the request's state itself.

        The engine writes ``crq_audio_embeds``, ``crq_past_key_values``, ``crq_speech_ids`` and
        the sampling settings before the call and reads the first two and
        ``crq_generate_tokens`` [B, G] after it. Our own decoding never uses these attributes.

        Args:
            inputs_embeds: [B, S, H], hidden state plus text embedding; S is the prompt's length
                in the first call, then 1.
            attention_mask: accepted, without effect.
            position_ids: accepted, without effect.
            return_dict: accepted, without effect.
        """
        fine, group = self.expand(inputs_embeds), self.group_size
        cache = self.crq_past_key_values
        if cache is None:
            cache = self.crq_past_key_values = DynamicCache()
        embeds = self.crq_audio_embeds
        if embeds is None:
            embeds = self._before(torch.full((len(fine), 1), self.start_token))
        self.crq_generate_tokens = []
        start, scores = 0, []
        for stop in range(fine.shape[1] - group + 1, fine.shape[1] + 1):
            out = self.crq_transformer(
                inputs_embeds=self.input_matching(fine[:, start:stop] + embeds),
                use_cache=True,
                **cache_argument(self.crq_transformer, cache),
            ).last_hidden_state
            start = stop
            tokens, logits = self.sampling_step(
                self.lm_head(self.output_matching(out[:, -1])).float()
            )
            tokens = tokens.reshape(-1)
            self.crq_generate_tokens.append(tokens)
            scores.append(logits)
            embeds = self._before(tokens)[:, None]
        self.crq_audio_embeds = embeds
        self.crq_generate_tokens = torch.stack(self.crq_generate_tokens, dim=1)
        return ModelOutput(logits=torch.stack(scores, dim=1), past_key_values=cache)

    def sampling_step(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a speech token: logits [B, C] -> ids [B] and the processed scores [B, C]."""
        if self.crq_logits_processor is not None:
            parts = [token[:, None] for token in self.crq_generate_tokens]
            if self.crq_speech_ids is not None:
                parts.insert(0, self.crq_speech_ids)
            ids = torch.cat(parts, 1) if parts else logits.new_empty(len(logits), 0).long()
            logits = self.crq_logits_processor(ids, logits)
        if not self.crq_do_sample:
            return logits.argmax(-1), logits
        tokens = torch.multinomial(logits.softmax(-1), 1, generator=self.crq_generator)
        return tokens[:, 0], logits

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        teacher_embeds: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of all positions at once (rules 20, 21, 33).

        Args:
            inputs_embeds: [B, L, H].
            attention_mask: [B, L], 0/1 or the sample numbers of packed rows.
            position_ids: [B, L] coarse positions.
            teacher_embeds: [B, L*G, H], each the speech token before the position's target.
            wanted: bool [B, L*G]; rows without a wanted position are not run.

        Returns:
            Logits [B, L*G, C], or [wanted positions, C].
        """
        group = self.group_size
        if wanted is not None:
            rows = wanted.any(1)
            rows[0] |= ~rows.any()  # A batch of no rows is nothing a transformer takes.
            inputs_embeds, wanted = inputs_embeds[rows], wanted[rows]
            attention_mask, position_ids, teacher_embeds = (
                None if x is None else x.expand(len(rows), -1, *x.shape[2:])[rows]
                for x in (attention_mask, position_ids, teacher_embeds)
            )
        hidden = self.expand(inputs_embeds)
        if teacher_embeds is not None:
            hidden = hidden + teacher_embeds
        hidden = self.input_matching(hidden)
        mask = attention_mask
        if mask is not None:
            mask = mask.repeat_interleave(group, dim=1)
        if position_ids is not None:
            position_ids = self._fine_positions(position_ids)
        if mask is not None and is_packed(mask):
            output = run_packed(self.crq_transformer, hidden, mask)
        else:
            output = self.crq_transformer(
                inputs_embeds=hidden,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=False,
            )
        hidden = output.last_hidden_state
        if wanted is not None:
            hidden = hidden[wanted]
        return self.lm_head(self.output_matching(hidden))

    def _fine_positions(self, position_ids: Tensor) -> Tensor:
        """Return G*p + j, [B, L] -> [B, L*G]; the tail after the last non-zero position gets 0."""
        offsets = torch.arange(self.group_size, device=position_ids.device)
        fine = position_ids[:, :, None] * self.group_size + offsets
        remaining = (position_ids != 0).flip(1).cumsum(1).flip(1) > 0
        return (fine * remaining[:, :, None]).flatten(1)


def _multiplies(linear: nn.Module) -> bool:
    """Return whether a module does nothing but multiply, by weights that the kernel knows."""
    hooks = (linear._forward_hooks, linear._forward_pre_hooks, getattr(linear, "_hf_hook", None))
    weight: Any = linear.weight
    return (
        type(linear) in (nn.Linear, CompactLinear)
        and not any(hooks)
        and weight.dtype in decoder_kernel.KINDS
        and weight.device.type == "cpu"
    )
