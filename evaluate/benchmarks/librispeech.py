# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""LibriSpeech test-clean and test-other: word error rate."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.core import Answer, Benchmark, Item, LayoutError, Metric, Row, Subset, Verdict, each
from evaluate.data import RowError, RowOfData, find_file, items_of
from evaluate.metrics import ERROR_RATE_LIBRARIES, ERROR_RATE_NOTE, word_errors

GROUP = "Speech recognition (WER %)"
ASR_INSTRUCTION = "Please help me transcribe the audio."


def recognised(answer: Answer) -> Verdict:
    """Word errors of the reply against the reference."""
    return word_errors(answer.fields["language"], answer.fields["reference"], answer.text)


def error_rate(name: str) -> Metric:
    """The metric of recognised speech, under this name."""
    return Metric(
        name,
        each(recognised),
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
        raise RowError("is no 'id TEXT' line")
    return {
        "id": id_,
        "audio": find_file(f"{id_}.flac", row.path.parent),
        "instruction": ASR_INSTRUCTION,
        "fields": {"reference": reference, "language": "en"},
    }


def _load(name: str, root: Path) -> Iterator[Item]:
    folder = root / name
    if not any(folder.glob("*/*/*.trans.txt")):
        raise LayoutError(
            f"no {folder}/<speaker>/<chapter>/*.trans.txt: unpack {name}.tar.gz of OpenSLR 12 there"
        )
    return items_of(_lines(folder), _item)


BENCHMARK = Benchmark(
    name="librispeech",
    title="LibriSpeech",
    folder="LibriSpeech",
    layout="the tree of OpenSLR 12: test-clean/<speaker>/<chapter>/*.flac and *.trans.txt",
    needs="whisper-normalizer, compute-wer",
    manual="take test-clean.tar.gz and test-other.tar.gz from OpenSLR 12 and unpack them here",
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
