# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Options of a server, apart from what serves them: the command's help needs no framework."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Options:
    """Limits and access of a server."""

    token: str | None = None
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_sessions: int | None = None  # as many as :meth:`Demo.measure` finds
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
        """Names that the server may be reached by: its own, and those of allowed pages."""
        return {
            *self.allowed_hosts,
            *(origin if origin == "*" else urlsplit(origin).hostname or ""
              for origin in self.allowed_origins),
        }  # fmt: skip
