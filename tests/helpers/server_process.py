# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The server as a process of its own."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

from tests.helpers import ROOT
from tests.helpers.web_clients import TIMEOUT_S


class Process:
    """What `Page` needs of a server in another process, and what it logged before it opened."""

    def __init__(self, process, url, log):
        self.process, self.url, self.log = process, url, log


@contextmanager
def started(folders, *flags):
    """`funaudiochat serve` on a free port, ended at the end of the block."""
    paths = ["--model-path", folders[0], "--tts-path", folders[1]] if folders else []
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "funaudiochat.cli",
            "serve",
            *paths,
            "--port",
            "0",
            "--log-json",
            *flags,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = []
        for line in process.stderr:
            if line.startswith("{"):
                log.append(json.loads(line)["message"])
                if log[-1].startswith("open "):
                    break
        yield Process(process, log[-1].removeprefix("open "), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=TIMEOUT_S)
