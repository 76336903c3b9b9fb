# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Transcripts and predicted opinion scores of spoken replies, cached by audio content.

The weights are supplied by the user; scores that need missing weights are not computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from evaluate.exchange import read_rows
from evaluate.records import appending, fingerprint, json_rows
from evaluate.verdict import Answer, AudioUnavailable
from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError

T = TypeVar("T")

NO_SPEECH = "no speech: the answer was given as text only"


class ResultCache:
    """Cache results by the content of an audio file, in a JSONL file of the run.

    Args:
        path: the JSONL file.
        maker: model that produces the results; those of another one are not reused.
    """

    def __init__(self, path: Path, maker: str) -> None:
        self._path, self._maker = path, maker
        self._known = {
            row["sha256"]: row["result"] for row in json_rows(path) if row.get("maker") == maker
        }

    def results(
        self, answers: list[Answer], make: Callable[[Path], T]
    ) -> list[T | AudioUnavailable | None]:
        """Apply ``make`` to the audio of every reply.

        A reply without audio gives None, one whose audio cannot be decoded AudioUnavailable.
        """
        return [None if a.audio is None else self._result(a, a.audio, make) for a in answers]

    def _result(
        self, answer: Answer, audio: Path, make: Callable[[Path], T]
    ) -> T | AudioUnavailable:
        try:
            digest = hashlib.sha256(audio.read_bytes()).hexdigest()
            if digest in self._known:
                return self._known[digest]
            result = make(audio)
        except (OSError, FunAudioChatError) as error:
            return AudioUnavailable(str(error))
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

    The rows of the file have the fields ``benchmark``, ``subset``, ``id`` and ``text``.
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
                raise FunAudioChatError(f"{spec}: a row lacks the field {error}") from error
            return
        self._pipeline = _whisper(path, device)
        self.name += f" ({fingerprint(path)})"
        self._cache = ResultCache(run / "transcripts.jsonl", self.name)

    def transcripts(self, answers: list[Answer]) -> list[str | AudioUnavailable]:
        """Return one text per answer, empty if the model was silent."""
        texts: Sequence[str | AudioUnavailable | None]
        if self._recorded is None:
            texts = self._cache.results(answers, self._transcribe)
        else:
            texts = [self._recorded_text(answer) for answer in answers]
        return [
            AudioUnavailable(NO_SPEECH)
            if answer.audio is None and not answer.silent
            else text or ""
            for answer, text in zip(answers, texts, strict=True)
        ]

    def _recorded_text(self, answer: Answer) -> str | AudioUnavailable:
        assert self._recorded is not None
        text = self._recorded.get((answer.benchmark, answer.subset, answer.id))
        if text is None and answer.audio is not None:
            return AudioUnavailable("no recorded transcript for this item")
        return text or ""

    def _transcribe(self, path: Path) -> str:
        audio = {"raw": load_audio(path, INPUT_RATE_HZ), "sampling_rate": INPUT_RATE_HZ}
        return self._pipeline(audio, return_timestamps=True)["text"]


def _whisper(folder: Path, device: str) -> Any:  # the declared type of a pipeline is too narrow
    if not (folder / "config.json").is_file():
        raise FunAudioChatError(
            f"{folder} is not a Whisper checkpoint; --asr must name a folder with "
            "openai/whisper-large-v3: hf download openai/whisper-large-v3 --local-dir "
            "whisper-large-v3"
        )
    import torch
    from transformers import pipeline

    from funaudiochat.device import resolve_device

    torch_device = resolve_device(device)
    return pipeline(
        "automatic-speech-recognition",
        model=str(folder),
        device=torch_device,
        dtype=torch.float16 if torch_device.type == "cuda" else torch.float32,
    )


class OpinionScore:
    """UTMOS22 strong, from the TorchScript weights of the package utmos-pytorch."""

    def __init__(self, weights: Path, run: Path, device: str = "auto") -> None:
        if not weights.is_file():
            raise FunAudioChatError(
                f"no file {weights}; --utmos must name the file utmos_scripted.pt: "
                "hf download Blinorot/UTMOS-PyTorch utmos_scripted.pt --local-dir utmos"
            )
        try:
            from utmos_pytorch import UTMOSScoreScripted
        except ModuleNotFoundError as error:
            raise FunAudioChatError(
                "--utmos needs the package utmos-pytorch: pip install utmos-pytorch"
            ) from error
        from funaudiochat.device import resolve_device

        self._device = resolve_device(device)
        self._model = UTMOSScoreScripted(str(weights), str(self._device))
        self.name = f"{weights.name} ({fingerprint(weights)})"
        self._cache = ResultCache(run / "utmos.jsonl", self.name)

    def scores(self, answers: list[Answer]) -> list[float | AudioUnavailable | None]:
        """Return one score per answer, None if the reply has no audio."""
        return self._cache.results(answers, self._score)

    def _score(self, path: Path) -> float:
        import torch

        audio = torch.from_numpy(load_audio(path, INPUT_RATE_HZ))[None].to(self._device)
        return float(self._model.score(audio).reshape(-1)[0])
