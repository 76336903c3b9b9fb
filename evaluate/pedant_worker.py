# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Worker that runs in PEDANT's environment: reads rows from standard input, prints the result.

It must not import anything of the toolkit.
"""

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def install_models(folder: Path) -> None:
    """Copy the classifier to the folder in which the package looks for it."""
    import qa_metrics

    target = Path(qa_metrics.__file__).parent / "classifier"
    target.mkdir(exist_ok=True)
    for name in ("lr_classifier", "tf-idf_vectorizer"):
        source = folder / name
        shutil.copy(
            source if source.exists() else source.with_suffix(".pkl"), target / f"{name}.pkl"
        )


def installed_version() -> str:
    """Return the version of qa-metrics."""
    try:
        return version("qa-metrics")
    except PackageNotFoundError:
        return "of unknown version"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        install_models(Path(sys.argv[1]))
    from qa_metrics.pedant import PEDANT

    pedant = PEDANT()
    verdicts = [
        bool(pedant.evaluate([row["reference"]], row["response"], row["question"]))
        for row in json.load(sys.stdin)
    ]
    print(json.dumps({"version": installed_version(), "verdicts": verdicts}))
