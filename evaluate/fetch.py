# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Download the data of benchmarks from the hub, or say what to obtain by hand."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path

from evaluate.core import Benchmark
from funaudiochat.errors import DownloadError


def fetch(
    benchmark: Benchmark, data: Path, subsets: Collection[str] | None = None
) -> Iterator[str]:
    """Download the data that a benchmark reads; interrupted downloads resume.

    Args:
        benchmark: the benchmark.
        data: root folder of the data sets.
        subsets: names of the subsets to download; None for all.

    Yields:
        Messages on what was downloaded and what remains to be done by hand.

    Raises:
        DownloadError: a download failed.
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
        except Exception as error:  # the library raises many types
            raise DownloadError(
                f"downloading {source.repository} failed ({error}); run the command again to "
                f"resume, or put the files below {folder} by hand: {benchmark.layout}"
            ) from error
        yield f"{source.repository} is in {target}; see the dataset card there for its licence"
    if benchmark.manual:
        yield f"{benchmark.title}: {benchmark.manual} ({folder})"


def needed(files: list[str], layouts: tuple[tuple[str, ...], ...]) -> list[str] | None:
    """Return the patterns of the files to download, including the dataset card; None for all."""
    for patterns in layouts:
        if all(any(fnmatch(file, pattern) for file in files) for pattern in patterns):
            return [*patterns, "README.md"]
    return None
