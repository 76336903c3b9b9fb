# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The command line in a process of its own."""

import os
import subprocess
import sys

from tests.helpers import ROOT

CLI = ["-m", "funaudiochat.cli"]


def run(*arguments, cwd, code=0, stdin="", path=""):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        input=stdin,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{path}",
            "FUNAUDIOCHAT_HOME": str(cwd / "models"),
        },
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done
