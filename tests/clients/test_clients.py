# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Clients of others talk with Nano over real sockets: the guide's examples, then conversations.

They live in environments of their own, which `make clients-test` installs; without them these
tests are skipped.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from funaudiochat import hub
from tests.helpers import recordings
from tests.helpers.realtime_clients import pcm16
from tests.helpers.web_clients import running
from training.nano.judge import hear, judge_available
from web_demo.server.engine import Models

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = Path(os.environ.get("CLIENTS_VENV", ROOT / ".venv-clients")) / "bin" / "python"
NODE = Path(os.environ.get("CLIENTS_NODE", ROOT / ".venv-clients" / "node"))
TIMEOUT_S = 240
GUIDE = (ROOT / "docs" / "openai-api.md").read_text(encoding="utf-8")
EXAMPLES = {
    name: code
    for _, code in re.findall(r"```(python|javascript)\n(.*?)```", GUIDE, re.DOTALL)
    for name in re.findall(r"^(?:#|//) ([\w-]+): ", code)
}
SCRIPTS = ["openai_client.py", "agents_client.py", "pipecat_client.py", "livekit_client.py",
           "agents_client.mjs"]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nano():
    models = Models.load(hub.NANO_MODEL, hub.NANO_TTS, "cpu", "cpu", None)
    with running(models, max_sessions=2) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """A folder with the spoken questions as the guide has them."""
    for name in ("question", "follow_up"):
        path = recordings.QUESTION.with_name(f"{name}.wav")
        samples = recordings.read(path, 24000)
        (tmp_path / f"{name}.pcm").write_bytes(pcm16(samples))
    return tmp_path


def command(script: Path) -> list[str]:
    """Return what runs a script; skip where its client is not installed."""
    if script.suffix == ".mjs":
        if not (NODE / "node_modules" / "@openai" / "agents").is_dir():
            pytest.skip("no @openai/agents (make clients-test installs it)")
        here = NODE / script.name
        here.write_text(script.read_text(encoding="utf-8"), encoding="utf-8")
        return ["node", str(here)]
    if not PYTHON.is_file():
        pytest.skip("no environment for clients (make clients-test makes it)")
    return [str(PYTHON), str(script)]


def run(script: Path, folder: Path, *args: str) -> str:
    done = subprocess.run(
        [*command(script), *args], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_guides_example_hears_the_answer(nano, folder, name):
    script = folder / f"{name}_example{'.mjs' if name.endswith('js') else '.py'}"
    address = nano.url.removeprefix("http://")
    script.write_text(EXAMPLES[name].replace("localhost:11236", address), encoding="utf-8")
    assert "Paris" in run(script, folder)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_client_has_a_conversation(nano, folder, script):
    """Two spoken turns, an interruption, a tool whose result is spoken, an error, close."""
    said = run(HERE / script, folder, nano.url, nano.context.models.name)
    result = json.loads(said.strip().splitlines()[-1])
    assert "Paris" in result["first"] and "Berlin" in result["second"]
    assert result["interrupted"]
    assert result["tool"] == {"name": "get_weather", "city": "Paris"}
    assert "sunny" in result["told"] and "twenty" in result["told"]
    assert "nothing" in result["error"]
    reply = folder / "reply.pcm"
    if reply.is_file() and judge_available():
        heard = np.frombuffer(reply.read_bytes(), "<i2").astype(np.float32) / 32768
        assert "paris" in hear(recordings.without_pauses(heard, 24000), 24000).lower()
