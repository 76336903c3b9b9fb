# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A model hub on a real socket: the part of the Hugging Face protocol that a download uses."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

COMMIT = "29e01c4e0000000000000000000000000000beef"
_INFO = re.compile(r"/api/(models|datasets)/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?$")
_TREE = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)$")
_FILE = re.compile(r"(/datasets)?/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)$")


class Hub(http.server.ThreadingHTTPServer):
    """Repositories as name -> file -> content.

    ``cut_after`` (file -> bytes) hangs up in the next transfer of a file, ``stall_after`` in the
    one after that stops sending until ``release`` is set.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.sent: list[tuple[str, int]] = []  # file, first byte
        self.authorizations: list[str | None] = []  # of GET requests for repositories and files
        self.redirect_files_to: str | None = None  # another server, as for large files
        self.cut_after: dict[str, int] = {}
        self.stall_after: dict[str, int] = {}
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address) -> None:
        """Ignore clients that hang up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if _INFO.match(path) or _FILE.match(path):
            self.server.authorizations.append(self.headers.get("Authorization"))
        if match := _INFO.match(path):
            files = self._files(match)
            if not files:
                return self._json({"error": "Repository not found"}, 404)
            siblings = [_entry(name, content) for name, content in files.items()]
            return self._json({"id": match["repo"], "sha": COMMIT, "siblings": siblings})
        if match := _TREE.match(path):
            return self._json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in self._files(match).items()
                ]
            )
        match = _FILE.match(path)
        if match is None or match["name"] not in self._files(match):
            return self._json({"error": "not found"}, 404)
        if self.server.redirect_files_to is not None:
            self.send_response(302)
            self.send_header("Location", self.server.redirect_files_to + self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self._file(match["name"], self._files(match)[match["name"]])

    def do_HEAD(self) -> None:
        """What a file is, asked before it is fetched."""
        match = _FILE.match(self.path.partition("?")[0])
        content = self._files(match)[match["name"]] if match else b""
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def _files(self, match: re.Match[str]) -> dict[str, bytes]:
        return self.server.repositories.get(match["repo"], {})

    def _json(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _file(self, name: str, content: bytes) -> None:
        start = 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.server.sent.append((name, start))
        stalls = name not in self.server.cut_after and name in self.server.stall_after
        limits = self.server.stall_after if stalls else self.server.cut_after
        stop = limits.pop(name, len(content))
        self.wfile.write(content[start:stop])
        self.wfile.flush()
        if stalls:
            self.server.release.wait(timeout=120)
        self.close_connection = stop < len(content)

    def log_message(self, *_: object) -> None:
        pass


def _entry(name: str, content: bytes) -> dict:
    """As the hub lists a file with its metadata; large files carry their hash."""
    entry: dict = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
    if len(content) > 1000:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 134}
    return entry


@contextmanager
def running_hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """Serve until the block ends."""
    with Hub(repositories) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.release.set()
            hub.shutdown()
