# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The dual-resolution model: mel encoder, code encoder, refined head and the joint model.

Shapes: ``B`` batch, ``L`` text positions (5 Hz where they hold audio), ``G`` group size (5),
``N`` audios in the batch, ``T`` 25 Hz positions, ``H`` text width, ``C`` codebook size,
``V`` text vocabulary. Paper: arXiv 2512.20156, section 2.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from funaudiochat.configuration_funaudiochat import (
    FunAudioChatAudioEncoderConfig,
    FunAudioChatConfig,
)
from funaudiochat.errors import CheckpointError
from funaudiochat.generation_funaudiochat import GenerationOptions, generate


@dataclass
class FunAudioChatOutput(ModelOutput):
    """Result of a forward pass; losses are None without labels.

    Attributes:
        loss: text loss plus speech loss, scalar.
        text_loss, speech_loss: mean cross-entropies, scalars.
        logits: [B, L, V].
        speech_logits: [B, L*G, C], None when the head did not run.
        last_hidden_state: [B, L, H] after the backbone's final norm.
        inputs_embeds: [B, L, H] merged backbone input.
        cache: of the backbone, None without one; ``past_key_values`` is its older name.
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

    @property
    def past_key_values(self) -> Any:
        return self.cache


@dataclass
class CodeEncoderOutput(ModelOutput):
    """Result of the code encoder.

    Attributes:
        last_hidden_state: [N, T/G, H].
        hidden_states: raw code embedding [N, T/G, G*H], the output again, and, when continuous
            features were given, their projection [N', T/G, H].
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def _sinusoids(length: int, channels: int) -> Tensor:
    """Whisper's position table [length, channels]: sines in the first half, then cosines."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32) / (half - 1)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * 10000.0 ** -steps[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _sample_ids(attention_mask: Tensor) -> Tensor:
    """Sample numbers [B, L], 0 for padding, of a mask [B, L] or block-diagonal one [B, 1, L, L].

    In the latter, which LLaMA-Factory makes of packed rows, 0 stands for visible.
    """
    if attention_mask.dim() == 2:
        return attention_mask
    visible = attention_mask[:, 0] == 0
    real = visible.diagonal(dim1=1, dim2=2)
    joined = F.pad(visible.diagonal(offset=-1, dim1=1, dim2=2), (1, 0))
    return (real & ~joined).cumsum(1) * real


def _run_packed(transformer: Any, hidden: Tensor, sample_ids: Tensor) -> Tensor:
    """Run a causal transformer over packed rows [B, L, D] so that every sample sees itself only.

    All rows are laid end to end without padding: positions that restart are how transformers'
    attention back ends, flash included, tell samples apart.
    """
    index = torch.arange(hidden.shape[1], device=hidden.device).expand_as(sample_ids)
    starts = F.pad(sample_ids[:, 1:] != sample_ids[:, :-1], (1, 0), value=True)
    positions = index - index.masked_fill(~starts, 0).cummax(1).values
    real = sample_ids > 0
    out = transformer(
        inputs_embeds=hidden[real][None], position_ids=positions[real][None], use_cache=False
    ).last_hidden_state[0]
    return hidden.new_zeros(hidden.shape).index_put((real,), out.to(hidden.dtype))


def _is_packed(attention_mask: Tensor) -> bool:
    return bool((attention_mask > 1).any())


class FunAudioChatAudioAttention(nn.Module):
    """Bidirectional attention inside one window."""

    def __init__(self, config: FunAudioChatAudioEncoderConfig) -> None:
        super().__init__()
        width = config.d_model
        self.num_heads = config.encoder_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, hidden: Tensor, key_mask: Tensor) -> Tensor:
        """hidden: [W, T, D]; key_mask: bool [W, T], true where a frame is real. -> [W, T, D]."""
        query, key, value = (
            proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=key_mask[:, None, None, :]
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))


class FunAudioChatAudioEncoderLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer of the mel encoder."""

    def __init__(self, config: FunAudioChatAudioEncoderConfig) -> None:
        super().__init__()
        self.self_attn = FunAudioChatAudioAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden: Tensor, key_mask: Tensor) -> Tensor:
        """[W, T, D] -> [W, T, D]."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), key_mask)
        hidden = hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        if hidden.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            hidden = hidden.clamp(-limit, limit)
        return hidden


class FunAudioChatPreTrainedModel(PreTrainedModel):
    """What the parts share: configuration class, attention back ends, initialisation."""

    config_class: type[PretrainedConfig] = FunAudioChatConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True


class FunAudioChatAudioEncoder(FunAudioChatPreTrainedModel):
    """Mel encoder: log-mel at 100 Hz -> vectors at 25 Hz, attending within 2 s windows."""

    config_class = FunAudioChatAudioEncoderConfig
    main_input_name = "input_features"

    def __init__(self, config: FunAudioChatAudioEncoderConfig) -> None:
        super().__init__(config)
        self.window_frames = 2 * config.n_window
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            FunAudioChatAudioEncoderLayer(config) for _ in range(config.encoder_layers)
        )
        self.ln_post = nn.LayerNorm(config.d_model)
        self.proj = nn.Linear(config.d_model, config.output_dim)
        # In the checkpoint, but used by nothing and never trained.
        self.audio_bos_eos_token = nn.Embedding(2, config.output_dim)
        self.post_init()

    def _get_feat_extract_output_lengths(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mel frames -> positions after the convolutions and after pooling (rule 8)."""
        after_cnn = (frames - 1) // 2 + 1
        return after_cnn, (after_cnn - 2) // 2 + 1

    def forward(
        self,
        input_features: Tensor,
        feature_lens: Tensor,
        aftercnn_lens: Tensor | None = None,
        speech_maxlen: int = 0,
    ) -> BaseModelOutput:
        """Encode several sounds laid end to end.

        Args:
            input_features: [mel bins, sum of frames].
            feature_lens: [N] mel frames per item; 0 gives an all-zero row.
            aftercnn_lens: accepted for callers of the original and not needed.
            speech_maxlen: 25 Hz positions of the result.

        Returns:
            last_hidden_state [N, speech_maxlen, H], zero beyond each item's own length.
        """
        lengths = feature_lens.tolist()
        result = input_features.new_zeros(
            len(lengths), speech_maxlen, self.config.output_dim, dtype=self.proj.weight.dtype
        )
        items = input_features.to(self.proj.weight.dtype).split(lengths, dim=1)
        windows = [w for item in items if item.shape[1] for w in item.split(self.window_frames, 1)]
        if not windows:
            return BaseModelOutput(last_hidden_state=result)
        encoded = iter(self._encode_windows(windows))
        pooled = []
        for item in items:
            if item.shape[1]:
                count = -(-item.shape[1] // self.window_frames)
                joined = torch.cat([next(encoded) for _ in range(count)])
                pooled.append(_mean_of_pairs(joined))
        projected = iter(self.proj(self.ln_post(torch.cat(pooled))).split([len(p) for p in pooled]))
        for row, frames in enumerate(lengths):
            if frames:
                vectors = next(projected)[:speech_maxlen]
                result[row, : len(vectors)] = vectors
        return BaseModelOutput(last_hidden_state=result)

    def _encode_windows(self, windows: list[Tensor]) -> list[Tensor]:
        """[mel, frames] each -> [positions, D] each; a window attends to itself only."""
        frames = torch.tensor([w.shape[1] for w in windows], device=windows[0].device)
        padded = nn.utils.rnn.pad_sequence([w.T for w in windows], batch_first=True)
        frame_mask = torch.arange(padded.shape[1], device=frames.device) < frames[:, None]
        # The first convolution's bias would leak from padded frames into the second one.
        hidden = F.gelu(self.conv1(padded.transpose(1, 2))) * frame_mask[:, None]
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)
        positions = (frames - 1) // 2 + 1
        hidden = hidden + _sinusoids(*hidden.shape[1:]).to(hidden)
        key_mask = torch.arange(hidden.shape[1], device=frames.device) < positions[:, None]
        for layer in self.layers:
            hidden = layer(hidden, key_mask)
        return [h[:n] for h, n in zip(hidden, positions.tolist(), strict=True)]


def _mean_of_pairs(hidden: Tensor) -> Tensor:
    """[P, D] -> [P//2, D]; an odd last position is dropped, a single one is kept."""
    if len(hidden) < 2:
        return hidden
    even = len(hidden) // 2 * 2
    return hidden[:even].unflatten(0, (-1, 2)).mean(1)


class FunAudioChatDiscreteEncoder(FunAudioChatPreTrainedModel):
    """Code encoder: 25 Hz codes, or the mel encoder's vectors, -> 5 Hz group vectors."""

    config_class = FunAudioChatAudioEncoderConfig

    def __init__(self, config: FunAudioChatAudioEncoderConfig) -> None:
        super().__init__(config)
        if config.codebook_size is None or config.pad_token_id is None:
            raise CheckpointError("config.json needs audio_config.codebook_size and pad_token_id")
        # Padding gets no gradient as an input, only through the tied projection.
        self.embed_tokens = nn.Embedding(
            config.codebook_size, config.output_dim, padding_idx=config.pad_token_id
        )
        self.output_matching = nn.Linear(config.output_dim, config.output_dim, bias=False)
        self.continual_output_matching = nn.Linear(config.output_dim, config.output_dim, bias=False)
        self.post_init()

    def forward(
        self,
        audio_ids: Tensor,
        continuous_audio_features: Tensor | None = None,
        feature_exist_mask: Tensor | None = None,
    ) -> CodeEncoderOutput:
        """Group by G and average; the last, partial group is diluted by what pads it (rule 12).

        Args:
            audio_ids: [N, T], T a multiple of G.
            continuous_audio_features: [N', T, H] for the rows flagged below.
            feature_exist_mask: bool [N] with N' true entries; None means every row.
        """
        group = self.config.group_size
        embedded = self.embed_tokens(audio_ids).unflatten(1, (-1, group))
        merged = self.output_matching(embedded.mean(2))
        states: tuple[Tensor, ...] = (embedded.flatten(2),)
        if continuous_audio_features is None:
            return CodeEncoderOutput(last_hidden_state=merged, hidden_states=(*states, merged))
        if feature_exist_mask is None:
            feature_exist_mask = torch.ones(len(merged), dtype=torch.bool, device=merged.device)
        grouped = continuous_audio_features.unflatten(1, (-1, group)).mean(2)
        continuous = self.continual_output_matching(grouped)
        discrete = merged[feature_exist_mask]
        add = self.config.continuous_features_mode == "add"
        # A new tensor by index_put: the code result must stay whole for its gradient.
        merged = merged.index_put(
            (feature_exist_mask,), (discrete + continuous if add else continuous).to(merged.dtype)
        )
        return CodeEncoderOutput(
            last_hidden_state=merged, hidden_states=(*states, merged, continuous)
        )


class FunAudioChatDecoder(FunAudioChatPreTrainedModel):
    """Refined head: each 5 Hz hidden state is widened to G positions that predict codes."""

    config_class = FunAudioChatAudioEncoderConfig

    def __init__(self, config: FunAudioChatAudioEncoderConfig) -> None:
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
        self.start_code = config.bos_token_id
        self.crq_do_sample = False
        self.crq_release()
        self.post_init()

    def expand(self, hidden: Tensor) -> Tensor:
        """Widen every 5 Hz position to its G fine ones: [B, S, H] -> [B, S*G, H]."""
        return self.pre_matching(hidden).unflatten(-1, (self.group_size, -1)).flatten(1, 2)

    def next_scores(
        self,
        fine: Tensor,
        last_codes: Tensor,
        cache: Any,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """One cached pass: the scores of the next code (rules 44, 45).

        Args:
            fine: [B, S, H] expanded positions.
            last_codes: [B] the code before, added to every position of the pass.
            cache: of this head, extended in place.
            attention_mask: [B, seen + S], None without padding.
            position_ids: [B, S] fine positions.

        Returns:
            [B, C] in float32.
        """
        out = self.crq_transformer(
            inputs_embeds=self.input_matching(
                fine + F.embedding(last_codes, self.lm_head.weight)[:, None]
            ),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self.lm_head(self.output_matching(out[:, -1])).float()

    def crq_release(self) -> None:
        """Forget the request an engine drove through :meth:`crq_generate_forward`."""
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
            attention_mask, position_ids, return_dict: accepted, without effect.
        """
        fine, group = self.expand(inputs_embeds), self.group_size
        cache = self.crq_past_key_values
        if cache is None:
            cache = self.crq_past_key_values = DynamicCache()
        embeds = self.crq_audio_embeds
        if embeds is None:
            embeds = self.lm_head.weight[self.start_code].expand(len(fine), 1, -1)
        self.crq_generate_tokens = []
        start, scores = 0, []
        for stop in range(fine.shape[1] - group + 1, fine.shape[1] + 1):
            out = self.crq_transformer(
                inputs_embeds=self.input_matching(fine[:, start:stop] + embeds),
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            start = stop
            codes, logits = self.sampling_step(
                self.lm_head(self.output_matching(out[:, -1])).float()
            )
            codes = codes.reshape(-1)
            self.crq_generate_tokens.append(codes)
            scores.append(logits)
            embeds = F.embedding(codes, self.lm_head.weight)[:, None]
        self.crq_audio_embeds = embeds
        self.crq_generate_tokens = torch.stack(self.crq_generate_tokens, dim=1)
        return ModelOutput(logits=torch.stack(scores, dim=1), past_key_values=cache)

    def sampling_step(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a code: logits [B, C] -> ids [B] and the processed scores [B, C]."""
        if self.crq_logits_processor is not None:
            parts = [code[:, None] for code in self.crq_generate_tokens]
            if self.crq_speech_ids is not None:
                parts.insert(0, self.crq_speech_ids)
            ids = torch.cat(parts, 1) if parts else logits.new_empty(len(logits), 0).long()
            logits = self.crq_logits_processor(ids, logits)
        if not self.crq_do_sample:
            return logits.argmax(-1), logits
        codes = torch.multinomial(logits.softmax(-1), 1, generator=self.crq_generator)
        return codes[:, 0], logits

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        teacher_embeds: Tensor | None = None,
    ) -> Tensor:
        """Score the codes of every position at once (rules 20, 21, 33).

        Args:
            inputs_embeds: [B, L, H].
            attention_mask: [B, L], 0/1 or the sample numbers of packed rows.
            position_ids: [B, L] coarse positions.
            teacher_embeds: [B, L*G, H], each the code before the position's target.

        Returns:
            Logits [B, L*G, C].
        """
        group = self.group_size
        hidden = self.expand(inputs_embeds)
        if teacher_embeds is not None:
            hidden = hidden + teacher_embeds
        hidden = self.input_matching(hidden)
        mask = attention_mask
        if mask is not None:
            mask = mask.repeat_interleave(group, dim=1)
        if position_ids is not None:
            position_ids = self._fine_positions(position_ids)
        if mask is not None and _is_packed(mask):
            hidden = _run_packed(self.crq_transformer, hidden, mask)
        else:
            hidden = self.crq_transformer(
                inputs_embeds=hidden,
                attention_mask=mask,
                position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state
        return self.lm_head(self.output_matching(hidden))

    def _fine_positions(self, position_ids: Tensor) -> Tensor:
        """[B, L] -> [B, L*G]: G*p + j; the tail after the last non-zero position gets 0."""
        offsets = torch.arange(self.group_size, device=position_ids.device)
        fine = position_ids[:, :, None] * self.group_size + offsets
        remaining = (position_ids != 0).flip(1).cumsum(1).flip(1) > 0
        return (fine * remaining[:, :, None]).flatten(1)


_MODEL_INPUTS = (
    "input_ids",
    "attention_mask",
    "input_features",
    "feature_attention_mask",
    "feature_exist_mask",
    "speech_ids",
    "speech_attention_mask",
)


@dataclass
class _MergedAudio:
    """What merging the audios of a batch yields, for the backbone and for the losses."""

    inputs_embeds: Tensor  # [B, L, H]
    text_embeds: Tensor  # [B, L, H] the text term of rule 19
    placeholder: Tensor  # bool [B, L]
    codes: Tensor  # [placeholders, G]; ignore index where no code is
    transcript: Tensor | None  # [placeholders] text targets; ignore index where there is none


class FunAudioChatForConditionalGeneration(FunAudioChatPreTrainedModel, GenerationMixin):
    """The joint model: audio enters the backbone at 5 Hz, the refined head writes 25 Hz codes.

    ``sp_gen_kwargs`` holds the speech settings ``generate`` starts from: ``text_greedy``,
    ``only_crq_sampling``, ``disable_speech``, ``force_text_abos``.
    """

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
        self.sp_gen_kwargs = {
            "text_greedy": False,
            "only_crq_sampling": True,
            "disable_speech": False,
            "force_text_abos": True,
        }
        self.post_init()

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

        Raises:
            CheckpointError: not a Fun-Audio-Chat folder, or tensors are missing, too many,
                damaged or of another shape; the message names them.
        """
        folder = pretrained_model_name_or_path
        if config is None:
            config = FunAudioChatConfig.from_pretrained(folder)
        kwargs["use_safetensors"] = True
        kwargs["ignore_mismatched_sizes"] = True  # reported below, by name
        try:
            loaded: Any = super().from_pretrained(
                folder, *args, config=config, output_loading_info=True, **kwargs
            )
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the weights in {folder} cannot be read ({error}); a file is missing or was cut "
                "off: download the folder again with `funaudiochat download`"
            ) from error
        except (TypeError, AssertionError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"no model can be built from config.json in {folder} ({error}); download the "
                "folder again with `funaudiochat download`"
            ) from error
        model, info = loaded
        problems = [
            f"{len(names)} {kind}: {', '.join(sorted(map(str, names))[:5])}"
            + (", ..." if len(names) > 5 else "")
            for kind, names in (
                ("missing", info["missing_keys"]),
                ("not known", info["unexpected_keys"]),
                ("of another shape", info["mismatched_keys"]),
            )
            if names
        ]
        if problems:
            raise CheckpointError(
                f"the weights in {folder} do not fit its config.json. Tensors {'; '.join(problems)}"
                ". Check that both come from the same checkpoint"
            )
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, generation_config: Any = None, streamer: Any = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Decode text and speech in parallel.

        Args:
            generation_config: settings; the checkpoint's own if None.
            streamer: see :func:`funaudiochat.generation_funaudiochat.generate`.
            kwargs: the processor's outputs, and settings that replace the config's.

        Returns:
            Token rows [B, L + steps] with the prompt, and codes [B, G * groups], rows that
            spoke less filled with the code padding; width 0 if none spoke.

        Raises:
            ValueError: an unknown setting, or beam search.
        """
        inputs = {
            name: kwargs.pop(name)
            for name in list(kwargs)
            if name in _MODEL_INPUTS and kwargs[name] is not None
        }
        settings = copy.deepcopy(generation_config or self.generation_config)
        unknown = settings.update(**kwargs)
        if unknown:
            raise ValueError(f"generate() knows no setting or input named {sorted(unknown)}")
        options = GenerationOptions.from_config(settings, **self.sp_gen_kwargs)
        rows, speech = generate(self, inputs, options, streamer=streamer)
        pad = self.config.audio_config.pad_token_id
        return rows, nn.utils.rnn.pad_sequence(speech, batch_first=True, padding_value=pad)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

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
    ) -> FunAudioChatOutput:
        """Run backbone and head over whole rows; with labels also both losses.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L], 0/1 or, for packed rows, sample numbers from 1; or the
                block-diagonal mask [B, 1, L, L] of packed rows, 0 for visible.
            position_ids: [B, L]; packed rows count from 0 in every sample whatever is given.
            input_features: [N', mel bins, frames] of the audios that come as sound.
            feature_attention_mask: [N', frames].
            feature_exist_mask: bool [N], which audios have features.
            speech_ids: [N, T] codes of every audio, ``speech_attention_mask`` their validity.
            text_ids: [N, *] transcripts (training), ``text_attention_mask`` bool [N].
            labels: [B, L].
            disable_speech: leave the head out.

        Raises:
            ValueError: placeholders and audio groups differ in number.
        """
        merged = None
        text_embeds = self.get_input_embeddings()(input_ids)
        inputs_embeds = text_embeds
        if speech_ids is not None and input_ids.shape[1] > 1 and speech_ids.numel():
            merged = self._merge_audio(
                input_ids, text_embeds, speech_ids, speech_attention_mask, input_features,
                feature_attention_mask, feature_exist_mask, text_ids, text_attention_mask,
            )
            inputs_embeds, text_embeds = merged.inputs_embeds, merged.text_embeds
        cache = past_key_values
        if use_cache and cache is None:
            cache = DynamicCache()
        if attention_mask is not None:
            attention_mask = _sample_ids(attention_mask)
        if attention_mask is not None and _is_packed(attention_mask):
            hidden = _run_packed(self.language_model.model, inputs_embeds, attention_mask)
        else:
            backbone = self.language_model.model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=use_cache,
            )
            hidden = backbone.last_hidden_state
        logits = self.language_model.lm_head(hidden)
        output = FunAudioChatOutput(
            logits=logits,
            last_hidden_state=hidden,
            inputs_embeds=inputs_embeds,
            cache=cache,
        )
        speech_labels = None
        if labels is not None:
            text_labels, speech_labels = self._targets(labels, merged)
            output.text_loss = self._cross_entropy(logits, text_labels, 1)
            output.loss = output.text_loss
        if disable_speech or not self.config.audio_config.enable_audio_invert_tower:
            return output
        if self.training and labels is not None and merged is None:
            return output  # Rule 32: no speech loss, so nothing would read the head's result.
        teacher = self._teacher_embeds(speech_labels) if speech_labels is not None else None
        speech_logits = self.audio_invert_tower(
            hidden + text_embeds.detach(), attention_mask, position_ids, teacher
        )
        output.speech_logits = speech_logits
        if speech_labels is not None:
            shift = self.config.audio_config.group_size
            speech_loss = self._cross_entropy(speech_logits, speech_labels, shift)
            output.speech_loss = speech_loss
            if output.loss is not None:
                output.loss = output.loss + speech_loss
        return output

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        **audio: Tensor,
    ) -> Tensor:
        """Backbone states [B, L, H] of a prompt; no vocabulary projection, no head.

        Args:
            input_ids: [B, L]; attention_mask [B, L] of 0/1; position_ids [B, L].
            past_key_values: backbone cache, extended in place.
            audio: the processor's audio inputs, as in :meth:`forward`.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if audio.get("speech_ids") is not None and audio["speech_ids"].numel():
            embeds = self._merge_audio(input_ids, embeds, **audio).inputs_embeds
        return self.language_model.model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=True,
        ).last_hidden_state

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
    ) -> _MergedAudio:
        """Put every audio's group vectors in place of its placeholders (rules 11-17, 27-30)."""
        audio, ignore = self.config.audio_config, self.config.ignore_index
        if speech_attention_mask is None:
            speech_attention_mask = (speech_ids != audio.pad_token_id).long()
        short = -speech_ids.shape[1] % audio.group_size
        codes = F.pad(speech_ids, (0, short), value=audio.pad_token_id)
        valid = F.pad(speech_attention_mask.bool(), (0, short))

        features = None
        if input_features is not None and feature_attention_mask is not None:
            frame_mask = feature_attention_mask.bool()
            features = self.continuous_audio_tower(
                input_features.transpose(0, 1)[:, frame_mask],
                frame_mask.sum(1),
                speech_maxlen=codes.shape[1],
            ).last_hidden_state
        vectors = self.audio_tower(codes, features, feature_exist_mask).last_hidden_state

        groups = -(-valid.sum(1) // audio.group_size)
        chosen = torch.arange(vectors.shape[1], device=groups.device) < groups[:, None]
        placeholder = input_ids == self.config.audio_token_index
        if int(placeholder.sum()) != int(chosen.sum()):
            raise ValueError(
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
        grouped = codes.masked_fill(~valid, ignore).unflatten(1, (-1, audio.group_size))
        return _MergedAudio(
            inputs_embeds=token_embeds.masked_scatter(
                placeholder[..., None], vectors[chosen].to(token_embeds.dtype)
            ),
            text_embeds=text_embeds,
            placeholder=placeholder,
            codes=grouped[chosen],
            transcript=transcript,
        )

    def _aligned_transcript(self, text_ids: Tensor, groups: int) -> Tensor:
        """[N, *] -> [N, groups]: cut or filled, ends and padding turned into silence (rule 27)."""
        text = self.config.text_config
        eos, pad = text.eos_token_id, getattr(text, "pad_token_id", None)
        ids = F.pad(text_ids[:, :groups], (0, max(0, groups - text_ids.shape[1])), value=pad or eos)
        silent = ids == eos
        if pad is not None:
            silent = silent | (ids == pad)
        return ids.masked_fill(silent, text.sil_index)

    def _targets(
        self, labels: Tensor, merged: _MergedAudio | None
    ) -> tuple[Tensor, Tensor | None]:
        """Text labels [B, L] and, if there is audio, speech labels [B, L*G] (rules 30, 31)."""
        ignore, audio = self.config.ignore_index, self.config.audio_config
        if merged is None:
            return labels, None
        unlabelled = labels == ignore
        text = labels.masked_fill(labels == self.config.audio_token_index, ignore)
        if merged.transcript is not None:
            text = text.masked_scatter(merged.placeholder, merged.transcript)
        text = text.masked_fill(unlabelled, ignore)
        speech = labels.new_full((*labels.shape, audio.group_size), ignore)
        speech = speech.masked_scatter(merged.placeholder[..., None], merged.codes)
        speech = speech.masked_fill(unlabelled[..., None], ignore)
        ends = labels == self.config.text_config.audio_eos_index
        return text, speech.masked_fill(ends[..., None], audio.eos_token_id).flatten(1)

    def _teacher_embeds(self, speech_labels: Tensor) -> Tensor:
        """Embedding of the code before each position's target, [B, L*G, H] (rule 31).

        The roll wraps round the row and crosses packed samples; only positions without a target
        are touched by that.
        """
        audio = self.config.audio_config
        codes = speech_labels.masked_fill(
            speech_labels == self.config.ignore_index, audio.pad_token_id
        )
        return self.audio_tower.embed_tokens(codes).roll(1 - audio.group_size, dims=1)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, shift: int) -> Tensor:
        """Mean over valid targets in float32, 0 without any; position i has label i + shift."""
        ignore, targets = self.config.ignore_index, labels[:, shift:].flatten()
        scores = logits[:, :-shift].flatten(0, 1).float()
        total = F.cross_entropy(scores, targets, ignore_index=ignore, reduction="sum")
        return total / (targets != ignore).sum().clamp(min=1)
