# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Configuration classes with the field names of a checkpoint's ``config.json``."""

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from funaudiochat.checkpoint_validation import check_config, check_config_fields, refuse_adapter
from funaudiochat.constants import GROUP_SIZE
from funaudiochat.errors import CheckpointError


class FunAudioChatAudioEncoderConfig(PretrainedConfig):
    """Settings of the mel encoder, the discrete encoder and the refined head.

    Defaults are those of the published 8B checkpoint where its file holds the field, and the
    original's fallbacks (``output_dim``, no speech token ids) where it may be missing.
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
        group_size: int = GROUP_SIZE,
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
        """Build the config from its parts, given as objects or as dicts.

        Args:
            audio_config: settings of the audio parts.
            text_config: settings of the text backbone; a dict without ``model_type`` is a Qwen3.
            audio_token_index: text id of the audio placeholder.
            ignore_index: label of positions without a target.
            hidden_size: width of the backbone; None takes ``text_config``'s.
            halve_untranscribed_audio: in training, average user audio with a zero text vector, as
                the published checkpoints were trained; inference feeds it at full scale.
            **kwargs: fields of every ``PretrainedConfig``.
        """
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
        # Ties the head's projection to the speech token embedding; the text backbone follows
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
            CheckpointError: the file is missing, damaged or another model's.
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
        check_config_fields(folder, fields, cls.model_type)
        try:
            config = super().from_pretrained(folder, **kwargs)
        except Exception as error:  # the backbones' configs raise many kinds
            raise CheckpointError(
                f"config.json in {folder} cannot be understood ({error}); download the folder "
                "again with `funaudiochat download`"
            ) from error
        check_config(folder, config[0] if isinstance(config, tuple) else config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, with rope also in the form transformers 4.x reads.

        4.x silently takes 10000 for a missing ``rope_theta``.
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
        """Return the fields of ``config.json``, with dtype also under the name 4.x reads.

        :meth:`to_dict` must not hold that name: 5.x looks up every field of it as an attribute to
        compute this difference, and warns about the old name.
        """
        fields = super().to_diff_dict()
        audio = fields["audio_config"]
        head = audio.get("crq_transformer_config") or {}
        for part in (fields, fields["text_config"], audio, head):
            if part.get("dtype") is not None:
                part["torch_dtype"] = part["dtype"]
        return fields
