# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turns kept on disk, only if the operator asks for it."""

import json
import os
import re
from pathlib import Path

import numpy as np

from funaudiochat.audio import save_wav
from web_demo.server.opus import MODEL_RATE_HZ, REPLY_RATE_HZ


class Recordings:
    """Files ``SESSION_TURN_question.wav``, ``..._answer.wav`` and ``....json`` of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save(
        self, session: str, turn: int, question: np.ndarray | str, answer: str, sound: np.ndarray
    ) -> None:
        """One turn: the question's 16 kHz samples or text, the answer's text and 24 kHz sound.

        Raises:
            OSError: it cannot be written.
        """
        # The name is random, never the client's; two talks cannot share one.
        stem = self._folder / f"{re.sub(r'[^0-9A-Za-z]', '', session)}_{turn:03d}"
        text = question if isinstance(question, str) else None
        if not isinstance(question, str):
            save_wav(_private(f"{stem}_question.wav"), question, MODEL_RATE_HZ)
        if len(sound):
            save_wav(_private(f"{stem}_answer.wav"), sound, REPLY_RATE_HZ)
        record = {"session": session, "turn": turn, "question": text, "answer": answer}
        path = _private(f"{stem}.json")
        path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")

    def feedback(self, record: dict[str, str]) -> None:
        """Add a rating to ``feedback.jsonl``."""
        with _private(self._folder / "feedback.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _private(path: str | Path) -> Path:
    """Make the file, if it is not there, for its owner alone: voices are personal data."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return Path(path)
