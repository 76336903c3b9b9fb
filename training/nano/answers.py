# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Batches for training the detokenizer: tokens, mel, pitch and audio of the spoken answers.

Flow and vocoder use the same normalised mel. It has unit variance, like the noise that the flow
starts from, and needs no conversion between the two.

Shapes: ``B`` batch, ``T`` speech tokens (25 Hz), ``L`` mel frames (50 Hz), ``S`` samples (480 a
frame).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

from training.nano.data import read_jsonl
from training.nano.features import (
    VOCODER_HOP,
    VOCODER_HZ,
    VOCODER_MELS,
    FrameStore,
    pitch_hz,
    read_waveform,
    vocoder_mel,
)

MEL_MEAN, MEL_SCALE = -4.0, 2.0


def normalize_mel(mel: Tensor) -> Tensor:
    """Normalise a log-mel to about zero mean and unit deviation, as Nano's detokenizer expects."""
    return (mel - MEL_MEAN) / MEL_SCALE


@dataclass(frozen=True)
class Segments:
    """Excerpts of answers for the vocoder.

    Attributes:
        mel: [B, 80, L + lookahead], normalised.
        f0: [B, L + lookahead] in Hz, 0 where unvoiced.
        waveform: [B, S], the audio of the first L frames.
    """

    mel: Tensor
    f0: Tensor
    waveform: Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Whole answers for the flow, padded on the right.

    Attributes:
        tokens: [B, T]. mel: [B, 2T, 80], normalised. counts: [B] tokens before the padding.
        voices: B names.
    """

    tokens: Tensor
    mel: Tensor
    counts: Tensor
    voices: list[str]


class Answers:
    """The spoken answers with mel and pitch, computed once and cached on disk.

    Args:
        work: output folder of ``training.nano.data``.
        part: ``train``, ``valid``, ``test`` or ``open_test`` (open text).
        voice: only this voice; None for all.
    """

    def __init__(self, work: Path, part: str, voice: str | None = None) -> None:
        self.work = work
        records = read_jsonl(work / "answers.jsonl")
        self._store = FrameStore(work / "features" / "answers-mel-f0.f16", VOCODER_MELS + 1)
        self._store.extend(self._features(r) for r in records[len(self._store) :])
        self.items = [
            (index, record)
            for index, record in enumerate(records)
            if record["part"] == part and voice in (None, record["voice"])
        ]
        if not self.items:
            raise ValueError(f"no {part} answers in {work}; first run python -m training.nano.data")

    def _features(self, record: dict[str, Any]) -> Tensor:
        """Compute the log-mel and the pitch in hundreds of Hz of one answer: [L, 81]."""
        waveform = read_waveform(self.work / record["audio"], VOCODER_HZ)
        return torch.cat(
            [vocoder_mel(waveform[None])[0].T, pitch_hz(waveform)[:, None] / 100], dim=1
        )

    def mel_and_f0(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the normalised mel [L, 80] and f0 [L] in Hz of item ``number``."""
        f0 = self._store[self.items[number][0]][:, -1] * 100
        return normalize_mel(self.log_mel(number)), f0

    def log_mel(self, number: int) -> Tensor:
        """Return the log-mel [L, 80] of item ``number``, not normalised."""
        return self._store[self.items[number][0]][:, :-1]

    def segments(self, rng: Random, count: int, frames: int, lookahead: int) -> Segments:
        """Draw excerpts of ``frames`` frames, with ``lookahead`` further frames of mel and pitch.

        Without lookahead, draw the ends of answers, to be decoded as final.
        """
        mels: list[Tensor] = []
        pitches: list[Tensor] = []
        waveforms: list[Tensor] = []
        while len(mels) < count:
            number = rng.randrange(len(self.items))
            mel, f0 = self.mel_and_f0(number)
            room = len(mel) - frames - lookahead
            if room < 0:
                continue
            start = rng.randint(0, room) if lookahead else room
            stop = start + frames + lookahead
            path = self.work / self.items[number][1]["audio"]
            waveform, _ = soundfile.read(
                path, frames * VOCODER_HOP, start=start * VOCODER_HOP, dtype="float32"
            )
            mels.append(mel[start:stop].T)
            pitches.append(f0[start:stop])
            waveforms.append(torch.from_numpy(waveform))
        return Segments(torch.stack(mels), torch.stack(pitches), torch.stack(waveforms))

    def token_batches(self, rng: Random, batch_tokens: int) -> Iterator[TokenBatch]:
        """Yield an epoch of whole answers in batches of similar length and bounded size."""
        lengths = [len(record["codes"]) for _, record in self.items]
        order = sorted(range(len(lengths)), key=lambda i: lengths[i] + rng.uniform(0, 5))
        groups: list[list[int]] = [[]]
        for number in order:
            if groups[-1] and (len(groups[-1]) + 1) * lengths[number] > batch_tokens:
                groups.append([])
            groups[-1].append(number)
        rng.shuffle(groups)
        for group in groups:
            yield self.token_batch(group)

    def token_batch(self, numbers: list[int]) -> TokenBatch:
        """Return a batch of whole answers by their numbers."""
        records = [self.items[n][1] for n in numbers]
        tokens = [torch.tensor(r["codes"]) for r in records]
        mels = [self.mel_and_f0(n)[0] for n in numbers]
        return TokenBatch(
            nn.utils.rnn.pad_sequence(tokens, batch_first=True),
            nn.utils.rnn.pad_sequence(mels, batch_first=True),
            torch.tensor([len(c) for c in tokens]),
            [r["voice"] for r in records],
        )
