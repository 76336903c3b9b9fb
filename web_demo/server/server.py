# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Start the web demo: ``python -m web_demo.server.server`` or ``funaudiochat serve``."""

import argparse
import asyncio
import json
import logging
import os
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence

import torch
from aiohttp import web

from funaudiochat import hub
from funaudiochat.errors import FunAudioChatError
from web_demo.server.access import Connections, LimitedHandler, RateLimit
from web_demo.server.app import CONTEXT, SESSIONS, make_app
from web_demo.server.engine import Models
from web_demo.server.options import Options, parse

logger = logging.getLogger("web_demo.server")

_PLAIN_RECORD = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats each record as one line of JSON, with its extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {k: v for k, v in record.__dict__.items() if k not in _PLAIN_RECORD}
        entry = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def choose_tts_device(device: str, tts_device: str | None, tts_gpu: int | None) -> str:
    """Choose the detokenizer's device: as given, or a second GPU, or the model's device."""
    if tts_device is not None:
        return tts_device
    gpus = torch.cuda.device_count()
    if tts_gpu is not None:
        if tts_gpu < gpus:
            return f"cuda:{tts_gpu}"
        logger.warning(
            "GPU %d does not exist; the detokenizer runs on --device %s", tts_gpu, device
        )
        return device
    return "cuda:1" if gpus > 1 and device in ("auto", "cuda", "cuda:0") else device


def set_up_logging(as_json: bool, level: str) -> None:
    """Log to stderr."""
    handler = logging.StreamHandler()
    if as_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(RateLimit())  # repeated connections must not fill the disk
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("web_demo").setLevel(level.upper())


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind the address before the models are loaded; connections are not accepted yet.

    Raises:
        OSError: the address is not this machine's, or in use.
    """
    sockets: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM,
                                   flags=socket.AI_PASSIVE)  # fmt: skip
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            try:
                bound = socket.socket(family, kind, protocol)
            except OSError:  # this machine lacks the protocol
                continue
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0 is any free one; all addresses of the host share it.
            bound.bind((address[0], sockets[0].getsockname()[1] or port, *address[2:]))
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; "
            "choose another with --host or --port"
        ) from error
    return sockets


def connection_limits(sessions: int) -> Connections:
    """Derive connection limits from the open-file limit, and per address from the sessions."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Connections(max(64, min(4096, files - 256)), 64 + 4 * sessions)


async def serve(
    app: web.Application,
    host: str,
    sockets: list[socket.socket],
    tls: ssl.SSLContext | None,
    drain_seconds: float,
) -> None:
    """Serve until SIGTERM or SIGINT, then let replies finish; a second signal exits at once."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    await app[CONTEXT].measure()
    lobby, http = app[CONTEXT].lobby, runner.server
    limits = connection_limits(lobby.max_sessions + lobby.queue_size)
    listening = [
        await asyncio.get_running_loop().create_server(
            lambda: LimitedHandler(http, limits, access_log=None), sock=bound, ssl=tls, backlog=128
        )
        for bound in sockets
    ]
    shown = "localhost" if host in ("0.0.0.0", "::", "") else f"[{host}]" if ":" in host else host
    scheme, port = "http" if tls is None else "https", sockets[0].getsockname()[1]
    logger.info("open %s://%s:%d", scheme, shown, port)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await stop.wait()
    logger.info("stopping within %g s", drain_seconds)
    for server in listening:
        server.close()
    try:
        async with asyncio.timeout(drain_seconds):
            await app[SESSIONS].drain()
            await runner.cleanup()
    except TimeoutError:
        logger.error("not everything finished in time; exiting anyway")
        os._exit(1)
    if app[CONTEXT].engine.calls:
        logger.error("a model call hangs; exiting anyway")
        os._exit(1)  # Python would wait for the call's thread
    logger.info("stopped")


def load_models(args: argparse.Namespace) -> Models:
    """Load the model folders or connect to the remote server that the flags name."""
    if args.llm_server is not None:
        key = os.environ.get("OPENAI_API_KEY", "none")
        return Models.of_server(args.llm_server, args.llm_server_model, key)
    return Models.load(
        *hub.resolve_pair(args.model_path, args.tts_path),
        args.device,
        choose_tts_device(args.device, args.tts_device, args.tts_gpu),
        args.voice,
        args.weights,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``python -m web_demo.server.server``."""
    run(parse(argv))


def run(args: argparse.Namespace) -> None:
    """Load the models and serve until a signal; ``args`` are those of :func:`options.parse`."""
    set_up_logging(args.log_json, args.log_level)
    try:
        tls = None
        if args.ssl_cert is not None:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(args.ssl_cert, args.ssl_key)
        sockets = bind(args.host, args.port)
        began = time.monotonic()
        models = load_models(args)
        logger.info("%s loaded in %.1f s", models.name, time.monotonic() - began)
        options = Options(
            token=args.token,
            allowed_origins=tuple(origin.rstrip("/") for origin in args.allowed_origin),
            allowed_hosts=(args.host, *args.allowed_host),
            max_sessions=args.max_sessions,
            queue_size=args.queue_size,
            max_utterance_seconds=args.max_utterance_seconds,
            max_message_bytes=args.max_message_bytes,
            idle_seconds=args.idle_seconds,
            drain_seconds=args.drain_seconds,
            save_recordings=args.save_recordings,
            page=args.page,
        )
        app = make_app(models, options)
        asyncio.run(serve(app, args.host, sockets, tls, args.drain_seconds))
    except ssl.SSLError as error:
        sys.exit(f"error: --ssl-cert and --ssl-key must be matching PEM files: {error}")
    except (FunAudioChatError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
