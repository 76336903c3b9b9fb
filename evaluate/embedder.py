# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentence embeddings, which tell the choice of MMAU-Pro that a reply is nearest to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from funaudiochat.errors import FunAudioChatError

_TEXTS_AT_A_TIME = 8
_LONGEST_TOKENS = 4096


class Embedder:
    """A model of a folder that offers ``encode``, such as NV-Embed-v2.

    Raises:
        FunAudioChatError: the folder holds no such model.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        from transformers import AutoModel

        from funaudiochat.conversation import resolve_device

        try:
            model = AutoModel.from_pretrained(folder, trust_remote_code=True)
            self._encode = model.to(resolve_device(device)).eval().encode
        except (OSError, ValueError, AttributeError) as error:
            raise FunAudioChatError(f"{folder} holds no model with encode(): {error}") from error
        self.name = folder.resolve().name

    def embed(self, texts: list[str]) -> np.ndarray:
        """Unit vectors [N, D] of ``N`` texts."""
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            chunk = texts[start : start + _TEXTS_AT_A_TIME]
            # numpy knows no bfloat16
            parts.append(self._encode(chunk, max_length=_LONGEST_TOKENS).float().cpu().numpy())
        vectors = np.concatenate(parts).astype(np.float64)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
