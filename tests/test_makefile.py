# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""`make` sets up what a command needs, no more, on whichever supported Python is there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT

# Makes an environment whose pip only notes what it was asked for.
PYTHON = """#!/bin/sh
[ "$1" = -c ] && exit {status}
mkdir -p "$3/bin"
printf '#!/bin/sh\\n' > "$3/bin/python"
printf '#!/bin/sh\\necho pip "$@"\\n' > "$3/bin/pip"
printf '#!/bin/sh\\n' > "$3/bin/funaudiochat"
chmod +x "$3"/bin/*
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the programs that the Makefile calls, and no Python."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("make", "sh", "test", "touch", "mkdir", "chmod", "find"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def add_python(tools: Path, version: str, works: bool = True) -> None:
    path = tools / f"python{version}"
    path.write_text(PYTHON.format(status=0 if works else 127))
    path.chmod(0o755)


def run_make(tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", f"VENV={tools.parent / 'venv'}", *arguments], cwd=ROOT, text=True,
        capture_output=True, timeout=60, env=environment | {"PATH": str(tools)},
    )  # fmt: skip


@pytest.mark.parametrize(
    "there, newest",
    [(["3.11"], "3.11"), (["3.11", "3.13"], "3.13"), (["3.11", "3.12"], "3.12")],
)
def test_the_newest_python_that_is_there_is_taken_and_named(tools, there, newest):
    for version in there:
        add_python(tools, version)
    done = run_make(tools, "setup")
    assert done.returncode == 0, done.stderr
    assert f"with python{newest}\n" in done.stdout


def test_a_python_that_does_not_start_is_passed_over(tools):
    add_python(tools, "3.11")
    add_python(tools, "3.13", works=False)  # as a version manager's placeholder
    assert "with python3.11\n" in run_make(tools, "setup").stdout


def test_without_a_python_one_line_says_so(tools):
    done = run_make(tools, "setup")
    assert done.returncode != 0 and "pip" not in done.stdout
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr


def test_the_demo_installs_neither_tests_nor_evaluation_and_says_what_it_does(tools):
    add_python(tools, "3.12")
    lines = run_make(tools, "demo").stdout.splitlines()
    asked = [line for line in lines if line.startswith("pip install")]
    assert asked == ["pip install torch==2.13.0", "pip install -e ."]
    for line in asked:
        assert lines[lines.index(line) - 2].startswith("== ")  # between them is the command itself


def test_the_server_installs_its_own_extra_alone(tools):
    add_python(tools, "3.12")
    planned = run_make(tools, "-n", "serve").stdout
    assert "pip install -e '.[serve]'" in planned
    assert "dev" not in [
        word
        for line in planned.splitlines()
        if "pip" in line
        for word in line.replace("[", " ").replace("]", " ").split()
    ]


def test_every_supported_python_is_declared_and_tested():
    declared = {
        line.split("::")[-1].strip(' ",')
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if "Programming Language :: Python ::" in line
    }
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert declared == {"3.11", "3.12", "3.13"}
    assert all(f'"{version}"' in workflow for version in declared)
