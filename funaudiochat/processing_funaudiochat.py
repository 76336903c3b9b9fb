# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn text and audio into model inputs.

Shapes: ``B`` texts, ``L`` tokens, ``N`` audios in the order of their placeholders, ``T`` speech
tokens at 25 Hz, a multiple of the group size, ``F`` mel frames at 100 Hz.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import jinja2
import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from funaudiochat.audio import load_audio
from funaudiochat.checkpoint_validation import (
    check_audio_tokens,
    check_feature_extractor,
    check_speech_tokenizer,
    check_text_tokenizer,
)
from funaudiochat.constants import (
    AUDIO_BOS_TOKEN,
    AUDIO_PAD_TOKEN,
    GROUP_SIZE,
    INPUT_RATE_HZ,
    TOKEN_FPS,
)
from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError
from funaudiochat.plain_text import encode_batch, encode_text, protect
from funaudiochat.precision import float32_only

_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_CALL_KWARGS = (
    "padding",
    "padding_side",
    "truncation",
    "max_length",
    "sampling_rate",
    "audio_padding",
)

# For checkpoints that store no template: ChatML.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, eq=False)
class AudioEntry:
    """One audio of a batch, read.

    Attributes:
        waveform: float32 [samples] at 16 kHz; None where only the speech tokens are known.
        token_ids: its speech tokens; padding tokens where only the waveform is known.
        transcript: the words spoken, "" if unknown.
    """

    waveform: np.ndarray | None
    token_ids: list[int]
    transcript: str = ""


class FunAudioChatProcessor(ProcessorMixin):
    """Tokenizes text, expands audio placeholders and computes mel features.

    Args:
        feature_extractor: Whisper's at 16 kHz, with the mel bins of the encoder (128, or 80).
        tokenizer: of the text backbone.
        speech_tokenizer: vocabulary of the speech tokens.
        audio_token, audio_bos_token, audio_eos_token, audio_pad_token: their texts.
        audio_group_size: speech tokens per placeholder; the speech tokenizer's own value wins.
        chat_template: Jinja template of a conversation.

    Raises:
        CheckpointError: the folder's ``speech_tokenizer/`` is missing or holds another tokenizer,
            a size or a token is invalid, or the text cannot be padded.
    """

    speech_tokenizer: Any

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        speech_tokenizer: Any = None,
        audio_token: str = "<|AUDIO|>",
        audio_bos_token: str = AUDIO_BOS_TOKEN,
        audio_eos_token: str = "<|audio_eos|>",
        audio_pad_token: str = AUDIO_PAD_TOKEN,
        audio_group_size: int = GROUP_SIZE,
        chat_template: str | None = None,
    ) -> None:
        if chat_template is None:
            chat_template = getattr(tokenizer, "chat_template", None) or _CHAT_TEMPLATE
        super().__init__(
            feature_extractor, tokenizer, speech_tokenizer, chat_template=chat_template
        )
        # `from_pretrained(..., padding_side="left")` means the text, and reaches all three parts.
        feature_extractor.padding_side = "right"
        check_feature_extractor(feature_extractor)
        check_text_tokenizer(tokenizer)
        check_audio_tokens(
            {
                "audio_token": audio_token,
                "audio_bos_token": audio_bos_token,
                "audio_eos_token": audio_eos_token,
                "audio_pad_token": audio_pad_token,
            }
        )
        group_size = check_speech_tokenizer(speech_tokenizer, audio_pad_token, audio_group_size)
        self.audio_token = audio_token
        self.audio_bos_token = audio_bos_token
        self.audio_eos_token = audio_eos_token
        self.audio_pad_token = audio_pad_token
        self.audio_group_size = group_size

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "attention_mask",
            "speech_ids",
            "speech_attention_mask",
            "input_features",
            "feature_attention_mask",
            "feature_exist_mask",
        ]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Any:
        """Load a folder's tokenizers and feature extractor.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except CheckpointError:
            raise
        except Exception as error:  # the tokenizers raise many kinds
            raise CheckpointError(
                f"the tokenizers of {pretrained_model_name_or_path} cannot be loaded ({error}); "
                "tokenizer files, preprocessor_config.json or the folder speech_tokenizer/ are "
                "missing or damaged: download it again with `funaudiochat download`"
            ) from error

    def __call__(  # type: ignore[override]
        self,
        text: str | list[str],
        audio: Any = None,
        sampling_rate: int = INPUT_RATE_HZ,
        audio_padding: str = "max_length",
        return_tensors: str | None = None,
        padding: bool | str = True,
        **text_kwargs: Any,
    ) -> BatchFeature:
        """Build the inputs of a batch.

        Args:
            text: one or more texts; every ``<|AUDIO|>`` stands for one audio. Words from
                outside go through :func:`funaudiochat.plain_text.protect` first.
            audio: one entry or a list: an array [samples] at 16 kHz, anything else that
                :func:`funaudiochat.audio.load_audio` takes but a plain string, or an object (dict
                or JSON text) with ``token``, the text of its speech tokens, and/or ``path``, an
                audio file. An entry whose tokens begin with the delay token is an answer and
                loads no audio.
            sampling_rate: of the arrays; resample with ``funaudiochat.audio.load_audio``.
            audio_padding: mel padding, "max_length" (30 s, inference) or "longest" (training).
            return_tensors: "pt", "np" or None for lists.
            padding: of the text tokenizer.
            **text_kwargs: further arguments of the text tokenizer.

        Returns:
            ``input_ids``, ``attention_mask`` [B, L]; with audio ``speech_ids``,
            ``speech_attention_mask`` [N, T]; with waveforms ``input_features`` [N', mels, F],
            ``feature_attention_mask`` [N', F] and ``feature_exist_mask`` [N] (N' true entries).

        Raises:
            AudioError: wrong rate, what ``load_audio`` raises, or an entry without speech tokens
                and audio.
            FunAudioChatError: no text, or placeholders and audios differ in number.
        """
        texts = [text] if isinstance(text, str) else text
        listed = isinstance(texts, list | tuple) and len(texts) > 0
        if not listed or not all(isinstance(one, str) for one in texts):
            raise FunAudioChatError(f"text must be one text or a list of texts, not {text!r:.80}")
        if sampling_rate != self.feature_extractor.sampling_rate:
            raise AudioError(
                f"the audio is declared as {sampling_rate} Hz, the model needs "
                f"{self.feature_extractor.sampling_rate} Hz; read them with "
                "funaudiochat.audio.load_audio, which resamples"
            )
        entries = [self.read_audio(entry) for entry in _as_list(audio)]
        text_kwargs.setdefault("return_token_type_ids", False)
        expanded = self.expand_placeholders(texts, entries)
        data = encode_batch(self.tokenizer, expanded, padding, **text_kwargs)
        if entries:
            data.update(self.encode_audios(entries, audio_padding))
        return BatchFeature(data, tensor_type=return_tensors)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render a conversation, or several, by the checkpoint's template.

        Args:
            conversation: messages ``{"role": ..., "content": ...}``. A content is a text, or a
                list of parts: ``{"type": "text", "text": ...}`` and ``{"type": "audio", ...}``,
                whose ``audio``, ``path`` or ``url`` is an audio as :meth:`__call__` takes it, a
                path, or a ``file:`` or ``data:`` URL. The messages are not changed.
            chat_template: a Jinja template to use instead of the checkpoint's.
            tokenize: return token ids instead of text.
            return_dict: with ``tokenize``, return all model inputs, audio features included.
            return_tensors: "pt", "np" or None for lists, with ``tokenize``.
            processor_kwargs: for :meth:`__call__`, with ``tokenize``; the usual ones (``padding``,
                ``truncation``, ``max_length``, ``sampling_rate``, ``audio_padding``) may also be
                passed directly.
            **kwargs: ``add_generation_prompt``, ``continue_final_message``, and the variables of
                the template; see transformers.

        Raises:
            CheckpointError: the folder's template is damaged or refuses the conversation.
            FunAudioChatError: a part of a content is neither text nor audio.
            AudioError: an audio cannot be used.
        """
        call_kwargs = {name: kwargs.pop(name) for name in _CALL_KWARGS if name in kwargs}
        call_kwargs |= processor_kwargs or {}
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        audios: list[Any] = []
        plain = [
            [{**m, "content": self._flatten(m.get("content"), audios)} for m in messages]
            for messages in (conversation if batched else [conversation])
        ]
        try:
            text = super().apply_chat_template(
                plain if batched else plain[0], chat_template, tokenize=False, **kwargs
            )
        except jinja2.TemplateError as error:
            raise CheckpointError(
                f"the chat template cannot be rendered ({error}); is chat_template.jinja damaged? "
                "Download the folder again with `funaudiochat download`"
            ) from error
        if not tokenize:
            return text
        inputs = self(text=text, audio=audios, return_tensors=return_tensors, **call_kwargs)
        return inputs if return_dict else inputs["input_ids"]

    def _flatten(self, content: Any, audios: list[Any]) -> Any:
        """Join a list of parts into one text with audio placeholders, and collect the audios.

        An audio gets a line of its own, as the checkpoints were trained (rule 59).
        """
        if not isinstance(content, list | tuple):
            return content
        text, after_audio = "", False
        for part in content:
            kind = "text" if isinstance(part, str) else _kind_of_part(part)
            if kind == "text":
                words = part if isinstance(part, str) else part.get("text")
                if not isinstance(words, str):
                    raise FunAudioChatError(
                        f"a text part of a message has no text; give it as 'text': {part!r:.80}"
                    )
                text += ("\n" if after_audio and words else "") + protect(self.tokenizer, words)
            else:
                audios.append(_audio_of_part(part))
                placeholder = self.audio_bos_token + self.audio_token + self.audio_eos_token
                text += ("\n" if text else "") + placeholder
            after_audio = kind == "audio" or (after_audio and not words)
        return text

    def expand_placeholders(self, texts: Sequence[str], entries: Sequence[Any]) -> list[str]:
        """Repeat every ``<|AUDIO|>`` once per group of its audio; enclose those without markers.

        Raises:
            FunAudioChatError: placeholders and audios differ in number.
        """
        placeholders = sum(text.count(self.audio_token) for text in texts)
        if placeholders != len(entries):
            raise FunAudioChatError(
                f"Found {placeholders} {self.audio_token} tokens in provided text but received "
                f"{len(entries)} audio{'s' if len(entries) != 1 else ''}"
            )
        read = (self.read_audio(entry, decode=False) for entry in entries)
        counts = iter(-(-len(entry.token_ids) // self.audio_group_size) for entry in read)
        bos, eos = self.audio_bos_token, self.audio_eos_token

        def groups(match: re.Match[str]) -> str:
            body = self.audio_token * next(counts)
            before, after = match.string[: match.start()], match.string[match.end() :]
            if before.endswith(bos) or after.startswith(eos):
                return body
            return bos + body + eos

        return [re.sub(re.escape(self.audio_token), groups, text) for text in texts]

    def encode_audios(
        self, entries: Sequence[Any], audio_padding: str = "max_length", transcripts: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the audio part of a batch; see :meth:`__call__`.

        Args:
            entries: audios, as for :meth:`__call__`.
            audio_padding: mel padding, as for :meth:`__call__`.
            transcripts: also return ``text_ids`` [N, *], the entries' ``text``, right-padded, and
                ``text_attention_mask`` [N], which of them have one (training).
        """
        read = [self.read_audio(entry) for entry in entries]
        data = dict(
            zip(
                ("speech_ids", "speech_attention_mask"),
                self._pad_tokens([entry.token_ids for entry in read]),
                strict=True,
            )
        )
        waveforms = [entry.waveform for entry in read if entry.waveform is not None]
        if waveforms:
            data["input_features"], data["feature_attention_mask"] = self._mel_features(
                waveforms, audio_padding
            )
            data["feature_exist_mask"] = np.array([e.waveform is not None for e in read])
        if transcripts:
            ids = [encode_text(self.tokenizer, entry.transcript) for entry in read]
            fill = self.tokenizer.pad_token_id
            data["text_ids"] = np.full((len(ids), max(map(len, ids))), fill, dtype=np.int64)
            for row, values in enumerate(ids):
                data["text_ids"][row, : len(values)] = values
            data["text_attention_mask"] = np.array([bool(values) for values in ids])
        return data

    def read_audio(self, entry: Any, decode: bool = True) -> AudioEntry:
        """Read one audio of a batch; one that was read before is returned as it is.

        Args:
            entry: see :meth:`__call__`.
            decode: whether a file must be decoded although its speech tokens are given.

        Raises:
            AudioError: see :meth:`__call__`.
        """
        if isinstance(entry, AudioEntry):
            return entry
        rate_hz = self.feature_extractor.sampling_rate
        if isinstance(entry, str):
            entry = _parse_entry(entry)
        transcript, tokens, stored = "", "", True
        if isinstance(entry, Mapping):
            transcript, tokens = entry.get("text") or "", entry.get("token") or ""
            if not isinstance(tokens, str) or not isinstance(transcript, str):
                raise AudioError("'token' and 'text' of an audio entry must be texts")
            stored = entry.get("array") is not None or bool(entry.get("bytes") or entry.get("path"))
            if not tokens and not stored:
                raise AudioError("an audio entry holds neither 'token' nor 'path'; give one")
        if tokens:
            ids = self.speech_tokenizer(tokens, add_special_tokens=False).input_ids
            answer = tokens.startswith(self.audio_bos_token)
            waveform = load_audio(entry, rate_hz) if stored and decode and not answer else None
            return AudioEntry(waveform, ids, transcript)
        if isinstance(entry, Mapping | tuple | bytes | bytearray | Path) or hasattr(entry, "read"):
            waveform = load_audio(entry, rate_hz)
        else:
            waveform = load_audio((entry, rate_hz), rate_hz)
        count = int(len(waveform) / rate_hz * TOKEN_FPS)
        return AudioEntry(waveform, [self.speech_tokenizer.pad_token_id] * count, transcript)

    def _pad_tokens(self, tokens: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Pad the speech tokens of every audio to whole groups: ids and mask [N, T]."""
        width = -(-max(map(len, tokens)) // self.audio_group_size) * self.audio_group_size
        ids = np.full((len(tokens), width), self.speech_tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, values in enumerate(tokens):
            ids[row, : len(values)] = values
            mask[row, : len(values)] = 1
        return ids, mask

    @float32_only()
    def _mel_features(
        self, waveforms: list[np.ndarray], padding: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute log-mel [N', mels, F] and frame mask [N', F] of waveforms.

        Every 30 s segment of a longer waveform gets a mel of its own, loudness floor included, so
        that the encoder hears all of it; the original cuts at 30 s.
        """
        segment = self.feature_extractor.n_samples

        def mel(segments: list[np.ndarray], padding: str) -> tuple[np.ndarray, np.ndarray]:
            hop, window = self.feature_extractor.hop_length, self.feature_extractor.n_fft
            longest = max(len(waveform) for waveform in segments)
            # Beyond the audio every frame holds the loudness floor, so only one such is computed.
            computed = min(segment, (-(-(longest + window) // hop) + 1) * hop)
            out = self.feature_extractor(
                segments,
                sampling_rate=self.feature_extractor.sampling_rate,
                padding=padding,
                max_length=computed if padding == "max_length" else None,
                return_attention_mask=True,
                return_tensors="np",
            )
            # With "longest" the mask may be one frame longer than the features.
            frames = min(out.input_features.shape[2], out.attention_mask.shape[1])
            features, mask = out.input_features[:, :, :frames], out.attention_mask[:, :frames]
            if padding == "max_length":
                missing = ((0, 0), (0, segment // hop - frames))
                features = np.pad(features, ((0, 0), *missing), mode="edge")
                mask = np.pad(mask, missing)
            return features, mask

        features, mask = mel([waveform[:segment] for waveform in waveforms], padding)
        rows, masks = list(features), list(mask)
        for index, waveform in enumerate(waveforms):
            rest = [
                waveform[start : start + segment]
                for start in range(segment, len(waveform), segment)
            ]
            if rest:
                more, more_mask = mel(rest, "max_length")
                rows[index] = np.concatenate([rows[index], *more], axis=1)
                masks[index] = np.concatenate([masks[index], *more_mask])
        frames = max(len(m) for m in masks)
        return (
            np.stack([np.pad(r, ((0, 0), (0, frames - r.shape[1]))) for r in rows]),
            np.stack([np.pad(m, (0, frames - len(m))) for m in masks]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the published layout has another file for the feature extractor."""
        fields = super().to_dict()
        fields.pop("feature_extractor", None)
        return fields

    def save_pretrained(
        self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write the published layout, with tokenizer files that transformers 4.x reads too."""
        files = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        folder = Path(save_directory)
        self.feature_extractor.save_pretrained(folder)
        _write_older_tokenizer_files(self.tokenizer, folder)
        _write_older_tokenizer_files(self.speech_tokenizer, folder / "speech_tokenizer")
        return files


def _kind_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text"):
        return "text"
    if kind in ("audio", "audio_url", "input_audio"):
        return "audio"
    raise FunAudioChatError(
        f"a message's content is a text or a list of text and audio parts, not {part!r:.80}; "
        'give {"type": "text", "text": ...} or {"type": "audio", "path": ...}'
    )


def _audio_of_part(part: Mapping[str, Any]) -> Any:
    """Return the audio of a part as the processor takes it."""
    keys = ("audio", "audio_url", "input_audio", "path", "url")
    found = next((part[key] for key in keys if part.get(key) is not None), None)
    if isinstance(found, Mapping) and isinstance(found.get("data"), str):  # OpenAI's input_audio
        found = "data:;base64," + found["data"]
    if isinstance(found, Mapping) and isinstance(found.get("url"), str):  # audio_url
        found = found["url"]
    if found is None:
        raise AudioError("an audio part of a message needs 'audio', 'path' or 'url'")
    if not isinstance(found, str):
        return found
    scheme = urlsplit(found).scheme
    if scheme == "data":
        try:
            return base64.b64decode(found.partition(",")[2], validate=True)
        except ValueError as error:
            raise AudioError("the data of an audio part is not base64") from error
    if scheme in ("http", "https"):
        raise AudioError(f"{found:.80} is not fetched; download it and give its path")
    return Path(url2pathname(urlsplit(found).path) if scheme == "file" else found)


def _parse_entry(text: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except json.JSONDecodeError:
        entry = None
    if not isinstance(entry, dict):
        raise AudioError(
            "an audio given as text must be a JSON object with 'token' or 'path'; to pass an audio "
            'file give {"path": FILE} or funaudiochat.audio.load_audio(FILE)'
        )
    return entry


def _as_list(audio: Any) -> list[Any]:
    """Return a list of entries; numbers, and a pair of samples and rate, are a single one."""
    if audio is None:
        return []
    if isinstance(audio, tuple) and len(audio) == 2 and np.ndim(audio[1]) == 0:
        return [audio]
    if isinstance(audio, list | tuple) and not any(isinstance(x, int | float) for x in audio[:1]):
        return list(audio)
    return [audio]


def _write_older_tokenizer_files(tokenizer: Any, folder: Path) -> None:
    """Rewrite what transformers 5 saved so that 4.x readers and other engines load it too.

    4.x refuses the class name ``TokenizersBackend`` and a list of extra special tokens, and
    reads the vocabulary of byte-level BPE from files of its own.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):
        config.pop(key, None)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    named = {getattr(tokenizer, key) for key in _NAMED_TOKENS}
    config.pop("extra_special_tokens", None)
    config["additional_special_tokens"] = [
        token.content
        for _, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.special and token.content not in named
    ]
    config["added_tokens_decoder"] = {
        str(index): {
            key: getattr(token, key)
            for key in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
        }
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
    }
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    special = {
        key: config[key] for key in (*_NAMED_TOKENS, "additional_special_tokens") if config.get(key)
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    if model["type"] == "BPE":
        added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
        (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n")
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
