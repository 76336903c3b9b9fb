# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Only known hosts and pages get in, no other site changes anything, and floods end."""

import asyncio
import logging
import stat
import subprocess
import sys

import aiohttp
import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.web_clients import Page, running, scripted
from web_demo.server.access import Connections, RateLimit, host_known, origin_allowed
from web_demo.server.options import parse
from web_demo.server.recordings import Recordings


def brief(question):
    yield "Hello"


@pytest.fixture(scope="module")
def guarded(models):
    allowed = {"allowed_hosts": ("demo.example",), "allowed_origins": ("https://pages.example",)}
    with running(scripted(models, brief), max_sessions=2, **allowed) as server:
        yield server


async def status(server, path="/api/info", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as http, http.get(server.url + path, headers=named) as reply:
        return reply.status


async def opens(server, **headers):
    async with aiohttp.ClientSession() as http:
        try:
            socket = await http.ws_connect(server.url + "/api/chat", headers=headers)
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        await socket.close()
        return 101


@pytest.mark.parametrize(
    "host", ["localhost:1", "LocalHost", "127.0.0.1:9", "[::1]:9", "10.0.0.7:11236", "demo.example",
             "DEMO.example:443", "demo.example.", "pages.example"],
)  # fmt: skip
def test_known_hosts_are_served(guarded, host):
    assert asyncio.run(status(guarded, Host=host)) == 200


@pytest.mark.parametrize("host", ["rebound.example", "demo.example.evil.example", "a b", 'x"y'])
def test_a_name_that_points_here_without_our_knowing_is_refused(guarded, host):
    same_page = {"Host": host, "Origin": f"http://{host}"}
    assert asyncio.run(status(guarded, **same_page)) in (400, 403)
    assert asyncio.run(opens(guarded, **same_page)) in (400, 403)


@pytest.mark.parametrize(
    "host,origin",
    [
        ("demo.example", "https://demo.example"),
        ("demo.example", "https://demo.example:8443"),  # nginx: Host $host
        ("demo.example:443", "https://demo.example"),
        ("Demo.Example:80", "http://demo.example"),
        ("demo.example:8443", "https://DEMO.example:8443"),
        ("demo.example", "https://pages.example"),
        ("[::1]:11236", "http://[::1]:11236"),
    ],
)
def test_origins_behind_a_proxy_are_ours(guarded, host, origin):
    assert asyncio.run(opens(guarded, Host=host, Origin=origin)) == 101


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://demo.example.evil.example", "null", "https://[",
               "https://pages.example.evil.example", "http://demo.example:99999999"],
)  # fmt: skip
def test_other_origins_are_refused_and_the_page_can_ask_why(guarded, origin, caplog):
    with caplog.at_level(logging.WARNING, "web_demo"):
        assert asyncio.run(opens(guarded, Host="demo.example", Origin=origin)) == 403
    assert [r for r in caplog.records if "--allowed-origin admits it" in r.getMessage()]

    async def asked():
        async with aiohttp.ClientSession() as http:
            query = {"origin": origin}  # what the page adds, as its own GET has no Origin
            async with http.get(guarded.url + "/api/info", params=query) as reply:
                return reply.status, await reply.json()

    code, body = asyncio.run(asked())
    assert code == 403 and "--allowed-origin" in body["message"]


@pytest.mark.parametrize("path", ["/api/add_user", "/api/user_feedback?feedback=1"])
@pytest.mark.parametrize(
    "headers", [{"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
                {"Referer": "https://evil.example/page"}, {"Referer": "http://[::1"}],
)  # fmt: skip
def test_an_image_on_another_site_changes_nothing(guarded, path, headers):
    assert asyncio.run(status(guarded, path, **headers)) == 403
    own = {"Sec_Fetch_Site": "same-origin", "Referer": guarded.url + "/"}
    assert asyncio.run(status(guarded, path, **own)) == 200


def test_requests_alone_take_no_place(models):
    async def converse(server):
        for _ in range(200):
            await status(server, "/api/add_user")
        async with Page(server) as page:
            await page.event("ready")

    with running(scripted(models, brief), max_sessions=1, queue_size=1) as server:
        asyncio.run(converse(server))


def test_every_route_has_the_security_headers_and_no_banner(models, tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<p>page</p>")
    (tmp_path / "assets" / "app-1a2b3c.js").write_text("1")
    (tmp_path / "favicon.svg").write_text("<svg/>")

    async def look(server):
        routes = {route.resource.canonical for route in server.demo_routes}
        paths = [*(r for r in routes if "{" not in r), "/assets/app-1a2b3c.js", "/favicon.svg",
                 "/nothing", "/api/nothing"]  # fmt: skip
        assert len(paths) >= 13
        async with aiohttp.ClientSession() as http:
            for path in paths:
                async with http.get(server.url + path) as reply:
                    found = reply.headers
                assert "frame-ancestors 'none'" in found["Content-Security-Policy"], path
                assert found["X-Content-Type-Options"] == "nosniff", path
                assert found["Referrer-Policy"] == "no-referrer", path
                assert "microphone=(self)" in found["Permissions-Policy"], path
                assert "Server" not in found, path
                cache = found["Cache-Control"]
                if path.startswith("/assets/"):
                    assert "immutable" in cache
                else:
                    assert cache in ("no-store", "no-cache"), path
            socket = await http.ws_connect(server.url + "/api/chat")
            assert "Server" not in socket._response.headers
            await socket.close()

    with running(scripted(models, brief), page=tmp_path) as server:
        from web_demo.server.app import make_app

        server.demo_routes = make_app(models, server.context.options).router.routes()
        asyncio.run(look(server))


def test_recordings_are_for_their_owner_alone(tmp_path):
    recordings = Recordings(tmp_path / "kept")
    tone = np.full(1600, 0.1, np.float32)
    recordings.save("a", 1, tone, "answer", tone)
    recordings.feedback({"feedback": "1"})
    kept = list((tmp_path / "kept").iterdir())
    assert len(kept) == 4
    for path in kept:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--token", ""], "--token is empty"),
        (["--token", "  "], "--token is empty"),
        (["--port", "99999"], "0 to 65535"),
        (["--port", "-1"], "0 to 65535"),
        (["--ssl-cert", "none.pem", "--ssl-key", "none.pem"], "no such file: none.pem"),
        (["--save-recordings", "README.md"], "is a file"),
    ],
)
def test_flags_that_cannot_work_are_one_line_before_a_model_is_loaded(flags, message, capsys):
    from web_demo.server import server

    with pytest.raises(SystemExit) as ended:
        server.main(["--model-path", "/nowhere", *flags])
    assert ended.value.code == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert message in shown[-1]


def test_a_port_in_use_is_told_before_a_model_is_loaded(guarded):
    from web_demo.server import server

    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(SystemExit, match=f"cannot listen on {host}, port {guarded.port}"):
            server.main(["--host", host, "--port", str(guarded.port), "--model-path", "/nowhere"])


def test_a_host_without_brackets_or_names_is_bound():
    from web_demo.server.server import bind

    for host in ("::1", "127.0.0.1", "localhost"):
        bound = bind(host, 0)
        assert len({one.getsockname()[1] for one in bound}) == 1
        for one in bound:
            one.close()


def test_hosts_and_origins_that_are_nonsense_are_refused():
    for host in ("", "[", "a:b", ":80", "[::1", "x" * 300):
        assert not host_known(host, ())
    assert not origin_allowed("http://a:b", "a", ())


def test_connections_have_a_limit_in_all_and_for_an_address():
    connections = Connections(3, 2)
    assert [connections.enter(a) for a in "aaabb"] == [True, True, False, True, False]
    connections.leave("a")
    assert connections.enter("b") and not connections.enter("c")


def test_half_open_requests_are_closed_and_others_still_served(folders):
    """A process, as its connections are counted where the command starts them."""
    program = (
        "from web_demo.server import access, server; access.HEAD_TIMEOUT_S = 0.5; "
        "import sys; server.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--model-path", folders[0], "--tts-path", folders[1],
         "--port", "0", "--host", "127.0.0.1"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stderr if " open http" in line)
        port = int(line.rsplit(":", 1)[1])

        async def flood():
            half = []
            for _ in range(300):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /api/info HTTP/1.1\r\nHost: loc")
                half.append((reader, writer))
            async with asyncio.timeout(60):
                for reader, _ in half:
                    try:
                        assert await reader.read() == b""
                    except ConnectionError:
                        pass
                for _, writer in half:
                    writer.close()
                async with aiohttp.ClientSession() as http:
                    async with http.get(f"http://127.0.0.1:{port}/healthz") as reply:
                        assert reply.status == 200

        asyncio.run(flood())
        process.terminate()
        rest = process.communicate(timeout=60)[1]
        assert len(rest.splitlines()) < 40
    finally:
        process.kill()
        process.communicate()


def test_a_message_is_logged_so_often_a_minute_then_counted():
    limit = RateLimit(limit=3)

    def passes(at, message="lost %s"):
        record = logging.LogRecord("web_demo", logging.WARNING, "", 0, message, ("x",), None)
        record.created = at
        return limit.filter(record), record.getMessage()

    assert [passes(t)[0] for t in range(10)] == [True] * 3 + [False] * 7
    assert passes(5, "other %s")[0]
    passed, text = passes(61)
    assert passed and text == "lost x (7 more like it in the last minute)"


def test_the_parser_still_takes_the_flags_of_the_reference():
    flags = ["--output-dir", "o", "--tts-gpu", "1", "--sample-rate", "24000"]
    assert str(parse(flags).save_recordings) == "o"


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://pages.example", True),
        ("http://localhost:3000", True),
        ("https://x.example", False),
    ],
)
def test_pages_of_allowed_origins_read_the_answers_of_openais_interface(models, origin, allowed):
    async def fetch():
        options = {"allowed_origins": ("https://pages.example",), "token": "secret"}
        with running(scripted(models, brief), **options) as server:
            url = server.url + "/v1/models"
            wanted = "authorization,x-stainless-lang"
            preflight = {
                "Origin": origin,
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": wanted,
            }
            async with aiohttp.ClientSession() as http:
                async with http.options(url, headers=preflight) as reply:
                    assert reply.status == (204 if allowed else 403)
                    shown = reply.headers.get("Access-Control-Allow-Origin")
                    assert shown == (origin if allowed else None)
                    assert reply.headers["Vary"] == "Origin"
                    if allowed:
                        assert reply.headers["Access-Control-Allow-Headers"] == wanted
                # The answer itself needs the token, and an error can be read as well.
                for headers, status in (({}, 401), ({"Authorization": "Bearer secret"}, 200)):
                    headers = {"Origin": origin, **headers}
                    async with http.get(url, headers=headers) as reply:
                        assert reply.status == (status if allowed else 403)
                        shown = reply.headers.get("Access-Control-Allow-Origin")
                        assert shown == (origin if allowed else None)
                async with http.options(server.url + "/api/info", headers=preflight) as reply:
                    assert "Access-Control-Allow-Origin" not in reply.headers

    asyncio.run(fetch())
