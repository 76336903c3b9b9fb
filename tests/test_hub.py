# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Downloads over real sockets: whole, resumed, wrong, missing, refused."""

import hashlib
import http.server
import socket
import threading

import pytest

from funaudiochat.errors import CheckpointError, DownloadError
from funaudiochat.hub import (
    MODEL,
    NANO_MODEL,
    NANO_TTS,
    TTS,
    fetch_file,
    resolve_model,
    resolve_pair,
    verify,
)

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.ranges.append(self.headers.get("Range"))
        if self.path != "/voice.pt":
            return self.send_error(404, "no such file")
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.ranges = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url(server, name="voice.pt"):
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_a_file_is_fetched_checked_and_not_fetched_again(server, tmp_path):
    path = tmp_path / "new" / "voice.pt"
    for _ in range(2):
        fetch_file(url(server), path, len(CONTENT), DIGEST)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert [p.name for p in path.parent.iterdir()] == ["voice.pt"]


@pytest.mark.parametrize("have", [1, 70000, len(CONTENT)])
def test_a_partial_file_is_resumed(server, tmp_path, have):
    path = tmp_path / "voice.pt"
    path.with_name("voice.pt.part").write_bytes(CONTENT[:have])
    fetch_file(url(server), path, len(CONTENT), DIGEST)
    assert path.read_bytes() == CONTENT and server.ranges == [f"bytes={have}-"]


def test_another_file_is_removed_and_named(server, tmp_path):
    with pytest.raises(DownloadError, match="not the published file"):
        fetch_file(url(server), tmp_path / "voice.pt", len(CONTENT), "0" * 64)
    assert not list(tmp_path.iterdir())
    (tmp_path / "flow.pt").write_bytes(b"cut off")
    with pytest.raises(DownloadError, match="flow.pt is not the published file"):
        verify(tmp_path / "flow.pt", 8, DIGEST)
    assert not list(tmp_path.iterdir())


def test_server_errors_and_refused_connections_are_named(server, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        fetch_file(url(server, "other.pt"), tmp_path / "voice.pt", 1, DIGEST)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/voice.pt"
        with pytest.raises(DownloadError, match="run the command again"):
            fetch_file(address, tmp_path / "voice.pt", 1, DIGEST)


def test_without_downloads_nano_answers_and_with_them_the_official_pair(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    assert resolve_pair(None, None) == (NANO_MODEL, NANO_TTS)
    (tmp_path / MODEL.name).mkdir()
    assert resolve_model(None) == tmp_path / MODEL.name
    with pytest.raises(CheckpointError, match="funaudiochat download"):
        resolve_pair(None, None)
    (tmp_path / TTS.name).mkdir()
    assert resolve_pair(None, None) == (tmp_path / MODEL.name, tmp_path / TTS.name)
    assert resolve_pair(NANO_MODEL, None) == (NANO_MODEL, NANO_TTS)


def test_a_model_of_ones_own_never_gets_the_detokenizer_of_nano(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(CheckpointError, match="--tts-path"):
        resolve_pair(own, None)
    assert resolve_pair(own, NANO_TTS) == (own, NANO_TTS)


def test_a_missing_folder_names_the_command_that_gets_it(tmp_path):
    with pytest.raises(CheckpointError, match="funaudiochat download"):
        resolve_model(tmp_path / "nothing")
