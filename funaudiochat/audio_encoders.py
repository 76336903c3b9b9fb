# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Audio encoders: mel encoder (audio to 25 Hz vectors) and discrete encoder (25 Hz to 5 Hz).

Shapes: ``N`` audios, ``T`` 25 Hz positions, ``G`` group size (5), ``H`` text width, ``W`` windows
of 2 s, ``D`` width of the mel encoder.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.generic import ModelOutput

from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.errors import CheckpointError
from funaudiochat.modeling_common import FunAudioChatPreTrainedModel

# Mel frames that are encoded at a time on a CPU, padding included.
CPU_FRAMES = 2000


@dataclass
class DiscreteEncoderOutput(ModelOutput):
    """Result of the discrete encoder.

    Attributes:
        last_hidden_state: [N, T/G, H].
        hidden_states: raw speech token embedding [N, T/G, G*H], the output again, and, when
            continuous features were given, their projection [N', T/G, H].
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def _sinusoids(length: int, channels: int) -> Tensor:
    """Build Whisper's position table [length, channels]: first the sines, then the cosines."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32) / (half - 1)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * 10000.0 ** -steps[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


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
        """Attend over the real frames: [W, T, D] and key mask bool [W, T] -> [W, T, D]."""
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
        """Run the layer: [W, T, D] and key mask bool [W, T] -> [W, T, D]."""
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), key_mask)
        hidden = hidden + self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        if hidden.dtype == torch.float16:
            limit = torch.finfo(torch.float16).max - 1000
            hidden = hidden.clamp(-limit, limit)
        return hidden


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
        """Return the positions of mel frames after convolution and after pooling (rule 8)."""
        after_cnn = (frames - 1) // 2 + 1
        return after_cnn, (after_cnn - 2) // 2 + 1

    def forward(
        self,
        input_features: Tensor,
        feature_lens: Tensor,
        aftercnn_lens: Tensor | None = None,
        speech_maxlen: int = 0,
    ) -> BaseModelOutput:
        """Encode several audios laid end to end.

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
            return BaseModelOutput(last_hidden_state=result)  # type: ignore[arg-type]
        encoded = iter(self._encode_all(windows))
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
        return BaseModelOutput(last_hidden_state=result)  # type: ignore[arg-type]

    def _encode_all(self, windows: list[Tensor]) -> list[Tensor]:
        """Encode windows [mel, frames] to [positions, D] each.

        On a CPU a few windows of similar length at a time: less padding, and what a layer makes
        of them stays in the cache.
        """
        if windows[0].device.type != "cpu":
            return self._encode_windows(windows)
        order = sorted(range(len(windows)), key=lambda i: windows[i].shape[1])
        encoded: dict[int, Tensor] = {}
        while order:
            longest = windows[order[-1]].shape[1]
            together = order[-max(1, CPU_FRAMES // longest) :]
            order = order[: -len(together)]
            results = self._encode_windows([windows[i] for i in together])
            encoded.update(zip(together, results, strict=True))
        return [encoded[i] for i in range(len(windows))]

    def _encode_windows(self, windows: list[Tensor]) -> list[Tensor]:
        """Encode windows [mel, frames] to [positions, D] each; a window attends to itself only."""
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
    """Average pairs, [P, D] -> [P//2, D]; an odd last position is dropped, a single one kept."""
    if len(hidden) < 2:
        return hidden
    even = len(hidden) // 2 * 2
    return hidden[:even].unflatten(0, (-1, 2)).mean(1)


class FunAudioChatDiscreteEncoder(FunAudioChatPreTrainedModel):
    """Discrete encoder: 25 Hz speech tokens, or the mel encoder's vectors, to 5 Hz vectors."""

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
    ) -> DiscreteEncoderOutput:
        """Average groups of G; padding dilutes the last, partial group (rule 12).

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
            return DiscreteEncoderOutput(last_hidden_state=merged, hidden_states=(*states, merged))
        if feature_exist_mask is None:
            feature_exist_mask = torch.ones(len(merged), dtype=torch.bool, device=merged.device)
        grouped = continuous_audio_features.unflatten(1, (-1, group)).mean(2)
        continuous = self.continual_output_matching(grouped)
        discrete = merged[feature_exist_mask]
        # "add" is what the original takes for configs without the field.
        add = getattr(self.config, "continuous_features_mode", "add") == "add"
        # A new tensor by index_put: the discrete result must stay intact for its gradient.
        merged = merged.index_put(
            (feature_exist_mask,), (discrete + continuous if add else continuous).to(merged.dtype)
        )
        return DiscreteEncoderOutput(
            last_hidden_state=merged, hidden_states=(*states, merged, continuous)
        )
