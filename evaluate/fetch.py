# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Get the benchmarks' data from the hub, or say what a person has to put where."""

from collections.abc import Iterator
from pathlib import Path

from evaluate.core import Benchmark
from funaudiochat.errors import DownloadError


def fetch(benchmark: Benchmark, data: Path) -> Iterator[str]:
    """Download a benchmark's data sets; run it again to go on where it stopped.

    Yields:
        What was done, and what is left to do by hand.

    Raises:
        DownloadError: a transfer failed.
    """
    folder = data / benchmark.folder
    for source in benchmark.hub:
        from huggingface_hub import snapshot_download

        target = folder / source.folder
        try:
            snapshot_download(
                source.repository,
                repo_type="dataset",
                local_dir=target,
                allow_patterns=list(source.patterns) or None,
            )
        except Exception as error:  # the library raises many kinds
            raise DownloadError(
                f"fetching {source.repository} failed ({error}); run the command again to go on. "
                f"By hand: put {benchmark.layout} below {folder}"
            ) from error
        yield f"{source.repository} is in {target}; its card there states its licence"
    if benchmark.manual:
        yield f"{benchmark.title}: {benchmark.manual} ({folder})"
