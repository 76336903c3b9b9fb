# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What is heard in spoken replies: transcripts and predicted opinion scores, kept by file.

The weights are the user's: without them the scores that need them are not computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluate.core import Answer, Unheard
from evaluate.exchange import read_rows
from evaluate.records import appending, fingerprint, json_rows
from funaudiochat.audio import load_audio
from funaudiochat.errors import FunAudioChatError

_RATE_HZ = 16_000
NO_SPEECH = "no speech: the answer was given as text only"


class Kept:
    """Results by the content of a sound, in a JSONL file of the run."""

    def __init__(self, path: Path, maker: str) -> None:
        self._path, self._maker = path, maker
        self._known = {
            row["sha256"]: row["result"] for row in json_rows(path) if row.get("maker") == maker
        }

    def each(self, answers: list[Answer], make: Callable[[Path], Any]) -> list[Any]:
        """``make`` of every reply's sound, None without one, Unheard where it cannot be used."""
        return [None if a.sound is None else self._of(a, a.sound, make) for a in answers]

    def _of(self, answer: Answer, sound: Path, make: Callable[[Path], Any]) -> Any:
        try:
            digest = hashlib.sha256(sound.read_bytes()).hexdigest()
            if digest in self._known:
                return self._known[digest]
            result = make(sound)
        except (OSError, FunAudioChatError) as error:
            return Unheard(str(error))
        row = {
            "benchmark": answer.benchmark,
            "subset": answer.subset,
            "id": answer.id,
            "sha256": digest,
            "maker": self._maker,
            "result": result,
        }
        with appending(self._path, wait=True) as journal:
            journal.append([row])
        self._known[digest] = result
        return result


class Transcriber:
    """Whisper from a folder, or ``file:transcripts.jsonl`` with recorded transcripts.

    A row of the file has ``benchmark``, ``subset``, ``id`` and ``text``.
    """

    def __init__(self, spec: str, run: Path, device: str = "auto") -> None:
        self._recorded: dict[tuple[str, str, str], str] | None = None
        path = Path(spec.removeprefix("file:"))
        self.name = path.resolve().name
        if spec.startswith("file:"):
            self.name = f"recorded ({path.name})"
            rows = read_rows(path)
            try:
                self._recorded = {
                    (row["benchmark"], row["subset"], str(row["id"])): row["text"] for row in rows
                }
            except KeyError as error:
                raise FunAudioChatError(f"{spec}: a row lacks {error}") from error
            return
        self._pipeline = _whisper(path, device)
        self.name += f" ({fingerprint(path)})"
        self._kept = Kept(run / "transcripts.jsonl", self.name)

    def transcripts(self, answers: list[Answer]) -> list[str | Unheard]:
        """One text for each answer; empty where the model was silent, not where it cannot speak."""
        if self._recorded is None:
            heard = self._kept.each(answers, self._transcribe)
        else:
            heard = [self._recorded_text(answer) for answer in answers]
        return [
            Unheard(NO_SPEECH) if answer.sound is None and not answer.silent else text or ""
            for answer, text in zip(answers, heard, strict=True)
        ]

    def _recorded_text(self, answer: Answer) -> str | Unheard:
        assert self._recorded is not None
        text = self._recorded.get((answer.benchmark, answer.subset, answer.id))
        if text is None and answer.sound is not None:
            return Unheard("no transcript is recorded for it")
        return text or ""

    def _transcribe(self, path: Path) -> str:
        wave = load_audio(path, _RATE_HZ)
        given = {"raw": wave, "sampling_rate": _RATE_HZ}
        return self._pipeline(given, return_timestamps=True)["text"]


def _whisper(folder: Path, device: str) -> Any:
    if not (folder / "config.json").is_file():
        raise FunAudioChatError(
            f"{folder} is no folder of a Whisper checkpoint; --asr names one of "
            "openai/whisper-large-v3: hf download openai/whisper-large-v3 --local-dir "
            "whisper-large-v3"
        )
    import torch
    from transformers import pipeline

    from funaudiochat.device import resolve_device

    place = resolve_device(device)
    return pipeline(
        "automatic-speech-recognition",
        model=str(folder),
        device=place,
        dtype=torch.float16 if place.type == "cuda" else torch.float32,
    )


class OpinionScore:
    """UTMOS22 strong, from a file of the package utmos-pytorch's scripted weights."""

    def __init__(self, weights: Path, run: Path, device: str = "auto") -> None:
        if not weights.is_file():
            raise FunAudioChatError(
                f"no file {weights}; --utmos names utmos_scripted.pt of Blinorot/UTMOS-PyTorch: "
                "hf download Blinorot/UTMOS-PyTorch utmos_scripted.pt --local-dir utmos"
            )
        try:
            from utmos_pytorch import UTMOSScoreScripted
        except ModuleNotFoundError as error:
            raise FunAudioChatError("UTMOS needs its package: pip install utmos-pytorch") from error
        from funaudiochat.device import resolve_device

        self._device = resolve_device(device)
        self._model = UTMOSScoreScripted(str(weights), str(self._device))
        self.name = f"{weights.name} ({fingerprint(weights)})"
        self._kept = Kept(run / "utmos.jsonl", self.name)

    def scores(self, answers: list[Answer]) -> list[float | Unheard | None]:
        """One score for each answer; None where the reply has no sound."""
        return self._kept.each(answers, self._score)

    def _score(self, path: Path) -> float:
        import torch

        wave = torch.from_numpy(load_audio(path, _RATE_HZ))[None].to(self._device)
        return float(self._model.score(wave).reshape(-1)[0])
