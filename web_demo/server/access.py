# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Who may connect: hosts, origins and tokens, connection limits, and the headers of every answer.

A browser sends the requests of any page it shows, so a server on the loopback interface can be
reached from every website. Three rules keep them out. The ``Host`` must be known, else a name that
a website points at 127.0.0.1 makes its page one of ours (DNS rebinding). The ``Origin`` must be
ours. And what changes anything refuses requests that a browser marks as coming from another site,
since an image or a link has no ``Origin``.
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
# A client that has not sent its request's head by then is closed.
HEAD_TIMEOUT_S = 10.0
_DEFAULT_PORTS = {80, 443}
_NAME = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


def split_host(host: str) -> tuple[str, int | None] | None:
    """Split a ``Host`` into its name in lower case and its port, None for a scheme's own port."""
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
    """Return whether a ``Host`` is an address, a loopback name, this machine's or a given one.

    An address cannot be rebound; any other name could point here without our knowing.
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
    """Give every answer the security headers, and no banner."""
    split = split_host(request.host)
    sockets = f"ws://{request.host} wss://{request.host}" if split else ""
    response.headers.update(
        {
            # Blobs, evaluation, WebAssembly: the Opus codec's workers, which it makes out of text.
            # Scripts of other places and inline ones stay shut out. Inline styles: React's widths.
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
    """Counts open connections, of an address and in all.

    Args:
        most: in all.
        most_of_one: from one address.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> bool:
        """Count a connection, unless it is one too many."""
        if self._open.total() >= self._most or self._open[address] >= self._most_of_one:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Forget a connection."""
        self._open[address] -= 1
        self._open += Counter()  # drops what is zero


class LimitedHandler(RequestHandler):
    """aiohttp's connection, refused when there are too many, closed when it sends no head."""

    __slots__ = ("_address", "_connections", "_head_timer")

    def __init__(self, server: web.Server, connections: Connections, **kwargs: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **kwargs)
        self._connections = connections
        self._address: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, and wait for its first request."""
        super().connection_made(transport)
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._connections.enter(address):
            logger.warning("too many connections; one of %s is refused", address)
            self.force_close()
            return
        self._address = address
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(HEAD_TIMEOUT_S, self.force_close)

    def head_came(self) -> None:
        """Stop waiting: a request has begun."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self.head_came()
        if self._address is not None:
            self._connections.leave(self._address)
            self._address = None
        super().connection_lost(exc)


@web.middleware
async def notice_head(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection that its request's head is here."""
    if isinstance(request.protocol, LimitedHandler):
        request.protocol.head_came()
    return await handler(request)


class RateLimit(logging.Filter):
    """Lets a message through so many times a minute, then says how many were left out.

    Args:
        most: times a minute.
    """

    def __init__(self, most: int = 20) -> None:
        super().__init__()
        self._most = most
        self._since: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide by the message's wording, not by its values."""
        if record.levelno < logging.INFO:
            return True
        key = (record.name, str(record.msg))
        began, count = self._since.get(key, (record.created, 0))
        if record.created - began >= 60:
            if count > self._most:
                record.msg = f"{record.msg} ({count - self._most} more like it in the last minute)"
            began, count = record.created, 0
        self._since[key] = (began, count + 1)
        return count < self._most
