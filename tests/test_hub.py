# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Downloads over real sockets: files and whole folders, resumed, wrong, missing, refused."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from funaudiochat import doctor
from funaudiochat.cli import app
from funaudiochat.errors import CheckpointError, DownloadError
from funaudiochat.hub import (
    MODEL,
    NANO_MODEL,
    NANO_TTS,
    TTS,
    _check_complete,
    download,
    fetch_file,
    resolve_model,
    resolve_pair,
    verify,
)
from tests.helpers import ROOT
from tests.helpers.hub_server import running_hub

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
    assert path.read_bytes() == CONTENT
    assert server.ranges == ([f"bytes={have}-"] if have < len(CONTENT) else [])


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


def fill(folder, repository):
    folder.mkdir()
    for name in (*repository.needed, *repository.known):
        (folder / name).write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    (folder / "model-1.safetensors").touch()


def test_without_downloads_nano_answers_and_with_them_the_official_pair(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    assert resolve_pair(None, None) == (NANO_MODEL, NANO_TTS)
    fill(tmp_path / MODEL.name, MODEL)
    assert resolve_model(None) == tmp_path / MODEL.name
    with pytest.raises(CheckpointError, match="funaudiochat download"):
        resolve_pair(None, None)
    fill(tmp_path / TTS.name, TTS)
    assert resolve_pair(None, None) == (tmp_path / MODEL.name, tmp_path / TTS.name)
    assert resolve_pair(NANO_MODEL, None) == (NANO_MODEL, NANO_TTS)


def found_by_doctor(name):
    return next(f for f in doctor.examine() if f.what == name)


@pytest.mark.parametrize(
    "repository, gone",
    [(MODEL, "model-1.safetensors"), (MODEL, "vocab.json"), (TTS, "campplus.onnx")],
)
def test_a_partial_download_is_not_taken_for_a_folder(tmp_path, monkeypatch, repository, gone):
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    for one in (MODEL, TTS):
        fill(tmp_path / one.name, one)
    assert found_by_doctor(repository.name).remedy == ""
    (tmp_path / repository.name / gone).unlink()
    with pytest.raises(CheckpointError, match=f"not complete, {gone} missing; resume with"):
        resolve_pair(None, None)
    finding = found_by_doctor(repository.name)
    assert finding.found.endswith(f"without {gone}") and "resumes" in finding.remedy


def test_a_damaged_index_is_no_whole_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    fill(tmp_path / MODEL.name, MODEL)
    (tmp_path / MODEL.name / "model.safetensors.index.json").write_text('{"weight')
    with pytest.raises(CheckpointError, match="a readable model.safetensors.index.json missing"):
        resolve_model(None)


def test_the_default_voice_alone_is_fetched_on_the_command_line(server, tmp_path, monkeypatch):
    path = tmp_path / "utils" / "voice.pt"
    for name, value in (
        ("URL", url(server)),
        ("FILE", path),
        ("BYTES", len(CONTENT)),
        ("SHA256", DIGEST),
    ):
        monkeypatch.setattr(f"funaudiochat.hub.VOICES_{name}", value)
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path / "models"))
    done = CliRunner().invoke(app, ["download", "--only", "voices"])
    assert done.exit_code == 0 and "voice.pt" in done.output
    assert path.read_bytes() == CONTENT and not (tmp_path / "models").exists()


def test_modelscope_is_asked_for_what_is_used(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, local_dir, ignore_patterns):
        asked.append((name, ignore_patterns))
        Path(local_dir).mkdir(parents=True)
        for file, content in MODEL_FILES.items():
            (Path(local_dir) / file).parent.mkdir(exist_ok=True)
            (Path(local_dir) / file).write_bytes(content)

    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(DownloadError, match=r"funaudiochat\[hub\]"):
        download("modelscope", "model")
    stub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "modelscope", stub)
    assert download("modelscope", "model") == [tmp_path / MODEL.name]
    with pytest.raises(DownloadError, match="not complete, campplus.onnx"):
        download("modelscope", "tts")
    assert asked == [(f"FunAudioLLM/{r.name}", list(r.unused)) for r in (MODEL, TTS)]
    stub.snapshot_download = lambda *_, **__: 1 / 0
    with pytest.raises(DownloadError, match="from modelscope failed .* try the other --source"):
        download("modelscope", "model")


def test_a_model_of_ones_own_never_gets_the_detokenizer_of_nano(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNAUDIOCHAT_HOME", str(tmp_path))
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(CheckpointError, match="--tts-path"):
        resolve_pair(own, None)
    assert resolve_pair(own, NANO_TTS) == (own, NANO_TTS)


@pytest.mark.parametrize("given", [{"source": "elsewhere"}, {"only": "modell"}])
def test_an_unknown_source_or_part_is_refused(given):
    with pytest.raises(DownloadError, match="is not one of"):
        download(**given)


def test_a_missing_folder_names_the_command_that_gets_it(tmp_path):
    with pytest.raises(CheckpointError, match="funaudiochat download"):
        resolve_model(tmp_path / "nothing")


# The client reads HF_ENDPOINT when it is imported, so each download is a process of its own.
SCRIPT = """
import json, sys
from dataclasses import replace
from funaudiochat import hub
known = {name: tuple(value) for name, value in json.loads(sys.argv[2]).items()}
hub.REPOSITORIES = {"model": hub.MODEL, "tts": replace(hub.TTS, known=known)}
try:
    print(*hub.download(only=sys.argv[1]))
except hub.DownloadError as error:
    sys.exit(f"error: {error}")
"""
MODEL_FILES = {
    "config.json": b"{}",
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    ).encode(),
    "model-1.safetensors": CONTENT,
    "model-2.safetensors": CONTENT[::-1],
    "merges.txt": b"#version: 0.2",
    "processor_config.json": b"{}",
    "speech_tokenizer/tokenizer.json": b"{}",
    "vocab.json": b"{}",
}
TTS_FILES = {"cosyvoice3.yaml": b"x: 1", "flow.pt": CONTENT, "llm.pt": CONTENT, "asset/a.png": b"p"}
KNOWN = {"cosyvoice3.yaml": (4, None), "flow.pt": (len(CONTENT), DIGEST)}


@pytest.fixture
def hub():
    with running_hub(
        {
            "FunAudioLLM/Fun-Audio-Chat-8B": dict(MODEL_FILES),
            "FunAudioLLM/Fun-CosyVoice3-0.5B-2512": dict(TTS_FILES),
        }
    ) as running:
        yield running


def start(only, home, endpoint, known=KNOWN):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, only, json.dumps(known)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "FUNAUDIOCHAT_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home / "hf"),
        },
    )


def fetch(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def test_a_folder_is_fetched_whole_and_nothing_is_fetched_twice(hub, tmp_path):
    for _ in range(2):
        done = fetch("model", tmp_path, hub.url)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "Fun-Audio-Chat-8B"
    assert done.stdout.strip() == str(folder)
    for name, content in MODEL_FILES.items():
        assert (folder / name).read_bytes() == content
    assert sorted(name for name, _ in hub.sent) == sorted(MODEL_FILES)


def test_the_token_reaches_the_hub_and_no_server_it_redirects_to(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with running_hub(hub.repositories) as store:
        hub.redirect_files_to = store.url
        done = fetch("tts", tmp_path, hub.url)
    assert done.returncode == 0, done.stderr
    assert len(hub.authorizations) == 1 + len(KNOWN)
    assert set(hub.authorizations) == {"Bearer hf_secret"}
    assert store.authorizations == [None] * len(KNOWN)


def test_unused_files_stay_away_and_published_ones_are_verified(hub, tmp_path):
    done = fetch("tts", tmp_path, hub.url)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "Fun-CosyVoice3-0.5B-2512"
    assert {p.name for p in folder.iterdir() if p.is_file()} == set(KNOWN)
    for name, wrong in (("flow.pt", (len(CONTENT), "0" * 64)), ("cosyvoice3.yaml", (5, None))):
        done = fetch("tts", tmp_path, hub.url, KNOWN | {name: wrong})
        assert done.returncode == 1 and f"{name} is not the published file" in done.stderr
        assert not (folder / name).exists()
    assert fetch("tts", tmp_path, hub.url).returncode == 0
    assert (folder / "flow.pt").read_bytes() == CONTENT


def test_an_interrupted_download_resumes(hub, tmp_path):
    """Interrupt it by the network, which the client handles, then kill it and run it again."""
    name, content = "model-1.safetensors", CONTENT * 8
    hub.repositories["FunAudioLLM/Fun-Audio-Chat-8B"][name] = content
    hub.cut_after[name] = 3 << 20
    hub.stall_after[name] = 7 << 20
    killed = start("model", tmp_path, hub.url)
    partial = tmp_path / "Fun-Audio-Chat-8B" / f"{name}.part"
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.stat().st_size < 4 << 20:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    hub.release.set()
    have = partial.stat().st_size
    done = fetch("model", tmp_path, hub.url)
    assert done.returncode == 0, done.stderr
    assert [begin for file, begin in hub.sent if file == name] == [0, 3 << 20, have]
    assert (tmp_path / "Fun-Audio-Chat-8B" / name).read_bytes() == content


def test_a_file_whose_hash_the_hub_does_not_confirm_is_removed(hub, tmp_path):
    (tmp_path / "Fun-Audio-Chat-8B").mkdir()
    (tmp_path / "Fun-Audio-Chat-8B" / "model-1.safetensors").write_bytes(CONTENT[:-1] + b"x")
    done = fetch("model", tmp_path, hub.url)
    assert done.returncode == 1 and "model-1.safetensors is not the published" in done.stderr
    assert fetch("model", tmp_path, hub.url).returncode == 0


def test_a_folder_without_one_of_its_shards_is_not_called_whole(tmp_path):
    for name in MODEL_FILES.keys() - {"model-2.safetensors", "speech_tokenizer/tokenizer.json"}:
        (tmp_path / name).write_bytes(MODEL_FILES[name])
    with pytest.raises(DownloadError, match="not complete, model-2.safetensors missing"):
        _check_complete(MODEL, tmp_path)


def test_an_incomplete_folder_and_an_unreachable_hub_are_named(hub, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = fetch("model", tmp_path, nowhere)
        assert done.returncode == 1
        assert "error: " in done.stderr and "again" in done.stderr
        assert fetch("model", tmp_path, hub.url).returncode == 0
        (tmp_path / "Fun-Audio-Chat-8B" / "model-2.safetensors").unlink()
        done = fetch("model", tmp_path, nowhere)
    assert done.returncode == 1 and "again" in done.stderr


def test_a_repository_that_is_not_there_is_named(hub, tmp_path):
    hub.repositories.clear()
    done = fetch("model", tmp_path, hub.url)
    assert done.returncode == 1 and "Fun-Audio-Chat-8B" in done.stderr
