# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Common Voice, English (word errors) and Chinese (character errors)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from evaluate.benchmarks.librispeech import GROUP, error_rate
from evaluate.core import Benchmark, HubData, Item, LayoutError, Row, Subset
from evaluate.data import RowOfData, csv_rows, embedded_audio, find_file, items_of, parquet_rows
from funaudiochat.constants import TRANSCRIBE_PROMPT


def _load(language: str, root: Path) -> Iterator[Item]:
    """Load the corpus's own tree (``test.tsv`` and ``clips/``), or Parquet files of the split."""
    names = (language, "zh-CN") if language == "zh" else (language,)
    folders = [folder for name in names if (folder := root / name).is_dir()]
    table = next((t for f in folders if (t := f / "test.tsv").is_file()), None)
    found = [*root.glob(f"**/{language}[-_.]*parquet")]
    found += [path for folder in folders for path in folder.glob("*.parquet")]
    parquet = sorted(set(found))

    def item(row: RowOfData) -> dict[str, Any]:
        if table is not None:
            audio: Path | bytes = find_file(row.text("path"), table.parent / "clips", table.parent)
        else:
            audio = embedded_audio(row, root)
        return {
            "audio": audio,
            "instruction": TRANSCRIBE_PROMPT,
            "fields": {"reference": row.text("sentence"), "language": language},
        }

    if table is not None:
        return items_of(csv_rows(table, "\t"), item)
    if not parquet:
        raise LayoutError(
            f"found neither {root}/{language}/test.tsv with clips/ nor {language}-*.parquet"
        )
    return items_of(parquet_rows(parquet), item)


BENCHMARK = Benchmark(
    name="common-voice",
    title="Common Voice",
    folder="CommonVoice",
    layout="<language>/test.tsv with clips/, or <language>-*.parquet (columns audio, sentence)",
    needs="whisper-normalizer, compute-wer",
    notes=("the paper does not state the version, 15.0 is assumed; zh counts characters",),
    hub=tuple(
        HubData("TwinkStart/CommonVoice_15", layouts=layouts, subset=language)
        for language, layouts in (
            (name, ((f"*/{name}-*.parquet",), (f"{name}-*.parquet",), (f"{name}/*.parquet",)))
            for name in ("en", "zh")
        )
    ),
    manual="the corpus itself: Mozilla Data Collective, version 15.0",
    subsets=tuple(
        Subset(
            language,
            partial(_load, language),
            (error_rate("error rate"),),
            (
                Row(
                    GROUP,
                    f"Common Voice {language}",
                    (("error rate",),),
                    unlike="the paper does not state the version of its data",
                ),
            ),
            count,
        )
        # Test split of version 15.0, according to _meta/common_voice_15.json of evalscope 1.14.1;
        # the paper does not state which version it used.
        for language, count in (("en", 16_386), ("zh", 10_625))
    ),
)
