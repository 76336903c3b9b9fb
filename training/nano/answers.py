# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Batches for the detokenizer: codes, mel, pitch and sound of the assistant's spoken answers.

The mel is normalised in flow and vocoder alike, so a flow that starts from unit noise has little
way to go, and nothing has to be undone between the two.

Shapes: ``B`` batch, ``T`` codes (25 Hz), ``L`` mel frames (50 Hz), ``S`` samples (480 a frame).
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
    read_wave,
    vocoder_mel,
)

MEL_MEAN, MEL_SCALE = -4.0, 2.0


def normalize_mel(mel: Tensor) -> Tensor:
    """Log-mel as the nano detokenizer handles it, about zero mean and unit deviation."""
    return (mel - MEL_MEAN) / MEL_SCALE


@dataclass(frozen=True)
class Segments:
    """Pieces of answers for the vocoder.

    Attributes:
        mel: [B, 80, L + lookahead], normalised.
        f0: [B, L + lookahead] in Hz, 0 where unvoiced.
        wave: [B, S] of the first L frames.
    """

    mel: Tensor
    f0: Tensor
    wave: Tensor


@dataclass(frozen=True)
class CodeBatch:
    """Whole answers for the flow, padded on the right.

    Attributes:
        codes: [B, T]. mel: [B, 2T, 80], normalised. counts: [B] codes before the padding.
        voices: B names.
    """

    codes: Tensor
    mel: Tensor
    counts: Tensor
    voices: list[str]


class Answers:
    """The spoken answers with mel and pitch, which are computed once and kept on disk.

    Args:
        work: folder of ``training.nano.data``.
        part: ``train``, ``valid`` or ``test``.
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
        """Log-mel and, in hundreds of Hz, pitch of one answer: [L, 81]."""
        wave = read_wave(self.work / record["audio"], VOCODER_HZ)
        return torch.cat([vocoder_mel(wave[None])[0].T, pitch_hz(wave)[:, None] / 100], dim=1)

    def mel_and_f0(self, number: int) -> tuple[Tensor, Tensor]:
        """Normalised mel [L, 80] and f0 [L] in Hz of item ``number``."""
        f0 = self._store[self.items[number][0]][:, -1] * 100
        return normalize_mel(self.log_mel(number)), f0

    def log_mel(self, number: int) -> Tensor:
        """Plain log-mel [L, 80] of item ``number``."""
        return self._store[self.items[number][0]][:, :-1]

    def segments(self, rng: Random, count: int, frames: int, lookahead: int) -> Segments:
        """Random pieces of ``frames`` frames, each with ``lookahead`` more of mel and pitch.

        Without lookahead they are the answers' ends, to be decoded as such.
        """
        mels: list[Tensor] = []
        pitches: list[Tensor] = []
        waves: list[Tensor] = []
        while len(mels) < count:
            number = rng.randrange(len(self.items))
            mel, f0 = self.mel_and_f0(number)
            room = len(mel) - frames - lookahead
            if room < 0:
                continue
            start = rng.randint(0, room) if lookahead else room
            stop = start + frames + lookahead
            path = self.work / self.items[number][1]["audio"]
            wave, _ = soundfile.read(
                path, frames * VOCODER_HOP, start=start * VOCODER_HOP, dtype="float32"
            )
            mels.append(mel[start:stop].T)
            pitches.append(f0[start:stop])
            waves.append(torch.from_numpy(wave))
        return Segments(torch.stack(mels), torch.stack(pitches), torch.stack(waves))

    def code_batches(self, rng: Random, batch_codes: int) -> Iterator[CodeBatch]:
        """One epoch of whole answers in batches of like length, of so many codes at most."""
        lengths = [len(record["codes"]) for _, record in self.items]
        order = sorted(range(len(lengths)), key=lambda i: lengths[i] + rng.uniform(0, 5))
        groups: list[list[int]] = [[]]
        for number in order:
            if groups[-1] and (len(groups[-1]) + 1) * lengths[number] > batch_codes:
                groups.append([])
            groups[-1].append(number)
        rng.shuffle(groups)
        for group in groups:
            yield self.code_batch(group)

    def code_batch(self, numbers: list[int]) -> CodeBatch:
        """Whole answers by their numbers."""
        records = [self.items[n][1] for n in numbers]
        codes = [torch.tensor(r["codes"]) for r in records]
        mels = [self.mel_and_f0(n)[0] for n in numbers]
        return CodeBatch(
            nn.utils.rnn.pad_sequence(codes, batch_first=True),
            nn.utils.rnn.pad_sequence(mels, batch_first=True),
            torch.tensor([len(c) for c in codes]),
            [r["voice"] for r in records],
        )
