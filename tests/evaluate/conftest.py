# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Fixtures shared by all evaluation tests: mini data, tiny checkpoints, a chat server."""

import pytest

from evaluate.local_model import LocalModel
from tests.helpers.chat_server import Server
from tests.helpers.tiny_folders import build


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """Return the folder of synthetic data in the layout of every benchmark."""
    for package in ("pyarrow", "nltk", "punkt", "regex", "whisper_normalizer", "compute_wer"):
        pytest.importorskip(package, reason=f"{package} is missing: make eval-setup")
    from evaluate.mini_data import build as build_mini

    return build_mini(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return the folders of a tiny language model and a tiny detokenizer."""
    return build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def model(folders):
    return LocalModel(*folders, device="cpu", max_new_tokens=6)


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    started = []

    def start(reply):
        started.append(Server(reply))
        return started[-1]

    yield start
    for one in started:
        one.shutdown()
        one.server_close()
