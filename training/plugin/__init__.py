# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The ``funaudiochat`` template and multimodal plugin of LLaMA-Factory.

Text of a row is text: only the whole placeholder of an audio (``AUDIO_TEMPLATE`` of
``funaudiochat.constants``) in a message becomes control tokens, and only the template writes the
others. In what a user or a tool says, not even tokens that are not special (``<tool_call>``) are
spelled, as in a conversation.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from llamafactory.data.formatter import FunctionFormatter, StringFormatter, ToolFormatter
from llamafactory.data.mm_plugin import BasePlugin, get_mm_plugin, register_mm_plugin
from llamafactory.data.template import TEMPLATES, Template, register_template
from llamafactory.extras.constants import AUDIO_PLACEHOLDER

from funaudiochat.audio import load_audio
from funaudiochat.constants import AUDIO_BOS_TOKEN, AUDIO_PAD_TOKEN, AUDIO_TEMPLATE, TOKEN_FPS
from funaudiochat.errors import AudioError, FunAudioChatError
from funaudiochat.plain_text import encode, protect
from training.check_data import DEFAULT_SYSTEM, TOLERATED_TOKENS
from training.plugin.rows import REMEDY, check_rows

NAME = "funaudiochat"
# For rows that spell control tokens in their own text, as Nano's typed stand-ins for audio do.
CONTROL_NAME = f"{NAME}_control"
# Lone surrogates stand for the control tokens of an audio between plugin and template: a data set
# holds UTF-8, in which there are none, so no text of a row can spell them.
# Two more enclose what a user or a tool says, which is encoded as in a conversation.
_BOS, _GROUP, _EOS, _WORDS_OPEN, _WORDS_CLOSE = map(chr, range(0xDC00, 0xDC05))
_MARKS = {_BOS: "<|audio_bos|>", _GROUP: "<|AUDIO|>", _EOS: "<|audio_eos|>"}
_AUDIOS = re.compile(f"([{_BOS}{_GROUP}{_EOS}]+)")
_WORDS = re.compile(f"{_WORDS_OPEN}(.*?){_WORDS_CLOSE}", re.DOTALL)
_SAID = f"{_WORDS_OPEN}{{{{content}}}}{_WORDS_CLOSE}"


@dataclass
class FunAudioChatTemplate(Template):
    """Encodes slots of text as plain text.

    Args:
        control_tokens_in_text: whether control tokens in the text of rows are control tokens.
    """

    control_tokens_in_text = False

    def _convert_elements_to_ids(self, tokenizer: Any, elements: Any) -> list[int]:
        ids: list[int] = []
        for element in elements:
            if not isinstance(element, str):
                ids += super()._convert_elements_to_ids(tokenizer, [element])
                continue
            if self.control_tokens_in_text:
                element = _WORDS.sub(r"\1", element)
            elif _WORDS_OPEN in element:
                ids += encode(tokenizer, _WORDS.sub(partial(_spelled, tokenizer), element))
                continue
            for part in _AUDIOS.split(element):
                if part and part[0] in _MARKS:
                    ids += tokenizer.convert_tokens_to_ids([_MARKS[mark] for mark in part])
                else:
                    ids += tokenizer.encode(
                        part,
                        add_special_tokens=False,
                        split_special_tokens=not self.control_tokens_in_text,
                    )
        return ids


def _spelled(tokenizer: Any, words: re.Match[str]) -> str:
    """Return what somebody says for a prompt: text protected, audios as control tokens."""
    return "".join(
        "".join(_MARKS[mark] for mark in part) if index % 2 else protect(tokenizer, part)
        for index, part in enumerate(_AUDIOS.split(words[1]))
    )


class ControlTemplate(FunAudioChatTemplate):
    """Encodes control tokens in the text of rows as control tokens."""

    control_tokens_in_text = True


@dataclass
class UserFormatter(StringFormatter):
    """Fills in the content alone; ``{{idx}}`` in a user's words stays as it is."""

    def apply(self, **kwargs: Any) -> Any:
        return super().apply(content=kwargs["content"])


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
        """Replace every placeholder by the marks of its audio, one a group.

        Raises:
            FunAudioChatError: placeholders and audios differ in number, or an audio cannot be
                read.
        """
        if audios and not isinstance(audios[0], str):
            # The made-up audio of a batch without one, whose message skips the template.
            contents = [m["content"].replace(AUDIO_PLACEHOLDER, AUDIO_TEMPLATE) for m in messages]
            expanded = processor.expand_placeholders(contents, audios)
            return [{**m, "content": c} for m, c in zip(messages, expanded, strict=True)]
        found = sum(message["content"].count(AUDIO_TEMPLATE) for message in messages)
        if found != len(audios):
            raise FunAudioChatError(
                f"has {len(audios)} audio entries for {found} placeholders {AUDIO_TEMPLATE} in "
                "the messages; give one for each, in their order"
            )
        counts = (_group_count(entry, processor) for entry in audios)

        def marks(_: re.Match[str]) -> str:
            return _BOS + _GROUP * next(counts) + _EOS

        placeholder = re.compile(re.escape(AUDIO_TEMPLATE))
        return [{**m, "content": placeholder.sub(marks, m["content"])} for m in messages]

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
    ) -> dict[str, Any]:
        """Return speech tokens, mel features and aligned transcripts of all audios (rules 25-28).

        ``row_names`` are the names of the rows, which come as images.

        Raises:
            AudioError: an audio cannot be read; it names the rows of the batch.
        """
        named: dict[str, Any] = {"row_names": list(images)} if images else {}
        if not audios:
            return named
        entries = [read_entry(audio) if isinstance(audio, str) else audio for audio in audios]
        try:
            inputs = processor.encode_audios(entries, audio_padding="longest", transcripts=True)
        except AudioError as error:
            for entry in entries:
                _name_row(entry, processor)
            raise AudioError(f"{error}; {REMEDY}") from error
        return named | {name: torch.as_tensor(value) for name, value in inputs.items()}


def read_entry(entry: Any) -> dict[str, Any]:
    """Return the fields of an audio entry; ``wav_path`` is another name of ``path``.

    Raises:
        AudioError: it is not a JSON text of an object.
    """
    try:
        fields = json.loads(entry)
    except (TypeError, ValueError):
        fields = None
    if not isinstance(fields, dict):
        raise AudioError(f"an audio entry must be a JSON text of an object, not {entry!r:.80}")
    return {**fields, "path": fields.get("path") or fields.get("wav_path") or ""}


def _name_row(entry: Any, processor: Any) -> None:
    """Raise AudioError, naming the row, if the audio of an entry cannot be read."""
    try:
        read_audio(entry, processor)
    except AudioError as error:
        raise AudioError(f"{entry.get('row', 'a row')}: {error}; {REMEDY}") from error


def _group_count(entry: Any, processor: Any) -> int:
    """Count the groups of an audio; it is decoded only where its tokens are not stated."""
    fields = read_entry(entry)
    token = fields.get("token") or ""
    if token and isinstance(token, str):
        count = len(processor.speech_tokenizer(token, add_special_tokens=False).input_ids)
    else:
        rate_hz = processor.feature_extractor.sampling_rate
        count = int(len(load_audio(fields["path"], rate_hz)) / rate_hz * TOKEN_FPS)
    return -(-count // processor.audio_group_size)


def read_audio(entry: Any, processor: Any) -> None:
    """Read the audio of an entry as training will.

    Raises:
        AudioError: it cannot be read, or is not as long as its tokens say.
    """
    fields = read_entry(entry) if isinstance(entry, str) else entry
    token, rate_hz = str(fields.get("token") or ""), processor.feature_extractor.sampling_rate
    if token.startswith(AUDIO_BOS_TOKEN):
        return
    seconds = len(load_audio(fields["path"], rate_hz)) / rate_hz
    stated = token.count(AUDIO_PAD_TOKEN)
    if token and abs(stated - seconds * TOKEN_FPS) > TOLERATED_TOKENS:
        raise AudioError(f"{fields['path']} has {seconds:.2f} s, not the {stated} tokens stated")


def register(skip_bad_rows: bool = False) -> None:
    """Make LLaMA-Factory know plugin and templates; safe to repeat.

    Args:
        skip_bad_rows: whether rows that cannot be used are left out, not refused.
    """
    check_rows(skip_bad_rows, read_audio)
    if NAME in TEMPLATES:
        return
    register_mm_plugin(NAME, FunAudioChatPlugin)
    start, end = {"token": "<|im_start|>"}, {"token": "<|im_end|>"}
    answer = ["{{content}}", end, "\n"]

    def user(content: str) -> list[Any]:
        return [start, f"user\n{content}", end, "\n", start, "assistant\n"]

    for name, template in ((NAME, FunAudioChatTemplate), (CONTROL_NAME, ControlTemplate)):
        register_template(
            name=name,
            format_user=UserFormatter(slots=user(_SAID)),
            format_assistant=StringFormatter(slots=answer),
            format_system=StringFormatter(slots=[start, "system\n{{content}}", end, "\n"]),
            format_function=FunctionFormatter(slots=answer, tool_format="qwen"),
            format_observation=StringFormatter(
                slots=user(f"<tool_response>\n{_SAID}\n</tool_response>")
            ),
            format_tools=ToolFormatter(tool_format="qwen"),
            default_system=DEFAULT_SYSTEM,
            stop_words=["<|im_end|>"],
            replace_eos=True,
            # For a plugin with an audio token, a batch without audio gets a dummy one, which
            # keeps the workers in step when parameters are sharded. Alone, it would only cost the
            # head's run.
            mm_plugin=get_mm_plugin(
                NAME, audio_token="<|AUDIO|>" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None
            ),
            template_class=template,
        )
