# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The documented proxy configurations serve the page and a conversation under a path, over TLS."""

import asyncio
import shutil
import socket
import ssl
import subprocess

import aiohttp
import pytest

from tests.helpers import ROOT
from tests.helpers.web_clients import running, scripted, until

PROXY = ROOT / "web_demo" / "proxy"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
CADDY = shutil.which("caddy")


def brief(question):
    yield "Hello"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def certificate(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=demo.example", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx-light)")
def test_nginx_serves_page_and_conversation_under_a_path(models, tmp_path, certificate):
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<p>page</p>")
    (page / "assets" / "app.js").write_text("1")
    port = free_port()

    async def converse():
        base = f"https://127.0.0.1:{port}"
        headers = {"Host": "demo.example", "Origin": f"https://demo.example:{port}"}
        open_tls = ssl.create_default_context()
        open_tls.check_hostname, open_tls.verify_mode = False, ssl.CERT_NONE
        connector = aiohttp.TCPConnector(ssl=open_tls)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as http:

            async def get(path):
                async with http.get(base + path, allow_redirects=False) as reply:
                    return reply.status, await reply.text()

            async def up():
                try:
                    return (await get("/voice/"))[0] == 200
                except aiohttp.ClientError:
                    return False

            async with asyncio.timeout(60):
                while not await up():
                    await asyncio.sleep(0.05)
            assert (await get("/voice"))[0] == 301
            assert await get("/voice/") == (200, "<p>page</p>")
            assert await get("/voice/assets/app.js") == (200, "1")
            assert (await get("/voice/api/info"))[0] == 200
            async with http.ws_connect(f"{base}/voice/api/chat") as connection:
                first = await asyncio.wait_for(connection.receive(), 60)
                assert first.type is aiohttp.WSMsgType.BINARY

    with running(scripted(models, brief), page=page, allowed_hosts=("demo.example",)) as server:
        text = (PROXY / "nginx.conf").read_text()
        for old, new in (
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/certs/demo.example.pem", str(certificate[0])),
            ("/etc/ssl/private/demo.example.key", str(certificate[1])),
            ("127.0.0.1:11236", f"127.0.0.1:{server.port}"),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        config = tmp_path / "nginx.conf"
        paths = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log off;\n{paths}{text}\n}}\n"
        )
        process = subprocess.Popen([NGINX, "-c", config, "-p", tmp_path])
        try:
            asyncio.run(converse())
            asyncio.run(until(lambda: not server.sessions.connections))
        finally:
            process.terminate()
            process.wait(60)


@pytest.mark.skipif(CADDY is None, reason="caddy is not installed (apt-get install caddy)")
def test_the_caddyfile_is_valid():
    done = subprocess.run(
        [CADDY, "validate", "--adapter", "caddyfile", "--config", PROXY / "Caddyfile"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
