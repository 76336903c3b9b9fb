# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Run a scorer whose packages the toolkit does not run with in a Python of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

from evaluate.core import NotScored


def run_isolated(
    name: str,
    python: Path,
    worker: str,
    arguments: list[str],
    rows: list[Any],
    timeout_s: float | None = None,
) -> Any:
    """Give rows to a worker and read what it prints last.

    Args:
        name: of the scorer, for messages.
        python: interpreter of the environment that has its packages.
        worker: file of this folder; imports nothing of the toolkit, reads JSON from standard
            input and prints JSON as its last line.

    Raises:
        NotScored: it does not run, or fails; the message holds its last line.
    """
    # -I: this folder's modules must not stand in for those of the standard library.
    command = [str(python), "-I", str(Path(__file__).with_name(worker)), *arguments]
    try:
        done = subprocess.run(
            command, input=json.dumps(rows), capture_output=True, text=True, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotScored(f"{name} does not run: {error}") from error
    if done.returncode:
        raise NotScored(f"{name} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
