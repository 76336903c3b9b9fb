# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Check hosts and origins, limit connections, and set the security headers of every response.

A browser sends the requests of any page it shows, so every website can reach a server on the
loopback interface. Three rules keep them out. The ``Host`` must be known, or else a website could
point a name of its own at 127.0.0.1 and pose as our page (DNS rebinding). The ``Origin`` must be
allowed. And routes that change anything refuse requests that a browser marks as coming from
another site, since images and links have no ``Origin``.
"""

import asyncio
import ipaddress
import logging
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# A connection that has not sent the head of a request by then is closed.
HEAD_TIMEOUT_S = 10.0
_DEFAULT_PORTS = {80, 443}
_NAME = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


def split_host(host: str) -> tuple[str, int | None] | None:
    """Split a ``Host`` into its lower-case name and its port, None for a scheme's default."""
    if not _NAME.fullmatch(host):
        return None
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return parts.hostname.rstrip("."), None if port in _DEFAULT_PORTS else port


def host_known(host: str, known: Collection[str]) -> bool:
    """Return whether a ``Host`` is an address, a loopback name, this machine's name or known.

    An address cannot be rebound; any other name could point here without our knowledge.
    """
    split = split_host(host)
    if split is None:
        return False
    name = split[0]
    if "*" in known or name == "localhost" or name.endswith(".localhost"):
        return True
    own = socket.gethostname().lower()
    if name in {own, f"{own}.local", *(entry.lower() for entry in known)}:
        return True
    return _address(name) is not None


def origin_allowed(origin: str, host: str, allowed: Collection[str]) -> bool:
    """Return whether a page of this origin may use the API served under ``host``.

    A proxy may drop or add the port of the ``Host``, so a missing one matches every port.
    """
    if "*" in allowed or origin.lower() in {entry.lower() for entry in allowed}:
        return True
    try:
        parts = urlsplit(origin)
        own, port = split_host(host), None if parts.port in _DEFAULT_PORTS else parts.port
    except ValueError:
        return False
    name = (parts.hostname or "").rstrip(".")
    if own is not None and name == own[0] and own[1] in (None, port):
        return True
    address = _address(name)
    return name == "localhost" or (address is not None and address.is_loopback)


def from_another_site(request: web.Request, allowed: Collection[str]) -> bool:
    """Return whether a browser says that another site's page made this request."""
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        return True
    referer = request.headers.get("Referer")
    if referer is None:
        return False
    try:
        parts = urlsplit(referer)
    except ValueError:
        return True
    return not origin_allowed(f"{parts.scheme}://{parts.netloc}", request.host, allowed)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the security headers of a response, and remove the server banner."""
    split = split_host(request.host)
    sockets = f"ws://{request.host} wss://{request.host}" if split else ""
    response.headers.update(
        {
            # Blobs, eval, WebAssembly: the Opus codec creates its workers from text. Foreign and
            # inline scripts stay blocked. Inline styles: React sets widths with them.
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self' blob: 'unsafe-eval' 'wasm-unsafe-eval'; "
                "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
                "img-src 'self' data:; media-src 'self' blob:; "
                f"font-src 'self'; connect-src 'self' {sockets}; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'"
            ),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
    )
    response.headers.pop("Server", None)
    response.headers.setdefault("Cache-Control", "no-store")


class Connections:
    """Counts open connections, per address and in total.

    Args:
        limit: in total.
        limit_per_address: from one address.
    """

    def __init__(self, limit: int, limit_per_address: int) -> None:
        self._limit, self._limit_per_address = limit, limit_per_address
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count a connection; return False if it exceeds a limit."""
        if self._open.total() >= self._limit:
            return False
        if self._open[address] >= self._limit_per_address:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Stop counting a connection."""
        self._open[address] -= 1
        self._open += Counter()  # drops zero counts


class LimitedHandler(RequestHandler):
    """Connection of aiohttp, refused beyond a limit, closed if it sends no request."""

    __slots__ = ("_address", "_connections", "_head_timer")

    def __init__(self, server: web.Server, connections: Connections, **kwargs: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **kwargs)
        self._connections = connections
        self._address: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and give it a time limit for its first request."""
        super().connection_made(transport)
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._connections.enter(address):
            logger.warning("too many connections; refused one from %s", address)
            self.force_close()
            return
        self._address = address
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(HEAD_TIMEOUT_S, self.force_close)

    def head_received(self) -> None:
        """Cancel the time limit: a request has begun."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting the connection."""
        self.head_received()
        if self._address is not None:
            self._connections.leave(self._address)
            self._address = None
        super().connection_lost(exc)


@web.middleware
async def notice_head(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection that the head of its request has arrived."""
    if isinstance(request.protocol, LimitedHandler):
        request.protocol.head_received()
    return await handler(request)


class RateLimit(logging.Filter):
    """Passes a message a limited number of times a minute, then says how many were dropped.

    Args:
        limit: times a minute.
    """

    def __init__(self, limit: int = 20) -> None:
        super().__init__()
        self._limit = limit
        self._since: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Count records by the wording of their message, not by its values."""
        if record.levelno < logging.INFO:
            return True
        key = (record.name, str(record.msg))
        began, count = self._since.get(key, (record.created, 0))
        if record.created - began >= 60:
            if count > self._limit:
                record.msg = f"{record.msg} ({count - self._limit} more like it in the last minute)"
            began, count = record.created, 0
        self._since[key] = (began, count + 1)
        return count < self._limit
