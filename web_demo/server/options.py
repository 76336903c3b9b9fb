# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Options of the server and its command-line flags; importing this needs no torch."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ, WEIGHTS


@dataclass(frozen=True)
class Options:
    """Limits and access rules of a server."""

    token: str | None = None
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_sessions: int | None = None  # None: as many as a measurement allows
    queue_size: int = 16
    max_utterance_seconds: float = 60.0
    max_message_bytes: int = 16 * 2**20
    max_text_chars: int = 4000
    max_prompt_chars: int = 4000
    idle_seconds: float = 1800.0
    drain_seconds: float = 8.0  # container runtimes kill after ten
    save_recordings: Path | None = None
    page: Path = Path(__file__).parents[1] / "client" / "dist"

    @property
    def known_hosts(self) -> set[str]:
        """Host names the server answers to: its own and those of the allowed origins."""
        return {
            *self.allowed_hosts,
            *(origin if origin == "*" else urlsplit(origin).hostname or ""
              for origin in self.allowed_origins),
        }  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the flags; help and errors exit the process."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _make_parser() -> argparse.ArgumentParser:
    """Define all flags; those of the reference's server keep their names."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="funaudiochat serve",
        description="Serve the web demo: the page and the API for spoken conversations.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="localhost", help="address to listen on; 0.0.0.0 for all")
    add("--port", type=int, default=11236, help="0 chooses a free one")
    add("--model-path", type=Path, help="folder of the language model")
    add("--tts-path", type=Path, help="folder of the detokenizer")
    add(
        "--llm-server",
        metavar="URL",
        help="let an OpenAI-compatible server such as vLLM compute the replies, as text; no model "
        "is loaded. Its key is read from the environment variable OPENAI_API_KEY",
    )
    add(
        "--llm-server-model",
        metavar="NAME",
        help="name of the model on that server; default: the first",
    )
    add("--voice", help="voice of the replies unless the client chooses another")
    add(
        "--device",
        default="auto",
        help="device of the language model: auto, cpu, cuda, cuda:1, mps",
    )
    add("--weights", choices=WEIGHTS, help="form of the language model's weights; int4 needs a GPU")
    add("--tts-device", help="device of the detokenizer; default: a second GPU, else --device")
    add("--tts-gpu", type=int, help="the reference's flag: --tts-device cuda:N, if that GPU exists")
    add("--sample-rate", type=int, default=OUTPUT_RATE_HZ, help="sample rate of the replies; fixed")
    add(
        "--model-sample-rate",
        type=int,
        default=INPUT_RATE_HZ,
        help="sample rate of the questions; fixed",
    )
    add("--ssl-cert", type=Path, help="certificate chain, PEM; serves https with --ssl-key")
    add("--ssl-key", type=Path, help="private key, PEM")
    add("--token", help="secret that clients must present (?token=...)")
    add(
        "--allowed-origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of a page served elsewhere, may be repeated; * for all",
    )
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name of the server, such as a reverse proxy's; may be repeated",
    )
    add(
        "--max-sessions",
        type=int,
        help="sessions at once; default: as many as this machine can serve in real time, measured "
        "at the start",
    )
    add("--queue-size", type=int, default=defaults.queue_size, help="connections that may wait")
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
        help="largest message, including audio files",
    )
    add(
        "--idle-seconds",
        type=float,
        default=defaults.idle_seconds,
        help="close a session without questions after this",
    )
    add(
        "--drain-seconds",
        type=float,
        default=defaults.drain_seconds,
        help="time for running replies to finish when the server is stopped",
    )
    add(
        "--save-recordings",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="save audio and text of all turns here; default: save nothing",
    )
    add("--page", type=Path, default=defaults.page, help="folder of the built page")
    add("--log-json", action="store_true", help="log JSON lines")
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"], help=" ")
    return parser


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse flags that cannot work, and say what to do."""
    if args.sample_rate != OUTPUT_RATE_HZ:
        parser.error(f"--sample-rate must be {OUTPUT_RATE_HZ} Hz, the detokenizer's rate")
    if args.model_sample_rate != INPUT_RATE_HZ:
        parser.error(f"--model-sample-rate must be {INPUT_RATE_HZ} Hz, the model's rate")
    if args.llm_server is not None and (args.model_path or args.tts_path or args.voice):
        parser.error(
            "--llm-server computes text replies in place of --model-path, --tts-path and --voice"
        )
    if (args.ssl_cert is None) != (args.ssl_key is None):
        parser.error("--ssl-cert and --ssl-key must be given together")
    for name in ("ssl_cert", "ssl_key"):
        path = getattr(args, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name.replace('_', '-')}: no such file: {path}")
    if args.token is not None and not args.token.strip():
        parser.error("--token is empty and would admit everybody; give a secret or omit the flag")
    if not 0 <= args.port <= 65535:
        parser.error(f"--port must be 0 to 65535, not {args.port}")
    if (
        args.save_recordings is not None
        and args.save_recordings.exists()
        and (not args.save_recordings.is_dir())
    ):
        parser.error(f"--save-recordings: {args.save_recordings} is a file, not a folder")
    if (args.max_sessions is not None and args.max_sessions < 1) or args.queue_size < 0:
        parser.error("--max-sessions must be at least 1 and --queue-size at least 0")
    for name in ("max_utterance_seconds", "max_message_bytes", "idle_seconds"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
