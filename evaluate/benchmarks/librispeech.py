# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""LibriSpeech test-clean and test-other: word error rate."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Benchmark, Item, LayoutError, Metric, Row, Subset, per_answer
from evaluate.data import RowError, RowOfData, find_file, items_of
from evaluate.metrics import ERROR_RATE_LIBRARIES, ERROR_RATE_NOTE, word_errors
from evaluate.verdict import Answer, Verdict
from funaudiochat.constants import TRANSCRIBE_PROMPT

GROUP = "Speech recognition (WER %)"


def recognised(answer: Answer) -> Verdict:
    """Count word errors of the reply against the reference."""
    return word_errors(answer.fields["language"], answer.fields["reference"], answer.text)


def error_rate(name: str) -> Metric:
    """Build the word error rate metric under this name."""
    return Metric(
        name,
        per_answer(recognised),
        note=ERROR_RATE_NOTE,
        libraries=ERROR_RATE_LIBRARIES,
        highest=math.inf,
    )


def _lines(folder: Path) -> Iterator[RowOfData]:
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            yield RowOfData(path, f"line {number}", {"line": line})


def _item(row: RowOfData) -> dict[str, Any]:
    id_, blank, reference = row.columns["line"].partition(" ")
    if not blank or not id_:
        raise RowError("not an 'id TEXT' line")
    return {
        "id": id_,
        "audio": find_file(f"{id_}.flac", row.path.parent),
        "instruction": TRANSCRIBE_PROMPT,
        "fields": {"reference": reference, "language": "en"},
    }


def _load(name: str, root: Path) -> Iterator[Item]:
    folder = root / name
    if not any(folder.glob("*/*/*.trans.txt")):
        raise LayoutError(
            f"no {folder}/<speaker>/<chapter>/*.trans.txt; unpack {name}.tar.gz of OpenSLR 12 there"
        )
    return items_of(_lines(folder), _item)


BENCHMARK = Benchmark(
    name="librispeech",
    title="LibriSpeech",
    folder="LibriSpeech",
    layout="the tree of OpenSLR 12: test-clean/<speaker>/<chapter>/*.flac and *.trans.txt",
    needs="whisper-normalizer, compute-wer",
    manual="download test-clean.tar.gz and test-other.tar.gz from OpenSLR 12 and unpack them here",
    subsets=tuple(
        Subset(
            name,
            partial(_load, name),
            (error_rate("WER"),),
            (Row(GROUP, f"LibriSpeech {name}", (("WER",),)),),
            count,
        )
        for name, count in (("test-clean", 2620), ("test-other", 2939))
    ),
)
