# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Text and audio -> model inputs.

Shapes: ``B`` texts, ``L`` tokens, ``N`` audios in the order of their placeholders, ``T`` 25 Hz
codes, a multiple of the group size, ``F`` mel frames at 100 Hz.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from funaudiochat.audio import load_audio
from funaudiochat.errors import AudioError, CheckpointError, FunAudioChatError

CODES_PER_SECOND = 25
_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_FEATURE_SIZES = ("feature_size", "sampling_rate", "hop_length", "n_fft", "n_samples")

# For checkpoints that store no template: ChatML; content may be a list of audio and text parts.
_CHAT_TEMPLATE = (
    "{% set audios = namespace(count=0) %}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}"
    "{% set audios.count = audios.count + 1 %}"
    "Audio {{ audios.count }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class FunAudioChatProcessor(ProcessorMixin):
    """Tokenizes text, expands audio placeholders and computes mel features.

    Args:
        feature_extractor: Whisper's at 16 kHz, with the mel bins of the encoder (128, or 80).
        tokenizer: of the text backbone.
        speech_tokenizer: vocabulary of the speech codes.
        audio_token, audio_bos_token, audio_eos_token, audio_pad_token: their texts.
        audio_group_size: codes per placeholder; the speech tokenizer's own value wins.
        chat_template: Jinja template of a conversation.

    Raises:
        CheckpointError: the folder's ``speech_tokenizer/`` is missing or another tokenizer, a
            size or a token is none, or the text cannot be padded.
    """

    speech_tokenizer: Any

    def __init__(
        self,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        speech_tokenizer: Any = None,
        audio_token: str = "<|AUDIO|>",
        audio_bos_token: str = "<|audio_bos|>",
        audio_eos_token: str = "<|audio_eos|>",
        audio_pad_token: str = "<|audio_pad|>",
        audio_group_size: int = 5,
        chat_template: str | None = None,
    ) -> None:
        if chat_template is None:
            chat_template = getattr(tokenizer, "chat_template", None) or _CHAT_TEMPLATE
        super().__init__(
            feature_extractor, tokenizer, speech_tokenizer, chat_template=chat_template
        )
        sizes = {name: getattr(feature_extractor, name) for name in _FEATURE_SIZES}
        _refuse(
            "preprocessor_config.json",
            [f"{n} is {v!r}" for n, v in sizes.items() if type(v) is not int or v < 1],
        )
        # transformers makes a tokenizer without words when the folder has none.
        if tokenizer.vocab_size <= len(tokenizer.added_tokens_decoder):
            raise CheckpointError(
                "the text tokenizer knows no words: tokenizer.json, or vocab.json and merges.txt, "
                "are missing; download the folder again with `funaudiochat download`"
            )
        if tokenizer.pad_token_id is None:
            _refuse("tokenizer_config.json", [f"pad_token is {tokenizer.pad_token!r}"])
        tokens = {
            "audio_token": audio_token, "audio_bos_token": audio_bos_token,
            "audio_eos_token": audio_eos_token, "audio_pad_token": audio_pad_token,
        }
        _refuse(
            "processor_config.json",
            [f"{n} is {v!r}" for n, v in tokens.items() if not isinstance(v, str) or not v],
        )
        own = "audio_group_size" in speech_tokenizer.init_kwargs
        group_size = speech_tokenizer.init_kwargs["audio_group_size"] if own else audio_group_size
        if type(group_size) is not int or group_size < 1:
            file = "speech_tokenizer/tokenizer_config.json" if own else "processor_config.json"
            _refuse(file, [f"audio_group_size is {group_size!r}"])
        # transformers falls back to the text tokenizer when the folder has no speech tokenizer.
        if speech_tokenizer.pad_token != audio_pad_token:
            raise CheckpointError(
                f"the speech tokenizer pads with {speech_tokenizer.pad_token!r}, not with "
                f"{audio_pad_token!r}: the checkpoint's folder speech_tokenizer/ is missing or "
                "incomplete; download it again with `funaudiochat download`"
            )
        self.audio_token = audio_token
        self.audio_bos_token = audio_bos_token
        self.audio_eos_token = audio_eos_token
        self.audio_pad_token = audio_pad_token
        self.audio_group_size = group_size

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids", "attention_mask", "speech_ids", "speech_attention_mask",
            "input_features", "feature_attention_mask", "feature_exist_mask",
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
        sampling_rate: int = 16000,
        audio_padding: str = "max_length",
        return_tensors: str | None = None,
        padding: bool | str = True,
        **text_kwargs: Any,
    ) -> BatchFeature:
        """Build the inputs of a batch.

        Args:
            text: one or more texts; every ``<|AUDIO|>`` stands for one audio.
            audio: one entry or a list: a mono wave [samples] at 16 kHz, or an object (dict or
                JSON text) with ``token``, the code text, and/or ``path``, a sound file. An entry
                whose codes begin with the delay code is an answer and loads no sound.
            sampling_rate: of the waves; resample with ``funaudiochat.audio.load_audio``.
            audio_padding: mel padding, "max_length" (30 s, inference) or "longest" (training).
            return_tensors: "pt", "np" or None for lists.
            padding, **text_kwargs: go to the text tokenizer.

        Returns:
            ``input_ids``, ``attention_mask`` [B, L]; with audio ``speech_ids``,
            ``speech_attention_mask`` [N, T]; with sound ``input_features`` [N', mels, F],
            ``feature_attention_mask`` [N', F] and ``feature_exist_mask`` [N] (N' true entries).

        Raises:
            AudioError: wrong rate, wrong shape, NaN, or an entry without codes and sound.
            FunAudioChatError: no text, or placeholders and audios differ in number.
        """
        texts = [text] if isinstance(text, str) else text
        listed = isinstance(texts, list | tuple) and len(texts) > 0
        if not listed or not all(isinstance(one, str) for one in texts):
            raise FunAudioChatError(f"text must be one text or a list of texts, not {text!r:.80}")
        if sampling_rate != self.feature_extractor.sampling_rate:
            raise AudioError(
                f"the waves are said to be at {sampling_rate} Hz, the model needs "
                f"{self.feature_extractor.sampling_rate} Hz; read them with "
                "funaudiochat.audio.load_audio, which resamples"
            )
        entries = _as_list(audio)
        text_kwargs.setdefault("return_token_type_ids", False)
        expanded = self.expand_placeholders(texts, entries)
        data = dict(self.tokenizer(expanded, padding=padding, **text_kwargs))
        if entries:
            data.update(self.encode_audios(entries, audio_padding))
        return BatchFeature(data, tensor_type=return_tensors)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """A conversation as text; see transformers.

        Raises:
            CheckpointError: the folder's template is damaged or refuses the conversation.
        """
        try:
            return super().apply_chat_template(*args, **kwargs)
        except jinja2.TemplateError as error:
            raise CheckpointError(
                f"the chat template cannot be filled ({error}); is chat_template.jinja damaged? "
                "Download the folder again with `funaudiochat download`"
            ) from error

    def expand_placeholders(self, texts: Sequence[str], entries: Sequence[Any]) -> list[str]:
        """Repeat every ``<|AUDIO|>`` once per group of its audio; enclose those that stand bare.

        Raises:
            FunAudioChatError: placeholders and audios differ in number.
        """
        placeholders = sum(text.count(self.audio_token) for text in texts)
        if placeholders != len(entries):
            raise FunAudioChatError(
                f"Found {placeholders} {self.audio_token} tokens in provided text but received "
                f"{len(entries)} audio{'s' if len(entries) != 1 else ''}"
            )
        counts = iter(-(-len(self._read_entry(e)[1]) // self.audio_group_size) for e in entries)
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
        """The audio part of a batch; see :meth:`__call__`.

        Args:
            transcripts: also give ``text_ids`` [N, *], the entries' ``text``, right-padded, and
                ``text_attention_mask`` [N], which of them have one (training).
        """
        read = [self._read_entry(entry) for entry in entries]
        data = dict(
            zip(
                ("speech_ids", "speech_attention_mask"),
                self._pad_codes([ids for _, ids in read]),
                strict=True,
            )
        )
        waves = [wave for wave, _ in read if wave is not None]
        if waves:
            data["input_features"], data["feature_attention_mask"] = self._mel_features(
                waves, audio_padding
            )
            data["feature_exist_mask"] = np.array([wave is not None for wave, _ in read])
        if transcripts:
            texts = [_transcript(entry) for entry in entries]
            ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
            fill = self.tokenizer.pad_token_id
            data["text_ids"] = np.full((len(ids), max(map(len, ids))), fill, dtype=np.int64)
            for row, values in enumerate(ids):
                data["text_ids"][row, : len(values)] = values
            data["text_attention_mask"] = np.array([bool(values) for values in ids])
        return data

    def _read_entry(self, entry: Any) -> tuple[np.ndarray | None, list[int]]:
        """One entry -> its wave, or None, and its codes."""
        if isinstance(entry, str):
            try:
                entry = json.loads(entry)
            except json.JSONDecodeError:
                entry = None
            if not isinstance(entry, dict):
                raise AudioError(
                    "an audio given as text must be a JSON object with 'token' or 'path'; to "
                    "pass a sound file give {\"path\": FILE} or funaudiochat.audio.load_audio(FILE)"
                )
        wave: np.ndarray | None
        if isinstance(entry, dict):
            text, path = entry.get("token") or "", entry.get("path") or ""
            if not isinstance(text, str) or not isinstance(path, str | Path):
                raise AudioError("'token' and 'path' of an audio entry must be texts")
            if not text and not path:
                raise AudioError("an audio entry holds neither 'token' nor 'path'; give one")
            wave = None
            if path and not text.startswith(self.audio_bos_token):
                wave = load_audio(path, self.feature_extractor.sampling_rate)
            if text:
                return wave, self.speech_tokenizer(text, add_special_tokens=False).input_ids
        else:
            try:
                wave = np.asarray(entry, dtype=np.float32)
            except (TypeError, ValueError) as error:
                raise AudioError(f"a wave must be an array of numbers: {error}") from error
            if wave.ndim != 1:
                raise AudioError(
                    f"a wave must have the shape [samples], not {list(wave.shape)}; mix the "
                    "channels first, e.g. with funaudiochat.audio.load_audio"
                )
            if not np.isfinite(wave).all():
                raise AudioError("the wave holds NaN or infinite samples; check its source")
        assert wave is not None
        seconds = len(wave) / self.feature_extractor.sampling_rate
        return wave, [self.speech_tokenizer.pad_token_id] * int(seconds * CODES_PER_SECOND)

    def _pad_codes(self, codes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Codes of every audio -> ids and mask [N, T], padded on the right to whole groups."""
        width = -(-max(map(len, codes)) // self.audio_group_size) * self.audio_group_size
        ids = np.full((len(codes), width), self.speech_tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, values in enumerate(codes):
            ids[row, : len(values)] = values
            mask[row, : len(values)] = 1
        return ids, mask

    def _mel_features(
        self, waves: list[np.ndarray], padding: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Waves -> log-mel [N', mels, F] and frame mask [N', F].

        Every 30 s piece of a longer wave gets a mel of its own, loudness floor included, so the
        encoder hears all of it; the original cuts at 30 s.
        """
        piece = self.feature_extractor.n_samples
        shortest = self.feature_extractor.n_fft // 2 + 1
        if padding != "max_length" and max(map(len, waves)) < shortest:
            raise AudioError(
                f"no wave of the batch has the {shortest} samples that a spectrum needs; leave "
                "out sounds shorter than one code (40 ms)"
            )

        def mel(pieces: list[np.ndarray], padding: str) -> tuple[np.ndarray, np.ndarray]:
            out = self.feature_extractor(
                pieces, sampling_rate=self.feature_extractor.sampling_rate, padding=padding,
                return_attention_mask=True, return_tensors="np",
            )
            # With "longest" the mask may be one frame longer than the features.
            frames = min(out.input_features.shape[2], out.attention_mask.shape[1])
            return out.input_features[:, :, :frames], out.attention_mask[:, :frames]

        features, mask = mel([wave[:piece] for wave in waves], padding)
        rows, masks = list(features), list(mask)
        for index, wave in enumerate(waves):
            rest = [wave[start : start + piece] for start in range(piece, len(wave), piece)]
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
        """Settings only: the feature extractor has its own file in the published layout."""
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


def _refuse(file: str, wrong: list[str]) -> None:
    """Raise CheckpointError if anything in a file of the folder is wrong."""
    if wrong:
        raise CheckpointError(
            f"{file} is wrong: {'; '.join(wrong)}. Download the folder again with "
            "`funaudiochat download`"
        )


def _transcript(entry: Any) -> str:
    if isinstance(entry, str):
        entry = json.loads(entry)
    return (entry.get("text") or "") if isinstance(entry, dict) else ""


def _as_list(audio: Any) -> list[Any]:
    """None, one entry, or a list of entries; a list of numbers is one wave."""
    if audio is None:
        return []
    if isinstance(audio, (list, tuple)) and not any(isinstance(x, (int, float)) for x in audio[:1]):
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
        key: config[key]
        for key in (*_NAMED_TOKENS, "additional_special_tokens")
        if config.get(key)
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    if model["type"] == "BPE":
        added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
        (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n")
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
