# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tiny data and starting folders that several files train on."""

import json
from pathlib import Path

import pytest

from tests.helpers.starting_folders import CODES, write_all
from tests.helpers.tiny_recipe import write_data
from training.init_model import init_model


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict[str, Path]:
    """Folders of the rows and of what `funaudiochat init` begins with."""
    folder = tmp_path_factory.mktemp("recipe")
    write_data(folder / "data")
    return {"data": folder / "data", **write_all(folder / "sources")}


@pytest.fixture(scope="session")
def start(sources) -> Path:
    """A fresh joint checkpoint that asks for the scale of answering, as Nano does."""
    out = sources["data"].parent / "init"
    init_model(*(sources[part] for part in ("llm", "audio_encoder", "head")), out, CODES)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"halve_untranscribed_audio": False}))
    return out
