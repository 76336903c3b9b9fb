# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Registration with the Auto classes of transformers: explicit, and safe to repeat."""

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoProcessor

from funaudiochat.configuration_funaudiochat import (
    FunAudioChatAudioEncoderConfig,
    FunAudioChatConfig,
)
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor


def register_funaudiochat() -> None:
    """Register the model type ``funaudiochat`` with the Auto classes.

    These are ``AutoConfig``, ``AutoProcessor``, ``AutoModel``, ``AutoModelForSeq2SeqLM`` and,
    where transformers has it, ``AutoModelForMultimodalLM``. Calling it again, or after another
    program registered the same model type, replaces the entry and never fails.
    """
    for config_class in (FunAudioChatAudioEncoderConfig, FunAudioChatConfig):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    multimodal = getattr(transformers, "AutoModelForMultimodalLM", None)
    for auto_class in filter(None, (AutoModel, AutoModelForSeq2SeqLM, multimodal)):
        auto_class.register(FunAudioChatConfig, FunAudioChatForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(FunAudioChatConfig, FunAudioChatProcessor, exist_ok=True)
