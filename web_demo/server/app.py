# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Routes of the server: page, WebSocket, queue, health and metrics."""

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
from web_demo.server.context import ServerContext
from web_demo.server.engine import Models
from web_demo.server.lobby import QueueFull, TicketState, same_secret
from web_demo.server.openai_api.errors import ApiError
from web_demo.server.openai_api.routes import add_routes
from web_demo.server.options import Options
from web_demo.server.outbox import Outbox
from web_demo.server.page_connection import describe_server
from web_demo.server.sessions import Sessions

logger = logging.getLogger(__name__)

CONTEXT = web.AppKey("context", ServerContext)
SESSIONS = web.AppKey("sessions", Sessions)
NOT_BUILT = """<!doctype html><meta charset="utf-8"><title>Fun-Audio-Chat</title>
<style>body { font-family: sans-serif; max-width: 40em; margin: 4em auto; line-height: 1.5 }</style>
<h1>The page is not built yet</h1>
<p>The server runs. Build the page once, then load this address again:</p>
<pre>cd web_demo/client
npm install
npm run build</pre>
</body>
"""
QUEUE_FULL = "the server and its queue are full; please try again later"
KEY_SUBPROTOCOL = "openai-insecure-api-key."
# Routes that change something although they use GET, as in the reference.
CHANGING = ("/api/add_user", "/api/user_feedback")


def make_app(models: Models, options: Options) -> web.Application:
    """Build the application; it owns the models while it runs."""
    app = web.Application(
        middlewares=[notice_head, guard], client_max_size=options.max_message_bytes
    )
    app.on_response_prepare.append(add_headers)
    app.on_response_prepare.append(add_cors_headers)

    async def lifetime(app: web.Application) -> AsyncIterator[None]:
        app[CONTEXT] = ServerContext(models, options)
        app[SESSIONS] = Sessions(app[CONTEXT])
        yield
        await app[SESSIONS].close()
        await app[CONTEXT].close()

    app.cleanup_ctx.append(lifetime)
    app.router.add_get("/api/chat", chat)
    app.router.add_get("/api/simplex", chat)
    app.router.add_get("/api/info", info)
    app.router.add_get("/api/add_user", add_user)
    app.router.add_get("/api/check_user", check_user)
    app.router.add_get("/api/user_feedback", user_feedback)
    app.router.add_get("/healthz", health)
    app.router.add_get("/metrics", metrics)
    add_routes(app, CONTEXT, SESSIONS)
    app.router.add_get("/", page)
    app.router.add_get("/{name:.+}", asset)
    return app


def refuse(status: int, code: str, message: str) -> web.Response:
    """Return an error as JSON."""
    return web.json_response({"error": code, "message": message}, status=status)


def refuse_access(request: web.Request, status: int, code: str, message: str) -> web.Response:
    """Return an error in the form that the clients of the route know."""
    if request.path.startswith("/v1/"):
        return ApiError(message, code=code, status=status).response()
    return refuse(status, code, message)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check host, origin and token for every route but the page and the health check."""
    if not request.path.startswith(("/api/", "/v1/")) and request.path != "/metrics":
        return await handler(request)
    context = request.app[CONTEXT]
    options = context.options
    if not host_known(request.host, options.known_hosts):
        logger.warning("refused unknown host %s; --allowed-host admits it", request.host[:100])
        return refuse_access(
            request,
            403,
            "bad_host",
            f"{request.host[:100]} is not a known name of this server; start it with "
            "--allowed-host and that name",
        )
    # The page first asks with a plain GET, which has no Origin header, whether it may connect.
    origin = request.headers.get("Origin", request.query.get("origin"))
    if origin is not None and not origin_allowed(origin, request.host, options.allowed_origins):
        logger.warning("refused origin %s; --allowed-origin admits it", origin[:100])
        return refuse_access(
            request,
            403,
            "bad_origin",
            f"pages from {origin[:100]} may not connect; start the server with --allowed-origin",
        )
    if (
        request.path in CHANGING
        and origin is None
        and (from_another_site(request, options.allowed_origins))
    ):
        return refuse_access(
            request,
            403,
            "other_site",
            "pages of other sites may not change anything on this server",
        )
    if request.method == "OPTIONS" and request.path.startswith("/v1/") and origin is not None:
        return web.Response(status=204)  # a browser's preflight carries no token
    if not token_given(request, context):
        return refuse_access(
            request,
            401,
            "bad_token",
            "this server requires its token: ?token=... or a Bearer header",
        )
    return await handler(request)


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Let pages of allowed origins read the answers of OpenAI's interface (CORS)."""
    origin = request.headers.get("Origin")
    if origin is None or not request.path.startswith("/v1/"):
        return
    response.headers["Vary"] = "Origin"
    if not origin_allowed(origin, request.host, request.app[CONTEXT].options.allowed_origins):
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = "Location, Retry-After"
    if request.method == "OPTIONS":
        # OpenAI's clients describe themselves in headers of their own: allow all they ask for.
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        response.headers["Access-Control-Allow-Headers"] = wanted
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
        response.headers["Access-Control-Max-Age"] = "600"


def token_given(request: web.Request, context: ServerContext) -> bool:
    """Return whether a request has the token, or the key of a ticket, which required it."""
    token = context.options.token
    if token is None:
        return True
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(KEY_SUBPROTOCOL):  # pages cannot set headers of a WebSocket
            bearer = protocol.strip().removeprefix(KEY_SUBPROTOCOL)
    given = request.query.get("token", bearer)
    key = request.query.get("worker_auth_id", "")
    return same_secret(given, token) or context.lobby.is_ready(key)


async def chat(request: web.Request) -> web.StreamResponse:
    """Serve a session over a WebSocket."""
    context, sessions = request.app[CONTEXT], request.app[SESSIONS]
    if context.draining:
        return refuse(503, "draining", "the server is shutting down")
    socket = web.WebSocketResponse(
        heartbeat=30, max_msg_size=context.options.max_message_bytes, compress=False
    )
    await socket.prepare(request)
    transport = request.transport
    if not isinstance(transport, asyncio.WriteTransport):
        return socket  # already disconnected
    resume = request.query.get("resume")
    if resume is not None:
        await sessions.take_over(resume)
    drawn = context.lobby.claim(request.query.get("worker_auth_id", ""))
    try:
        ticket = context.lobby.enter(None if drawn is None else drawn.number)
    except QueueFull:
        outbox = Outbox(socket, "refused", context.metrics)
        await outbox.error("queue_full", QUEUE_FULL, fatal=True)
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"queue full")
        return socket
    reference_client = request.query.get("protocol") != "2"
    try:
        await sessions.serve(socket, transport, ticket, resume, reference_client)
    finally:
        context.lobby.leave(ticket)
    return socket


async def info(request: web.Request) -> web.Response:
    """Describe the server and its load."""
    context = request.app[CONTEXT]
    return web.json_response(
        {
            **describe_server(context),
            "sessions": context.lobby.active,
            "max_sessions": context.lobby.max_sessions,
            "queue": context.lobby.waiting,
            "token_required": context.options.token is not None,
        }
    )


async def add_user(request: web.Request) -> web.Response:
    """Draw a queue ticket."""
    try:
        ticket = request.app[CONTEXT].lobby.draw()
    except QueueFull:
        return refuse(503, "queue_full", QUEUE_FULL)
    return web.json_response({"session_id": ticket.number, "session_auth_id": ticket.secret})


async def check_user(request: web.Request) -> web.Response:
    """Report whether a queue ticket is ready."""
    lobby, query = request.app[CONTEXT].lobby, request.query
    number = query.get("session_id", "")
    ticket = None
    if number.isdecimal():
        ticket = lobby.check(int(number[:18]), query.get("session_auth_id", ""))
    if ticket is None:
        return refuse(404, "unknown_session", "unknown queue ticket; draw one with add_user")
    position = lobby.sessions_ahead(ticket)
    ready = position == 0
    return web.json_response(
        {
            "session_id": ticket.number,
            "status": (TicketState.READY if ready else TicketState.WAITING).value,
            "worker_auth_id": ticket.key if ready else None,
            "worker_addr": "simplex" if ready else None,
            "current_position": str(position),
        }
    )


async def user_feedback(request: web.Request) -> web.Response:
    """Count a rating; save it only if recordings are saved."""
    context, query = request.app[CONTEXT], request.query
    value = query.get("feedback")
    if value not in ("0", "1"):
        return refuse(400, "bad_feedback", "feedback must be 0 or 1")
    context.metrics.feedback.labels(value).inc()
    if context.recordings is not None:
        record: dict[str, Any] = {
            key: query.get(key, "")[:200] for key in ("session_id", "feedback", "timestamp")
        }
        await asyncio.to_thread(context.recordings.feedback, record)
    return web.json_response({"status": "ok"})


async def health(request: web.Request) -> web.Response:
    """Report health: 200 while sessions can start, else 503."""
    context = request.app[CONTEXT]
    state = "draining" if context.draining else "ok" if context.engine.alive else "failed"
    body = {
        "status": state,
        "sessions": context.lobby.active,
        "queue": context.lobby.waiting,
        "model": context.models.name,
    }
    return web.json_response(body, status=200 if state == "ok" else 503)


async def metrics(request: web.Request) -> web.Response:
    """Return the metrics in Prometheus' text format."""
    body = generate_latest(request.app[CONTEXT].metrics.registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})


async def page(request: web.Request) -> web.StreamResponse:
    """Serve the built page, or the instructions to build it."""
    index = request.app[CONTEXT].options.page / "index.html"
    if not index.is_file():
        return web.Response(text=NOT_BUILT, content_type="text/html")
    return web.FileResponse(index, headers={"Cache-Control": "no-cache"})


async def asset(request: web.Request) -> web.StreamResponse:
    """Serve a file of the page; it is looked up now, so a page built later is found too."""
    root = request.app[CONTEXT].options.page.resolve()
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        path = (root / request.match_info["name"]).resolve()
        if path.is_relative_to(root) and path.is_file():
            # The build puts a content hash into these names.
            hashed = path.parent.name == "assets"
            cache = "public, max-age=31536000, immutable" if hashed else "no-cache"
            return web.FileResponse(path, headers={"Cache-Control": cache})
    return refuse(404, "not_found", "no such file")
