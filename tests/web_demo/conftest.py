# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Tiny models, loaded once, a server on them, and browsers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import save_file

from tests.helpers import browser as browsers
from tests.helpers import recordings
from tests.helpers.tiny_folders import build
from tests.helpers.web_clients import running, spying
from web_demo.server.engine import Models
from web_demo.server.vad import load_network

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of the official format with two voices."""
    model, tts = build(tmp_path_factory.mktemp("models"))
    generator = torch.Generator().manual_seed(0)
    voices = {name: torch.randn(192, generator=generator) for name in ("anna", "ben")}
    save_file(voices, tts / "voices.safetensors")
    return model, tts


@pytest.fixture(scope="session")
def network():
    """The network that detects voices."""
    found = load_network()
    if found is None:
        pytest.skip("silero-vad is not installed")
    return found


@pytest.fixture(scope="session")
def models(folders):
    return Models.load(*folders, device="cpu", tts_device="cpu", voice="anna")


@pytest.fixture(scope="session")
def watched(models):
    """The models, and the log of what they are asked."""
    return spying(models)


@pytest.fixture
def asked(watched):
    """What the models of `server` were asked in this test."""
    watched[1].clear()
    return watched[1]


@pytest.fixture(scope="module")
def bridge() -> Iterator[browsers.Browser]:
    started = browsers.Browser()
    yield started
    started.close()


@pytest.fixture
def browser(bridge: browsers.Browser) -> Iterator[browsers.Browser]:
    """Its pages end with the test."""
    yield bridge
    bridge.close_pages()


@pytest.fixture(scope="session")
def server(watched):
    with running(watched[0], max_sessions=8) as found:
        yield found


@pytest.fixture
def speaking(tmp_path: Path) -> Path:
    said = recordings.question(recordings.MICROPHONE_HZ)
    return recordings.microphone(tmp_path / "said.wav", said, silence_s=2.0)
