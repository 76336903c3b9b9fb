# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Routes: the page, the WebSocket, the queue's endpoints, health and figures."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSCloseCode, web
from prometheus_client import generate_latest

from web_demo.server.access import (
    Handler,
    add_headers,
    from_another_site,
    host_known,
    notice_head,
    origin_allowed,
)
from web_demo.server.demo import Demo
from web_demo.server.engine import Models
from web_demo.server.lobby import QueueFull, State, same_secret
from web_demo.server.options import Options
from web_demo.server.outbox import Outbox

logger = logging.getLogger(__name__)

DEMO = web.AppKey("demo", Demo)
NOT_BUILT = """<!doctype html><meta charset="utf-8"><title>Fun-Audio-Chat</title>
<style>body { font-family: sans-serif; max-width: 40em; margin: 4em auto; line-height: 1.5 }</style>
<h1>The page is not built yet</h1>
<p>The server runs. Build the page once, then load this address again:</p>
<pre>cd web_demo/client
npm install
npm run build</pre>
</body>
"""
QUEUE_FULL = "all places are taken, also those to wait; please come back later"
# Requests by GET that change something, as the reference has them.
CHANGING = ("/api/add_user", "/api/user_feedback")


def make_app(models: Models, options: Options) -> web.Application:
    """The server as an application; it owns the models while it runs."""
    app = web.Application(middlewares=[notice_head, guard])
    app.on_response_prepare.append(add_headers)

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        app[DEMO] = Demo(models, options)
        yield
        await app[DEMO].close()

    app.cleanup_ctx.append(lifetime)
    app.router.add_get("/api/chat", chat)
    app.router.add_get("/api/simplex", chat)
    app.router.add_get("/api/info", info)
    app.router.add_get("/api/add_user", add_user)
    app.router.add_get("/api/check_user", check_user)
    app.router.add_get("/api/user_feedback", user_feedback)
    app.router.add_get("/healthz", health)
    app.router.add_get("/metrics", figures)
    app.router.add_get("/", page)
    app.router.add_get("/{name:.+}", asset)
    return app


def refuse(status: int, code: str, message: str) -> web.Response:
    """A JSON error."""
    return web.json_response({"error": code, "message": message}, status=status)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check host, origin and token, for everything but the page and the health check."""
    if not request.path.startswith("/api/") and request.path != "/metrics":
        return await handler(request)
    demo = request.app[DEMO]
    options = demo.options
    if not host_known(request.host, options.known_hosts):
        logger.warning("host %s is not known; --allowed-host admits it", request.host[:100])
        return refuse(
            403,
            "bad_host",
            f"this server does not know itself as {request.host[:100]}; start it with "
            "--allowed-host and that name",
        )
    # The page itself asks by a plain GET, which has no Origin, whether it may connect.
    origin = request.headers.get("Origin", request.query.get("origin"))
    if origin is not None and not origin_allowed(origin, request.host, options.allowed_origins):
        logger.warning("origin %s is refused; --allowed-origin admits it", origin[:100])
        return refuse(
            403,
            "bad_origin",
            f"pages of {origin[:100]} may not connect; start with --allowed-origin",
        )
    if (
        request.path in CHANGING
        and origin is None
        and (from_another_site(request, options.allowed_origins))
    ):
        return refuse(403, "other_site", "another site's page may not change anything here")
    if not token_given(request, demo):
        return refuse(401, "bad_token", "this server wants its token: ?token=...")
    return await handler(request)


def token_given(request: web.Request, demo: Demo) -> bool:
    """Whether the request shows the token, or the key of a ticket, which needed it."""
    token = demo.options.token
    if token is None:
        return True
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    given = request.query.get("token", bearer)
    key = request.query.get("worker_auth_id", "")
    return same_secret(given, token) or demo.lobby.is_ready_ticket(key)


async def chat(request: web.Request) -> web.StreamResponse:
    """One talk."""
    demo = request.app[DEMO]
    if demo.draining:
        return refuse(503, "draining", "the server shuts down")
    socket = web.WebSocketResponse(
        heartbeat=30, max_msg_size=demo.options.max_message_bytes, compress=False
    )
    await socket.prepare(request)
    transport = request.transport
    if not isinstance(transport, asyncio.WriteTransport):
        return socket  # gone already
    resume = request.query.get("resume")
    if resume is not None:
        await demo.take_over(resume)
    ticket = demo.lobby.claim(request.query.get("worker_auth_id", ""))
    try:
        place = demo.lobby.enter(None if ticket is None else ticket.number)
    except QueueFull:
        outbox = Outbox(socket, "refused", demo.metrics)
        await outbox.error("queue_full", QUEUE_FULL, fatal=True)
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"queue full")
        return socket
    old_page = request.query.get("protocol") != "2"
    try:
        await demo.talk(socket, transport, place, resume, old_page)
    finally:
        demo.lobby.leave(place)
    return socket


async def info(request: web.Request) -> web.Response:
    """What the start page shows."""
    demo = request.app[DEMO]
    return web.json_response(
        {
            **demo.info(),
            "sessions": demo.lobby.talking,
            "max_sessions": demo.lobby.max_sessions,
            "queue": demo.lobby.waiting,
            "token_required": demo.options.token is not None,
        }
    )


async def add_user(request: web.Request) -> web.Response:
    """Draw a number in the queue."""
    try:
        ticket = request.app[DEMO].lobby.take_ticket()
    except QueueFull:
        return refuse(503, "queue_full", QUEUE_FULL)
    return web.json_response({"session_id": ticket.number, "session_auth_id": ticket.secret})


async def check_user(request: web.Request) -> web.Response:
    """Tell whether it is a ticket's turn."""
    lobby, query = request.app[DEMO].lobby, request.query
    number = query.get("session_id", "")
    ticket = None
    if number.isdecimal():
        ticket = lobby.check_ticket(int(number[:18]), query.get("session_auth_id", ""))
    if ticket is None:
        return refuse(404, "unknown_session", "no such place in the queue; take one by add_user")
    position = lobby.turn_of(ticket)
    ready = position == 0
    return web.json_response(
        {
            "session_id": ticket.number,
            "status": (State.READY if ready else State.WAITING).value,
            "worker_auth_id": ticket.key if ready else None,
            "worker_addr": "simplex" if ready else None,
            "current_position": str(position),
        }
    )


async def user_feedback(request: web.Request) -> web.Response:
    """Count a rating; it is kept only where recordings are."""
    demo, query = request.app[DEMO], request.query
    value = query.get("feedback")
    if value not in ("0", "1"):
        return refuse(400, "bad_feedback", "feedback is 0 or 1")
    demo.metrics.feedback.labels(value).inc()
    if demo.recordings is not None:
        record: dict[str, Any] = {
            key: query.get(key, "")[:200] for key in ("session_id", "feedback", "timestamp")
        }
        await asyncio.to_thread(demo.recordings.feedback, record)
    return web.json_response({"status": "ok"})


async def health(request: web.Request) -> web.Response:
    """200 while talks can begin."""
    demo = request.app[DEMO]
    state = "draining" if demo.draining else "ok" if demo.engine.alive else "failed"
    body = {
        "status": state,
        "sessions": demo.lobby.talking,
        "queue": demo.lobby.waiting,
        "model": demo.models.name,
    }
    return web.json_response(body, status=200 if state == "ok" else 503)


async def figures(request: web.Request) -> web.Response:
    """Prometheus text."""
    body = generate_latest(request.app[DEMO].metrics.registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})


async def page(request: web.Request) -> web.StreamResponse:
    """The built page, or how to build it."""
    index = request.app[DEMO].options.page / "index.html"
    if not index.is_file():
        return web.Response(text=NOT_BUILT, content_type="text/html")
    return web.FileResponse(index, headers={"Cache-Control": "no-cache"})


async def asset(request: web.Request) -> web.StreamResponse:
    """A file of the built page; looked up now, so that a page built later is served too."""
    root = request.app[DEMO].options.page.resolve()
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        path = (root / request.match_info["name"]).resolve()
        if path.is_relative_to(root) and path.is_file():
            # The build names these by their content.
            hashed = path.parent.name == "assets"
            cache = "public, max-age=31536000, immutable" if hashed else "no-cache"
            return web.FileResponse(path, headers={"Cache-Control": cache})
    return refuse(404, "not_found", "no such file")
