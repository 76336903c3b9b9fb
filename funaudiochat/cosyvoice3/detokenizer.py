# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn speech tokens into a waveform, whole replies at once or as a stream.

One speech token is two mel frames, 960 samples, 40 ms.
Shapes: ``T`` speech tokens, ``L`` mel frames, ``M`` mel bins, ``S`` samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from funaudiochat.constants import TOKEN_FPS
from funaudiochat.cosyvoice3.checkpoint import load_flow, load_hift, read_settings
from funaudiochat.cosyvoice3.config import F0_LEFT_FRAMES, F0_RIGHT_FRAMES, ChunkSchedule
from funaudiochat.cosyvoice3.flow import Flow, FlowChunk, FlowState
from funaudiochat.cosyvoice3.hift import Hift, exact_dtype
from funaudiochat.cosyvoice3.segments import segment_bounds
from funaudiochat.errors import VoiceError
from funaudiochat.precision import float32_only

NOISE_FRAMES = 15000
SHORTEST_LAST_S = 2


class UniformRows:
    """Rows of the vocoder's noise table, drawn one after another."""

    def __init__(self, generator_state: Tensor, width: int) -> None:
        self._generator = torch.Generator()
        self._generator.set_state(generator_state)
        self._width = width

    def take(self, count: int) -> Tensor:
        """Return the next [count, width] numbers."""
        return torch.rand(count, self._width, generator=self._generator)


def draw_noise(flow: Flow, hift: Hift) -> tuple[Tensor, Tensor]:
    """Draw the flow's noise [1, M, 15000]; also return the generator state before the vocoder's.

    Neither is in the checkpoint: the original's constructors draw both from seed 0, in this order.
    The global random state does not change.
    """
    generator = torch.Generator().manual_seed(0)
    sizes, vocoder = flow.config, hift.config
    noise = torch.randn(1, sizes.mel_bins, NOISE_FRAMES, generator=generator)
    torch.randn(sizes.vocab_size * sizes.mel_bins, generator=generator)
    passed_over = [flow.spk_embed_affine_layer, hift.f0_predictor]
    count = sum(p.numel() for module in passed_over for p in module.parameters())
    torch.rand(count, generator=generator)
    torch.rand(1, vocoder.harmonics + 1, generator=generator)
    return noise, generator.get_state()


@dataclass
class VocoderState:
    """Vocoder state of a running reply: a window of mel and source, and the phase."""

    mel: Tensor  # [1, M, L] from frame `start` on
    source: Tensor  # [1, 1, S] from frame `start` on
    rows: UniformRows
    phase_cycles: Tensor | None = None  # of the source, [1, harmonics + 1]
    start: int = 0
    source_frames: int = 0
    emitted_frames: int = 0


@dataclass
class DetokenizerState:
    """State of one running reply."""

    vocoder: VocoderState
    flow: FlowState | None  # None without a chunk mask: nothing is computed before the end
    pending: list[int] = field(default_factory=list)
    chunks: int = 0
    finished: bool = False


class CosyVoice3Detokenizer:
    """Flow and vocoder of one folder.

    Args:
        flow, hift: loaded models, on one device; the flow is frozen for use.
    """

    token_rate_hz = TOKEN_FPS

    @float32_only()
    def __init__(self, flow: Flow, hift: Hift) -> None:
        self.flow, self.hift = flow, hift
        self.sample_rate_hz = hift.config.sample_rate_hz
        self.device = next(hift.parameters()).device
        hift.f0_predictor.to(exact_dtype(self.device))
        noise, self._rows_state = draw_noise(flow, hift)
        flow.freeze()
        self._noise = noise.to(self.device)

    @classmethod
    @float32_only()
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device = "cpu"
    ) -> CosyVoice3Detokenizer:
        """Load a folder in the official layout.

        Raises:
            CheckpointError: a file is missing, damaged or does not fit; the message names it.
        """
        flow_config, hift_config = read_settings(folder)
        flow = load_flow(folder, flow_config).to(device)
        return cls(flow, load_hift(folder, hift_config).to(device))

    @torch.no_grad()
    @float32_only()
    def decode(
        self,
        tokens: Sequence[int] | Tensor,
        speaker: Tensor,
        schedule: ChunkSchedule | None = None,
        speed: float = 1.0,
    ) -> Tensor:
        """Synthesize a whole reply: speech tokens [T] -> waveform [960 * T] on the CPU.

        Args:
            tokens: speech tokens [T].
            speaker: speaker vector of the voice [192].
            schedule: None for full attention in segments of 30 s, as the original computes it; with
                a schedule the result equals that of :meth:`stream` under it.
            speed: above 1 is faster.

        Raises:
            ValueError: a token outside the vocabulary, or a speed that is not positive.
            VoiceError: a speaker vector of another size, all zero or not finite.
        """
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed is {speed}, not a positive number")
        ids, embedding = self._token_ids(tokens), self._embedding(speaker)
        if not ids:
            return torch.zeros(0)
        bounds = [(0, len(ids))]
        if schedule is None:
            bounds = segment_bounds(len(ids), self.token_rate_hz, SHORTEST_LAST_S)
        parts = []
        for start, stop in bounds:
            segment = torch.tensor([ids[start:stop]], device=self.device)
            frames = segment.shape[1] * self.flow.config.frames_per_token
            noise = self._noise_of(0, frames)
            mel = self.flow.one_shot(segment, embedding, noise, schedule=schedule)
            if speed != 1:
                mel = F.interpolate(mel, size=int(mel.shape[2] / speed), mode="linear")
            parts.append(self.vocode(self.vocoder_state(), mel, final=True))
        return torch.cat(parts)

    def stream(
        self,
        speaker: Tensor,
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> DetokenizerStream:
        """Begin a reply whose speech tokens arrive one group after another.

        Args:
            speaker: speaker vector of the voice [192].
            schedule: the chunk mask. With None, all audio comes at the end, as from :meth:`decode`.
        """
        return DetokenizerStream(self, speaker, schedule)

    def vocoder_state(self) -> VocoderState:
        """Return the state of a reply that has not begun."""
        return VocoderState(
            mel=torch.zeros(1, self.hift.config.mel_bins, 0, device=self.device),
            source=torch.zeros(1, 1, 0, device=self.device),
            rows=UniformRows(self._rows_state, self.hift.config.harmonics + 1),
        )

    @torch.no_grad()
    @float32_only()
    def vocode(self, state: VocoderState, mel: Tensor, final: bool) -> Tensor:
        """Vocode the next mel frames [1, M, L] of a reply; return the samples [S] that are ready.

        Eight frames wait for what follows unless ``final``. Only a window is recomputed; the
        result is that of the whole mel so far.
        """
        config, size = self.hift.config, self.hift.config.frame_samples
        state.mel = torch.cat([state.mel, mel], dim=2)
        total = state.start + state.mel.shape[2]
        usable = total if final else total - F0_RIGHT_FRAMES
        if usable > state.source_frames:
            left = max(state.start, state.source_frames - F0_LEFT_FRAMES)
            precise = next(self.hift.f0_predictor.parameters()).dtype
            seen = state.mel[:, :, left - state.start :].to(precise)
            f0 = self.hift.f0_predictor(seen, final)[:, state.source_frames - left :]
            rows = state.rows.take(f0.shape[1] * size).to(self.device)
            source, state.phase_cycles = self.hift.source(
                f0.float(), rows[None], state.phase_cycles
            )
            state.source = torch.cat([state.source, source], dim=2)
            state.source_frames = usable
        ready = total if final else total - config.lookahead_frames
        if ready <= state.emitted_frames:
            return torch.zeros(0)
        left = max(state.start, state.emitted_frames - config.context_frames)
        waveform = self.hift.decode(
            state.mel[:, :, left - state.start : usable - state.start],
            state.source[:, :, (left - state.start) * size :],
            final,
            context_frames=state.emitted_frames - left,
        )[0, : (ready - state.emitted_frames) * size]
        state.emitted_frames = ready
        drop = max(0, ready - config.context_frames - state.start)
        # Copies: views would keep the whole reply in memory.
        state.mel = state.mel[:, :, drop:].clone()
        state.source = state.source[:, :, drop * size :].clone()
        state.start += drop
        return waveform.cpu()

    @float32_only()
    def solve_step(self, chunks: Sequence[Chunk]) -> bool:
        """Take one solver step of chunks of equal shape; return whether they are solved."""
        return self.flow.solve_step([chunk.flow for chunk in chunks])

    def _noise_of(self, start: int, count: int) -> Tensor:
        """Return the noise [1, M, count] of these frames; it repeats after 300 s."""
        index = torch.arange(start, start + count, device=self.device) % NOISE_FRAMES
        return self._noise[:, :, index]

    def _token_ids(self, tokens: Sequence[int] | Tensor) -> list[int]:
        ids = tokens.tolist() if isinstance(tokens, Tensor) else [int(token) for token in tokens]
        size = self.flow.config.vocab_size
        wrong = [token for token in ids if not 0 <= token < size]
        if wrong:
            raise ValueError(
                f"speech token {wrong[0]} is outside 0..{size - 1}; remove the start, end and "
                "padding tokens, which carry no audio"
            )
        return ids

    def _embedding(self, speaker: Tensor) -> Tensor:
        size = self.flow.config.speaker_dim
        vector = torch.as_tensor(speaker, dtype=torch.float32).flatten()
        if vector.numel() != size or not bool(vector.isfinite().all()) or not bool(vector.any()):
            raise VoiceError(
                f"a voice is {size} finite numbers, not all zero; this one has {vector.numel()}. "
                "Make one with `funaudiochat voices add NAME prompt.wav`"
            )
        return vector[None].to(self.device)


@dataclass
class Chunk:
    """A chunk of a running reply that is being solved; see :meth:`DetokenizerStream.next_chunk`."""

    flow: FlowChunk
    final: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and solver steps taken: chunks of equal shape are solved together."""
        return self.flow.x.shape[1], self.flow.steps_taken


class DetokenizerStream:
    """One running reply, whose state is independent of all others.

    Every speech token becomes exactly 960 samples, however the tokens are divided into pushes.
    :meth:`push` and :meth:`finish` do everything at once. A server that has several replies uses
    :meth:`add` and :meth:`next_chunk`, solves the chunks of several replies together
    (:meth:`CosyVoice3Detokenizer.solve_step`), and calls :meth:`complete`.
    """

    @float32_only()
    def __init__(
        self,
        detokenizer: CosyVoice3Detokenizer,
        speaker: Tensor,
        schedule: ChunkSchedule | None,
    ) -> None:
        self._detokenizer, self._schedule = detokenizer, schedule
        self._embedding = detokenizer._embedding(speaker)
        with torch.no_grad():
            self._speaker = detokenizer.flow.speaker(self._embedding)
        self.state = DetokenizerState(
            detokenizer.vocoder_state(),
            None if schedule is None else detokenizer.flow.new_state(schedule),
        )

    def push(self, tokens: Sequence[int] | Tensor) -> Tensor:
        """Add the next tokens [T], possibly none; return the samples [S] that are ready, if any."""
        self.add(tokens)
        return self._decode_chunks()

    def finish(self) -> Tensor:
        """End the reply and return its last samples [S]."""
        self.end()
        if self._schedule is None:
            waveform = self._detokenizer.decode(self.state.pending, self._embedding)
            self.state.pending = []
            return waveform
        return self._decode_chunks()

    def add(self, tokens: Sequence[int] | Tensor) -> None:
        """Add the next tokens [T], possibly none."""
        self._check_running()
        self.state.pending += self._detokenizer._token_ids(tokens)

    def end(self) -> None:
        """End the reply: its last tokens become chunks without the tokens that would follow."""
        self._check_running()
        self.state.finished = True

    @property
    def due(self) -> bool:
        """Whether :meth:`next_chunk` has a chunk: its tokens and those it looks ahead to came."""
        pending = len(self.state.pending)
        if self._schedule is None or self.state.finished:
            return self._schedule is not None and pending > 0
        lookahead = self._detokenizer.flow.config.lookahead_tokens
        return pending >= self._schedule.chunk_tokens(self.state.chunks) + lookahead

    @float32_only()
    def next_chunk(self) -> Chunk:
        """Begin the next chunk, which must be due; the chunk before it must be complete."""
        assert self._schedule is not None and self.state.flow is not None
        state, flow = self.state, self._detokenizer.flow
        count = min(self._schedule.chunk_tokens(state.chunks), len(state.pending))
        seen = state.pending[: count + flow.config.lookahead_tokens]
        frames = count * flow.config.frames_per_token
        chunk = flow.begin_chunk(
            self.state.flow,
            torch.tensor([seen], device=self._detokenizer.device),
            self._speaker,
            self._detokenizer._noise_of(self.state.flow.frames, frames),
        )
        del state.pending[:count]
        state.chunks += 1
        return Chunk(chunk, state.finished and not state.pending)

    def complete(self, chunk: Chunk) -> Tensor:
        """Vocode a solved chunk; return the samples [S] that are ready."""
        return self._detokenizer.vocode(
            self.state.vocoder, chunk.flow.x.transpose(1, 2), chunk.final
        )

    def _decode_chunks(self) -> Tensor:
        parts = [torch.zeros(0, dtype=torch.float32)]  # whatever the default dtype is
        while self.due:
            chunk = self.next_chunk()
            while not self._detokenizer.solve_step([chunk]):
                pass
            parts.append(self.complete(chunk))
        return torch.cat(parts)

    def _check_running(self) -> None:
        if self.state.finished:
            raise RuntimeError("this reply is finished; begin another with stream()")
