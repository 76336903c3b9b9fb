# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The benchmarks measure what they say, and end with their table or with one clear message."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import generation  # noqa: E402
from common import chat_model  # noqa: E402


def test_transformers_modules_make_the_steps_of_the_decode_loop(monkeypatch):
    monkeypatch.setattr(generation, "STEPS", 4)
    model, inputs = chat_model(), generation.prompt(1)
    rows, speech = generation.generate(model, inputs, generation.options(True))
    heads = {"text": model.language_model.lm_head, "codes": model.audio_invert_tower.lm_head}
    seen: list[str] = []
    for name, head in heads.items():
        head.register_forward_hook(lambda *_, name=name: seen.append(name))
    generation.decode_loop(model, inputs)
    looped = seen[6:]  # the first step is not timed
    seen.clear()
    generation.own_modules(model, inputs, rows, speech[0])
    assert sorted(seen) == sorted(looped) == ["codes"] * 15 + ["text"] * 3


# The server and our model are stand-ins; clients, loops and their order are the benchmark's.
_THROUGHPUT = """
import gc, sys
from contextlib import contextmanager
import numpy as np
sys.path[:0] = sys.argv[1:3]
import vllm_throughput as benchmark
from tests.helpers.chat_server import Server

running = []

@contextmanager
def serve(folder, log):
    server = Server(lambda request: "hello")
    running.append(server)
    yield server.url.removesuffix("/v1")
    server.shutdown()
    running.remove(server)

class Chat:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        assert not running, "ours is loaded while the server runs"
        return cls()

def ours(chat, waveforms, rows):
    assert not running, "ours is timed while the server runs"
    gc.collect()
    return benchmark.Result(1.0)

benchmark.vllm_server, benchmark.VoiceChat, benchmark.batch_run = serve, Chat, ours
benchmark.read_audio = lambda waveforms, count: [np.zeros(1600, np.float32)] * 4
sys.argv = ["vllm_throughput.py", "--model-path", "x", "--repeats", "2"]
benchmark.main()
gc.collect()
"""


@pytest.mark.slow
def test_vllm_is_stopped_before_ours_is_timed_and_its_clients_are_closed():
    pytest.importorskip("openai", reason="openai is missing: make eval-setup")
    pytest.importorskip("httpx", reason="httpx is missing")
    done = subprocess.run(
        [sys.executable, "-c", _THROUGHPUT, BENCHMARKS, BENCHMARKS.parent],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "loop is closed" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith("| 32 | ")


def test_the_servers_benchmark_takes_a_style_and_shows_why_the_server_did_not_start(tmp_path):
    missing = tmp_path / "no-such-model"
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "serving.py", "--style", "markdown", "--model-path", missing],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "the server did not start" in done.stderr and str(missing) in done.stderr
    assert "--style" not in done.stderr
