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
from pathlib import Path
from typing import TYPE_CHECKING

from funaudiochat import hub
from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError
from web_demo.server.options import Options

# torch and aiohttp are imported where they are used, so that `--help` and a wrong flag are
# answered at once.
if TYPE_CHECKING:
    from aiohttp import web

    from web_demo.server.access import Connections
    from web_demo.server.engine import Models

logger = logging.getLogger("web_demo.server")

_PLAIN_RECORD = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the extra fields of a record."""

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


def make_parser() -> argparse.ArgumentParser:
    """All flags; those of the reference's server keep their names."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="funaudiochat serve",
        description="Serve the web demo: the page and the API of spoken conversations.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="localhost", help="address to listen on; 0.0.0.0 for all")
    add("--port", type=int, default=11236, help="0 for any free one")
    add("--model-path", type=Path, help="folder of the language model")
    add("--tts-path", type=Path, help="folder of the detokenizer")
    add(
        "--llm-server",
        metavar="URL",
        help="an OpenAI-compatible server, such as vLLM, gives the answers, as text; nothing is "
        "loaded here. Its key is the environment's OPENAI_API_KEY",
    )
    add("--llm-server-model", metavar="NAME", help="name of the model there; default: the first")
    add("--voice", help="voice of the answers unless the page chooses another")
    add("--device", default="auto", help="of the language model: auto, cpu, cuda, cuda:1, mps")
    add("--tts-device", help="of the detokenizer; default: a second GPU, else that of --device")
    add("--tts-gpu", type=int, help="the reference's flag: --tts-device cuda:N, if there is one")
    add("--sample-rate", type=int, default=OUTPUT_RATE_HZ, help="of the replies; only this one")
    add("--model-sample-rate", type=int, default=INPUT_RATE_HZ, help="of the questions; only this")
    add("--ssl-cert", type=Path, help="certificate chain, PEM; serves https with --ssl-key")
    add("--ssl-key", type=Path, help="private key, PEM")
    add("--token", help="secret that pages must show (?token=...)")
    add(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of pages served elsewhere, may be repeated; * for all",
    )
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name that the server is reached by, such as a reverse proxy's; may be repeated",
    )
    add(
        "--max-sessions",
        type=int,
        help="talks at once; default: as many as a measurement at the start finds that this "
        "machine can answer in real time",
    )
    add("--queue-size", type=int, default=defaults.queue_size, help="talkers who may wait")
    add(
        "--max-utterance-seconds",
        type=float,
        default=defaults.max_utterance_seconds,
        help="longest question",
    )
    add(
        "--max-message-bytes",
        type=int,
        default=defaults.max_message_bytes,
        help="largest message, a sound file included",
    )
    add(
        "--idle-seconds",
        type=float,
        default=defaults.idle_seconds,
        help="a talk without a question ends after this",
    )
    add(
        "--drain-seconds",
        type=float,
        default=defaults.drain_seconds,
        help="running replies may take this long when the server is told to stop",
    )
    add(
        "--save-recordings",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="keep sound and text of all turns here; nothing is kept without it",
    )
    add("--page", type=Path, default=defaults.page, help="folder of the built page")
    add("--log-json", action="store_true", help="log JSON lines")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"], help=" ")
    return parser


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what cannot work, with what to do."""
    if args.sample_rate != OUTPUT_RATE_HZ:
        parser.error(f"--sample-rate: the detokenizer's sound has {OUTPUT_RATE_HZ} Hz")
    if args.model_sample_rate != INPUT_RATE_HZ:
        parser.error(f"--model-sample-rate: the model hears {INPUT_RATE_HZ} Hz")
    if args.llm_server is not None and (args.model_path or args.tts_path or args.voice):
        parser.error(
            "--llm-server answers, with text, in place of --model-path, --tts-path, --voice"
        )
    if (args.ssl_cert is None) != (args.ssl_key is None):
        parser.error("--ssl-cert and --ssl-key go together")
    for name in ("ssl_cert", "ssl_key"):
        path = getattr(args, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name.replace('_', '-')}: there is no file {path}")
    if args.token is not None and not args.token.strip():
        parser.error("--token is empty, which would admit everybody; give a secret or leave it out")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port must be 0 to 65535, not {args.port}")
    if (
        args.save_recordings is not None
        and args.save_recordings.exists()
        and (not args.save_recordings.is_dir())
    ):
        parser.error(f"--save-recordings: {args.save_recordings} is a file, not a folder")
    if (args.max_sessions is not None and args.max_sessions < 1) or args.queue_size < 0:
        parser.error("--max-sessions is at least 1, --queue-size at least 0")
    for name in ("max_utterance_seconds", "max_message_bytes", "idle_seconds"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")


def choose_tts_device(device: str, tts_device: str | None, tts_gpu: int | None) -> str:
    """Return the detokenizer's device: as told, else a second GPU, else that of the model."""
    import torch

    if tts_device is not None:
        return tts_device
    gpus = torch.cuda.device_count()
    if tts_gpu is not None:
        if tts_gpu < gpus:
            return f"cuda:{tts_gpu}"
        logger.warning("there is no GPU %d; the detokenizer runs on --device %s", tts_gpu, device)
        return device
    return "cuda:1" if gpus > 1 and device in ("auto", "cuda", "cuda:0") else device


def set_up_logging(as_json: bool, level: str) -> None:
    """Log to stderr."""
    from web_demo.server.access import RateLimit

    handler = logging.StreamHandler()
    if as_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(RateLimit())  # whoever connects a thousand times must not fill the disk
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("web_demo").setLevel(level.upper())


def bind(host: str, port: int) -> list[socket.socket]:
    """Take the address before models are loaded; nothing is accepted yet.

    Raises:
        OSError: it is not this machine's, or in use.
    """
    sockets: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM,
                                   flags=socket.AI_PASSIVE)  # fmt: skip
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            try:
                bound = socket.socket(family, kind, protocol)
            except OSError:  # this machine has no such protocol
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
            "name another with --host or --port"
        ) from error
    return sockets


def connection_limits(sessions: int) -> "Connections":
    """Allow what the open files of this process allow, and an address what its pages need."""
    from web_demo.server.access import Connections

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Connections(max(64, min(4096, files - 256)), 64 + 4 * sessions)


async def serve(
    app: "web.Application",
    host: str,
    sockets: list[socket.socket],
    tls: ssl.SSLContext | None,
    drain_seconds: float,
) -> None:
    """Run until SIGTERM or SIGINT; replies end first. A second signal ends at once."""
    from aiohttp import web

    from web_demo.server.access import LimitedHandler
    from web_demo.server.app import DEMO

    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    await app[DEMO].measure()
    lobby, http = app[DEMO].lobby, runner.server
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
            await app[DEMO].drain()
            await runner.cleanup()
    except TimeoutError:
        logger.error("not everything ended in time; the server ends without it")
        os._exit(1)
    if app[DEMO].engine.calls:
        logger.error("a call of the models hangs; the server ends without it")
        os._exit(1)  # Python would wait for the call's thread
    logger.info("stopped")


def load_models(args: argparse.Namespace) -> "Models":
    """Load the folders, or reach the server, that the flags name."""
    from web_demo.server.engine import Models

    if args.llm_server is not None:
        key = os.environ.get("OPENAI_API_KEY", "none")
        return Models.of_server(args.llm_server, args.llm_server_model, key)
    return Models.load(
        *hub.resolve_pair(args.model_path, args.tts_path),
        args.device,
        choose_tts_device(args.device, args.tts_device, args.tts_gpu),
        args.voice,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = make_parser()
    args = parser.parse_args(argv)
    check(parser, args)
    from web_demo.server.app import make_app

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
        sys.exit(f"error: --ssl-cert or --ssl-key is no PEM file, or they do not match: {error}")
    except (FunAudioChatError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
