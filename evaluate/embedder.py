# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentence embeddings, used to find the choice of an MMAU-Pro item that is closest to a reply.

NV-Embed-v2 ships code that needs an older version of transformers than the toolkit. It is therefore
run by the interpreter given with ``--embedder-python``, in ``embedder_worker.py``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from evaluate.isolated import run_isolated
from funaudiochat.errors import FunAudioChatError


class Embedder:
    """An embedding model with an ``encode`` method, such as NV-Embed-v2.

    Args:
        folder: folder of the model.
        device: device to run on.
        python: interpreter of the environment in which it runs; None for the current one.

    Raises:
        FunAudioChatError: the folder contains no model.
    """

    def __init__(self, folder: Path, device: str = "auto", python: Path | None = None) -> None:
        if not (folder / "config.json").is_file():
            raise FunAudioChatError(
                f"{folder} is not a model folder; --embedder must name a folder with "
                "nvidia/NV-Embed-v2"
            )
        self._folder, self._device = folder.resolve(), device
        self._python = python or Path(sys.executable)
        self._known: dict[str, np.ndarray] = {}
        self.name = self._folder.name

    def embed(self, texts: list[str]) -> np.ndarray:
        """Return unit vectors [N, D] of ``N`` texts; each distinct text is embedded once.

        Raises:
            NotScored: the model cannot be run.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, self._vectors(new), strict=True)
        vectors = np.stack([self._known[text] for text in texts]).astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _vectors(self, texts: list[str]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "vectors"
            done = run_isolated(
                "the embedder",
                self._python,
                "embedder_worker.py",
                [str(self._folder), self._device, str(file)],
                texts,
            )
            vectors = np.fromfile(file, dtype=np.float32).reshape(len(texts), -1)
        self.name = f"{self._folder.name} (transformers {done['transformers']})"
        return vectors
