# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The ``funaudiochat`` template and multimodal plugin of LLaMA-Factory."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from llamafactory.data.formatter import FunctionFormatter, StringFormatter, ToolFormatter
from llamafactory.data.mm_plugin import BasePlugin, get_mm_plugin, register_mm_plugin
from llamafactory.data.template import TEMPLATES, register_template
from llamafactory.extras.constants import AUDIO_PLACEHOLDER

from utils.constant import AUDIO_TEMPLATE

NAME = "funaudiochat"


@dataclass
class FunAudioChatPlugin(BasePlugin):
    """Expands placeholders and builds the audio part of a training batch.

    Audios are entries of the processor: JSON texts with ``token``, ``path`` and ``text``.
    """

    def process_messages(
        self,
        messages: Sequence[dict[str, str]],
        images: Sequence[Any],
        videos: Sequence[Any],
        audios: Sequence[Any],
        processor: Any,
    ) -> list[dict[str, str]]:
        """Repeat every placeholder once per group of its audio."""
        contents = [m["content"].replace(AUDIO_PLACEHOLDER, AUDIO_TEMPLATE) for m in messages]
        expanded = processor.expand_placeholders(contents, audios)
        return [
            {**message, "content": content}
            for message, content in zip(messages, expanded, strict=True)
        ]

    def process_token_ids(
        self,
        input_ids: list[int],
        labels: list[int] | None,
        images: Any,
        videos: Any,
        audios: Any,
        tokenizer: Any,
        processor: Any,
    ) -> tuple[list[int], list[int] | None]:
        """Nothing precedes the messages."""
        return input_ids, labels

    def get_mm_inputs(
        self,
        images: Sequence[Any],
        videos: Sequence[Any],
        audios: Sequence[Any],
        imglens: Sequence[int],
        vidlens: Sequence[int],
        audlens: Sequence[int],
        batch_ids: Sequence[list[int]],
        processor: Any,
    ) -> dict[str, torch.Tensor]:
        """Codes, mel features and aligned transcripts of all audios (rules 25-28)."""
        if not audios:
            return {}
        inputs = processor.encode_audios(audios, audio_padding="longest", transcripts=True)
        return {name: torch.as_tensor(value) for name, value in inputs.items()}


def register() -> None:
    """Make LLaMA-Factory know plugin and template; safe to repeat."""
    if NAME in TEMPLATES:
        return
    register_mm_plugin(NAME, FunAudioChatPlugin)
    user = "<|im_start|>user\n{{content}}<|im_end|>\n<|im_start|>assistant\n"
    answer = "{{content}}<|im_end|>\n"
    register_template(
        name=NAME,
        format_user=StringFormatter(slots=[user]),
        format_assistant=StringFormatter(slots=[answer]),
        format_system=StringFormatter(slots=["<|im_start|>system\n{{content}}<|im_end|>\n"]),
        format_function=FunctionFormatter(slots=[answer], tool_format="qwen"),
        format_observation=StringFormatter(
            slots=[user.replace("{{content}}", "<tool_response>\n{{content}}\n</tool_response>")]
        ),
        format_tools=ToolFormatter(tool_format="qwen"),
        stop_words=["<|im_end|>"],
        replace_eos=True,
        # For a plugin with an audio token, a batch without sound gets a made-up one, which keeps
        # the workers in step when parameters are sharded. Alone, it would only cost the head's run.
        mm_plugin=get_mm_plugin(
            NAME, audio_token="<|AUDIO|>" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
        ),
    )
