# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The page is built by a fit node only, and not at all where a release carries it."""

import os
import shutil
import subprocess

import pytest

from tests.helpers import ROOT


@pytest.fixture
def tree(tmp_path):
    """The Makefile, the page's sources and an npm that only tells that it was called."""
    client = tmp_path / "web_demo" / "client"
    client.mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("package-lock.json", "index.html", "vite.config.ts"):
        shutil.copy(ROOT / "web_demo" / "client" / name, client)
    for name in ("src", "public"):
        shutil.copytree(ROOT / "web_demo" / "client" / name, client / name)
    (tmp_path / "bin").mkdir()
    put(tmp_path / "bin" / "npm", 'echo "$@" >> "$CALLS"; mkdir -p node_modules')
    return tmp_path


def put(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def make(tree, target, node):
    put(tree / "bin" / "node", "exit 127" if node is None else f"echo {node}")
    path = f"{tree / 'bin'}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "CALLS": str(tree / "calls")}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        env.pop(name, None)
    return subprocess.run(
        ["make", target], cwd=tree, env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("target", ["page", "serve"])
@pytest.mark.parametrize("node", [None, "v18.20.4", "v20.18.3", "v21.7.0", "v22.11.0"])
def test_an_unfit_node_is_one_line_before_anything_is_installed(tree, node, target):
    done = make(tree, target, node)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "20.19" in errors[0] and (node or "none") in errors[0]
    assert not (tree / "calls").exists() and not (tree / ".venv").exists()


@pytest.mark.parametrize("node", ["v20.19.0", "v22.12.0", "v24.1.0"])
def test_a_fit_node_builds_the_page(tree, node):
    done = make(tree, "page", node)
    assert done.returncode == 0, done.stderr
    assert (tree / "calls").read_text().splitlines() == ["ci", "run build"]


def test_a_page_that_is_built_needs_no_node_until_a_source_changes(tree):
    built = tree / "web_demo" / "client" / "dist" / "index.html"
    built.parent.mkdir()
    built.write_text("page")
    assert make(tree, "page", None).returncode == 0
    source = tree / "web_demo" / "client" / "src" / "app.tsx"
    later = built.stat().st_mtime + 10
    os.utime(source, (later, later))
    assert make(tree, "page", None).returncode != 0
