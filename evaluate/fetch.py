# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Get the benchmarks' data from the hub, or say what a person has to put where."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path

from evaluate.core import Benchmark
from funaudiochat.errors import DownloadError


def fetch(
    benchmark: Benchmark, data: Path, subsets: Collection[str] | None = None
) -> Iterator[str]:
    """Download what a benchmark reads; run it again to go on where it stopped.

    Args:
        subsets: names of those that are wanted; None for all.

    Yields:
        What was done, and what is left to do by hand.

    Raises:
        DownloadError: a transfer failed.
    """
    folder = data / benchmark.folder
    for source in benchmark.hub:
        if None not in (subsets, source.subset) and source.subset not in (subsets or ()):
            continue
        from huggingface_hub import HfApi, snapshot_download

        target = folder / source.folder
        try:
            found = HfApi().dataset_info(source.repository).siblings or []
            patterns = needed([file.rfilename for file in found], source.layouts)
            snapshot_download(
                source.repository,
                repo_type="dataset",
                local_dir=target,
                allow_patterns=patterns,
            )
        except Exception as error:  # the library raises many kinds
            raise DownloadError(
                f"fetching {source.repository} failed ({error}); run the command again to go on. "
                f"By hand: put {benchmark.layout} below {folder}"
            ) from error
        yield f"{source.repository} is in {target}; its card there states its licence"
    if benchmark.manual:
        yield f"{benchmark.title}: {benchmark.manual} ({folder})"


def needed(files: list[str], layouts: tuple[tuple[str, ...], ...]) -> list[str] | None:
    """Patterns of the files to fetch, the card among them; None for all."""
    for patterns in layouts:
        if all(any(fnmatch(file, pattern) for file in files) for pattern in patterns):
            return [*patterns, "README.md"]
    return None
