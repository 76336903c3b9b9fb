# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Run a scorer with conflicting dependencies in another Python environment."""

import json
import subprocess
from pathlib import Path
from typing import Any

from evaluate.verdict import NotScored


def run_isolated(
    name: str,
    python: Path,
    worker: str,
    arguments: list[str],
    rows: list[Any],
    timeout_s: float | None = None,
) -> Any:
    """Send rows to a worker process and return the JSON that it prints last.

    Args:
        name: name of the scorer, for messages.
        python: interpreter of the environment with the scorer's packages.
        worker: file in this folder that imports nothing of the toolkit, reads JSON from standard
            input and prints JSON as its last line.
        arguments: command-line arguments of the worker.
        rows: JSON data for the worker.
        timeout_s: time limit; None for no limit.

    Raises:
        NotScored: the worker cannot be started, or fails; the message has its last line.
    """
    # -I: modules of this folder must not shadow those of the standard library.
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
