# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""`import funaudiochat` is light, and everything it promises can be imported from it."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import funaudiochat
from tests.helpers import ROOT


def test_the_import_takes_no_time_and_loads_no_framework():
    script = (
        "import sys, time; began = time.perf_counter(); import funaudiochat; "
        "took = time.perf_counter() - began; dir(funaudiochat); "
        "print(took, *({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    took, *loaded = done.stdout.split()
    assert float(took) < 0.3 and loaded == []


@pytest.mark.parametrize("name", funaudiochat.__all__)
def test_every_name_is_there_and_listed(name):
    value = getattr(funaudiochat, name)
    assert name in dir(funaudiochat)
    if isinstance(value, type):
        assert value.__name__ == name and value.__module__.startswith("funaudiochat.")


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(funaudiochat.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    static = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert static == {n: f"funaudiochat.{module}" for n, module in funaudiochat._MODULES.items()}


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Chat'"):
        funaudiochat.Chat  # noqa: B018
    with pytest.raises(ImportError):
        from funaudiochat import Chat  # noqa: F401


def test_the_version_has_one_home():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {
        "attr": "funaudiochat.__version__"
    }
