# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentence embeddings, which tell the choice of MMAU-Pro that a reply is nearest to.

NV-Embed-v2 brings code of its own, which runs with an older transformers than ours, so the model
is asked in a process of its own, through ``--embedder-python``; ``embedder_worker.py`` runs there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from evaluate.isolated import run_isolated
from funaudiochat.errors import FunAudioChatError


class Embedder:
    """A model of a folder that offers ``encode``, such as NV-Embed-v2.

    Args:
        python: interpreter of the environment it runs in; None for this one.

    Raises:
        FunAudioChatError: the folder holds no model.
    """

    def __init__(self, folder: Path, device: str = "auto", python: Path | None = None) -> None:
        if not (folder / "config.json").is_file():
            raise FunAudioChatError(
                f"{folder} is no folder of a model; --embedder names one of nvidia/NV-Embed-v2"
            )
        self._folder, self._device = folder.resolve(), device
        self._python = python or Path(sys.executable)
        self._known: dict[str, np.ndarray] = {}
        self.name = self._folder.name

    def embed(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [N, D] of ``N`` texts; each text is embedded once.

        Raises:
            NotScored: the model does not run there.
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
