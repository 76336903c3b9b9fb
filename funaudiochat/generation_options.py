# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Settings of a decoding run: what a checkpoint or a caller may set, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from funaudiochat.errors import FunAudioChatError
from funaudiochat.top_p import TopPFilter

# The speech settings of the reference's ``sp_gen_kwargs``.
SPEECH_SWITCHES = ("text_greedy", "only_crq_sampling", "disable_speech", "force_text_abos")


@dataclass(frozen=True)
class GenerationOptions:
    """Settings of one run.

    Attributes:
        max_new_tokens: largest number of steps.
        eos_token_ids: text ids that end a row.
        pad_token_id: text id of a row after its end.
        do_sample, temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size,
            min_new_tokens: apply to text and speech tokens.
        bad_words_ids: sequences banned from the text.
        suppressed_ids: text ids that are never chosen, greedily or not.
        text_greedy: choose text by the arg-max of its logits; speech keeps the settings above.
        disable_speech: decode text only; the refined head never runs.
        force_text_abos: make the first text id the one that opens speech, with or without
            speech (rule 48).
        only_crq_sampling: return the speech tokens that the head fed back to itself; else choose
            each group once more from its five logits rows (rule 55).
    """

    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppressed_ids: tuple[int, ...] = ()
    text_greedy: bool = False
    disable_speech: bool = False
    force_text_abos: bool = False
    only_crq_sampling: bool = True

    @classmethod
    def from_config(cls, config: Any, prompt_length: int = 0, **speech: bool) -> GenerationOptions:
        """Take the settings of a transformers config.

        Args:
            config: a ``GenerationConfig``.
            prompt_length: tokens of the prompt; turns ``max_length`` and ``min_length`` into
                numbers of new tokens where the config does not give those.
            **speech: the switches of ``SPEECH_SWITCHES``.

        Raises:
            FunAudioChatError: the config asks for beam search or another setting that parallel
                decoding does not support, names no end id, or leaves no room behind the prompt.
        """
        _refuse_unsupported(config)
        # Fields that the config leaves out keep this class's default, so flags never become None.
        values = {f.name: getattr(config, f.name, None) for f in fields(cls)}
        found: dict[str, Any] = {name: v for name, v in values.items() if v is not None}
        ends = config.eos_token_id
        found["eos_token_ids"] = tuple(ends if isinstance(ends, list) else [ends])
        if ends is None:
            raise FunAudioChatError(
                "no end token id is known; pass eos_token_id or provide a generation_config.json"
            )
        found["pad_token_id"] = config.pad_token_id
        if config.pad_token_id is None:
            found["pad_token_id"] = found["eos_token_ids"][0]
        if config.max_new_tokens is None:
            longest = getattr(config, "max_length", None)
            # 20 is the default that older configs write out.
            found["max_new_tokens"] = 512 if longest in (None, 20) else longest - prompt_length
        if found["max_new_tokens"] < 1:
            raise FunAudioChatError(
                f"the prompt's {prompt_length} tokens leave no room for a reply; raise "
                "max_new_tokens or max_length"
            )
        if not config.min_new_tokens and getattr(config, "min_length", None):
            found["min_new_tokens"] = max(0, config.min_length - prompt_length)
        found["bad_words_ids"] = tuple(tuple(word) for word in config.bad_words_ids or ())
        found["do_sample"] = bool(config.do_sample)
        if config.top_k is None:
            found["top_k"] = 50  # transformers' own default
        return cls(**{**found, **speech})

    def processors(
        self, prompt_length: int, device: torch.device
    ) -> tuple[LogitsProcessorList, LogitsProcessorList]:
        """Build the logits processors of text and of speech, in transformers' own order.

        Speech gets all of them but the banned words (rule 36).

        Args:
            prompt_length: tokens of the row's prompt, without padding.
            device: of the text token ids.
        """
        text, speech = LogitsProcessorList(), LogitsProcessorList()
        both = (text, speech)
        if self.repetition_penalty not in (None, 1.0):
            _extend(both, RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.no_repeat_ngram_size:
            _extend(both, NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size))
        if self.bad_words_ids:
            words = [list(word) for word in self.bad_words_ids]
            _extend((text,), NoBadWordsLogitsProcessor(words, list(self.eos_token_ids)))
        if self.min_new_tokens:
            _extend(
                both,
                MinNewTokensLengthLogitsProcessor(
                    prompt_length, self.min_new_tokens, list(self.eos_token_ids), str(device)
                ),
            )
        if self.do_sample:
            if self.temperature not in (None, 1.0):
                _extend(both, TemperatureLogitsWarper(self.temperature))
            if self.top_k:
                _extend(both, TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1.0:
                _extend(both, TopPFilter(self.top_p))
            if self.min_p is not None:
                _extend(both, MinPLogitsWarper(self.min_p))
        return text, speech


# Settings of transformers that would change the reply: they must not be ignored silently.
_UNSUPPORTED_SETTINGS = (
    "assistant_early_exit",
    "begin_suppress_tokens",
    "constraints",
    "diversity_penalty",
    "dola_layers",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
    "exponential_decay_length_penalty",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "max_time",
    "penalty_alpha",
    "prompt_lookup_num_tokens",
    "sequence_bias",
    "stop_strings",
    "suppress_tokens",
    "top_h",
    "typical_p",
    "watermarking_config",
)
_UNSUPPORTED_OUTPUTS = (
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
_NEUTRAL: tuple[Any, ...] = (None, 0, 1, [])  # also False, 0.0 and 1.0


def _refuse_unsupported(config: Any) -> None:
    if (config.num_beams or 1) > 1:
        raise FunAudioChatError(
            "beam search cannot decode text and speech in parallel; use num_beams=1"
        )
    if (getattr(config, "num_return_sequences", None) or 1) > 1:
        raise FunAudioChatError("one answer per row is decoded; repeat the row to get more")
    forms = [name for name in _UNSUPPORTED_OUTPUTS if getattr(config, name, None)]
    if forms:
        raise FunAudioChatError(
            f"generate() returns text and speech token ids only; leave out {', '.join(forms)}"
        )
    unknown = [n for n in _UNSUPPORTED_SETTINGS if getattr(config, n, None) not in _NEUTRAL]
    if unknown:
        raise FunAudioChatError(
            f"parallel decoding of text and speech does not support {', '.join(unknown)}; leave "
            "it out, and remove it from generation_config.json"
        )


def _extend(lists: tuple[LogitsProcessorList, ...], processor: Any) -> None:
    for processors in lists:
        processors.append(processor)
