# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""`vllm serve FOLDER` on a free local port, for tests and benchmarks."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.helpers import ROOT

TOOL_TEMPLATE = ROOT / "funaudiochat" / "tool_chat_template.jinja"
_START_S, _STOP_S = 300, 60
# Small cache, no thread pinned to a core, nothing sent anywhere.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def vllm_server(folder: Path, log: Path, *options: str) -> Iterator[str]:
    """Serve a folder as the model "funaudiochat" until the block ends; gives the address.

    Raises:
        RuntimeError: it ended or did not come up in five minutes; with the end of its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(folder),
        "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "funaudiochat",
        "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--skip-mm-profiling",
        "--chat-template", str(TOOL_TEMPLATE),
        "--enable-auto-tool-choice", "--tool-call-parser", "hermes", *options,
    ]  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(process, url, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_up(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    with httpx.Client() as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get(f"{url}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
    end = "\n".join(log.read_text().splitlines()[-20:])
    raise RuntimeError(f"vllm serve did not come up; {log} ends with\n{end}")
