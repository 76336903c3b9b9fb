# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Save turns to disk, if the operator asks for it."""

import json
import os
import re
from pathlib import Path

import numpy as np

from funaudiochat.audio import save_wav
from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ


class Recordings:
    """Writes ``SESSION_TURN_question.wav``, ``..._answer.wav`` and ``....json`` to one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save(
        self, session: str, turn: int, question: np.ndarray | str, answer: str, audio: np.ndarray
    ) -> None:
        """Save one turn.

        Args:
            session: name of the session.
            turn: number of the turn.
            question: samples [S] at 16 kHz, or text.
            answer: text of the reply.
            audio: samples [S] of the reply at 24 kHz.

        Raises:
            OSError: a file cannot be written.
        """
        # The session's name is random and never the client's: two sessions cannot share one.
        stem = self._folder / f"{re.sub(r'[^0-9A-Za-z]', '', session)}_{turn:03d}"
        text = question if isinstance(question, str) else None
        if not isinstance(question, str):
            save_wav(_private(f"{stem}_question.wav"), question, INPUT_RATE_HZ)
        if len(audio):
            save_wav(_private(f"{stem}_answer.wav"), audio, OUTPUT_RATE_HZ)
        record = {"session": session, "turn": turn, "question": text, "answer": answer}
        path = _private(f"{stem}.json")
        path.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")

    def feedback(self, record: dict[str, str]) -> None:
        """Append a rating to ``feedback.jsonl``."""
        with _private(self._folder / "feedback.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _private(path: str | Path) -> Path:
    """Create the file if needed, readable by its owner only: voices are personal data."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return Path(path)
