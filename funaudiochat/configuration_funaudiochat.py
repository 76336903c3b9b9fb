# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Configuration classes with the field names of a checkpoint's ``config.json``."""

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from funaudiochat.errors import CheckpointError
from funaudiochat.hub import refuse_adapter


class FunAudioChatAudioEncoderConfig(PretrainedConfig):
    """Settings of the mel encoder, the code encoder and the refined head.

    Defaults are those of the published 8B checkpoint where its file holds the field, and the
    original's fallbacks (``output_dim``, no code ids) where it may be missing.
    """

    model_type = "funaudiochat_audio_encoder"

    def __init__(
        self,
        num_mel_bins: int = 128,
        encoder_layers: int = 32,
        encoder_attention_heads: int = 20,
        encoder_ffn_dim: int = 5120,
        d_model: int = 1280,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation_function: str = "gelu",
        scale_embedding: bool = False,
        initializer_range: float = 0.02,
        max_source_positions: int = 1500,
        n_window: int = 100,
        output_dim: int = 3584,
        group_size: int = 5,
        codebook_size: int | None = None,
        bos_token_id: int | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        continuous_features_mode: str = "replace",
        enable_audio_invert_tower: bool = True,
        crq_transformer_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("num_hidden_layers", None)
        super().__init__(**kwargs)
        self.num_mel_bins = num_mel_bins
        self.encoder_layers = encoder_layers
        self.num_hidden_layers = encoder_layers
        self.encoder_attention_heads = encoder_attention_heads
        self.encoder_ffn_dim = encoder_ffn_dim
        self.d_model = d_model
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.activation_function = activation_function
        self.scale_embedding = scale_embedding
        self.initializer_range = initializer_range
        self.max_source_positions = max_source_positions
        self.n_window = n_window
        self.output_dim = output_dim
        self.group_size = group_size
        self.codebook_size = codebook_size
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.pad_token_id = pad_token_id
        self.continuous_features_mode = continuous_features_mode
        self.enable_audio_invert_tower = enable_audio_invert_tower
        self.crq_transformer_config = crq_transformer_config


class FunAudioChatConfig(PretrainedConfig):
    """Settings of the joint model: audio parts, text backbone and the audio placeholder id."""

    model_type = "funaudiochat"
    sub_configs = {
        "audio_config": FunAudioChatAudioEncoderConfig,
        "text_config": PretrainedConfig,
    }
    attribute_map = {"audio_token_id": "audio_token_index"}

    def __init__(
        self,
        audio_config: dict[str, Any] | PretrainedConfig | None = None,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        audio_token_index: int = 151669,
        ignore_index: int = -100,
        hidden_size: int | None = None,
        halve_untranscribed_audio: bool = True,
        **kwargs: Any,
    ) -> None:
        """``halve_untranscribed_audio``: in training, average user audio with a zero text vector,
        as the published checkpoints were trained; inference feeds it at full scale."""
        if not isinstance(audio_config, PretrainedConfig):
            audio_config = FunAudioChatAudioEncoderConfig(**(audio_config or {}))
        if not isinstance(text_config, PretrainedConfig):
            fields = dict(text_config or {})
            text_config = CONFIG_MAPPING[fields.pop("model_type", "qwen3")](**fields)
        self.audio_config: Any = audio_config
        self.text_config = text_config
        self.audio_token_index = audio_token_index
        self.ignore_index = ignore_index
        self.hidden_size = hidden_size or text_config.hidden_size
        self.halve_untranscribed_audio = halve_untranscribed_audio
        # Ties the refined head's projection to the code embedding; the text backbone follows
        # its own ``text_config.tie_word_embeddings``.
        kwargs.pop("tie_word_embeddings", None)
        super().__init__(**kwargs)
        self.tie_word_embeddings = True

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> Any:
        """Read a folder's ``config.json``.

        Raises:
            CheckpointError: there is none, it is damaged, or it is another model's.
        """
        folder = pretrained_model_name_or_path
        refuse_adapter(folder)
        try:
            fields, _ = cls.get_config_dict(folder)
        except OSError as error:
            raise CheckpointError(
                f"no readable config.json in {folder} ({error}); give the folder of a "
                "Fun-Audio-Chat checkpoint, or fetch one with `funaudiochat download`"
            ) from error
        if fields.get("model_type") != cls.model_type:
            raise CheckpointError(
                f"{folder} holds model type {fields.get('model_type')!r}, not {cls.model_type!r}; "
                "are the folders of the language model and the detokenizer swapped?"
            )
        text = fields.get("text_config")
        depth = text.get("num_hidden_layers") if isinstance(text, dict) else None
        if isinstance(depth, int) and depth > _LARGEST_DEPTH:  # the config lists its layers
            raise _wrong_config(folder, [f"text_config.num_hidden_layers is {depth}"])
        try:
            config = super().from_pretrained(folder, **kwargs)
        except Exception as error:  # the backbones' configs raise many kinds
            raise CheckpointError(
                f"config.json in {folder} cannot be understood ({error}); download the folder "
                "again with `funaudiochat download`"
            ) from error
        wrong = _faults(config[0] if isinstance(config, tuple) else config)
        if wrong:
            raise _wrong_config(folder, wrong)
        return config

    def to_dict(self) -> dict[str, Any]:
        """All fields, with rope also in the form transformers 4.x reads.

        4.x takes a config without ``rope_theta`` for one with the value 10000, silently.
        """
        fields = super().to_dict()
        text, audio = fields["text_config"], fields["audio_config"]
        head = audio.get("crq_transformer_config") or {}
        for transformer in (text, head):
            rope = transformer.get("rope_parameters")
            if isinstance(rope, dict) and "rope_theta" in rope:
                transformer["rope_theta"] = rope["rope_theta"]
                scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
                plain = scaling.get("rope_type") == "default"
                transformer["rope_scaling"] = None if plain else scaling
        return fields

    def to_diff_dict(self) -> dict[str, Any]:
        """Fields of ``config.json``, with dtype also under the name transformers 4.x reads.

        Not in :meth:`to_dict`, as 5.x looks every field up by its name to make this one of it, and
        warns of that name.
        """
        fields = super().to_diff_dict()
        audio = fields["audio_config"]
        head = audio.get("crq_transformer_config") or {}
        for part in (fields, fields["text_config"], audio, head):
            if part.get("dtype") is not None:
                part["torch_dtype"] = part["dtype"]
        return fields


_AUDIO_SIZES = (
    "num_mel_bins",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "d_model",
    "n_window",
    "output_dim",
    "group_size",
    "codebook_size",
)
_TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
# Above any real one: a damaged value must not fill the memory.
_LARGEST_SIZE, _LARGEST_DEPTH = 1 << 20, 1 << 12


def _wrong_config(folder: Any, faults: list[str]) -> CheckpointError:
    return CheckpointError(
        f"config.json in {folder} is wrong: {'; '.join(faults)}. Download the folder again "
        "with `funaudiochat download`"
    )


def _faults(config: FunAudioChatConfig) -> list[str]:
    """What in a config no model can be built from, or no answer decoded with."""
    audio, text = config.audio_config, config.text_config
    wrong = _wrong_sizes("audio_config", {name: getattr(audio, name) for name in _AUDIO_SIZES})
    # Not every backbone has all of these.
    sizes = {name: getattr(text, name, None) for name in _TEXT_SIZES}
    wrong += _wrong_sizes("text_config", {k: v for k, v in sizes.items() if v is not None})
    head = audio.crq_transformer_config
    if isinstance(head, dict) and head:
        sizes = {name: head[name] for name in _TEXT_SIZES if name in head}
        if sizes.get("num_hidden_layers") == 0:  # codes straight from the backbone: an ablation
            del sizes["num_hidden_layers"]
        wrong += _wrong_sizes("audio_config.crq_transformer_config", sizes)
    elif audio.enable_audio_invert_tower:
        wrong.append(f"audio_config.crq_transformer_config is {head!r}")
    if audio.continuous_features_mode not in ("replace", "add"):
        mode = audio.continuous_features_mode
        wrong.append(f"audio_config.continuous_features_mode is {mode!r}, not 'replace' or 'add'")
    if wrong:
        return wrong
    width, heads = audio.d_model, audio.encoder_attention_heads
    if width % 2 or width % heads:
        wrong.append(f"audio_config.d_model is {width}, which {heads} heads cannot share")
    codes = {n: getattr(audio, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokens = {
        n: getattr(text, n, None) for n in ("audio_bos_index", "audio_eos_index", "sil_index")
    }
    tokens["audio_token_index"] = config.audio_token_index
    for ids, size in ((codes, audio.codebook_size), (tokens, text.vocab_size)):
        wrong += [
            f"{name} is {value!r}, outside the vocabulary of {size}"
            for name, value in ids.items()
            if type(value) is not int or not 0 <= value < size
        ]
    return wrong


def _wrong_sizes(part: str, sizes: dict[str, Any]) -> list[str]:
    return [
        f"{part}.{name} is {size!r}"
        for name, size in sizes.items()
        if type(size) is not int
        or not 0 < size <= (_LARGEST_DEPTH if name.endswith("layers") else _LARGEST_SIZE)
    ]
