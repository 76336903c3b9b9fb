# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The files of a run: ``RUN/<benchmark>/<subset>/predictions*.jsonl`` and related files.

Rows are only ever appended. The process may be killed at any time: an incomplete last line is
truncated when the run resumes, and its item is run again.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

from evaluate.verdict import Answer
from funaudiochat.errors import FunAudioChatError

_HASHED_BYTES = 1 << 20
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass
class Prediction:
    """One row of a predictions file.

    Attributes:
        item_key: hash of the item's content, which identifies it at any position in the data.
        heard_s: seconds of the question's audio that the model received.
        n_speech_codes: number of speech tokens.
        cut: whether the answer was truncated at the token limit.
        error: why there is no answer; None if there is one.
    """

    id: str
    index: int
    benchmark: str
    subset: str
    audio: str | None = None
    system: str = ""
    instruction: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    raw_text: str = ""
    audio_out: str | None = None
    n_text_tokens: int | None = None
    n_speech_codes: int | None = None
    seconds: float = 0.0
    item_key: str = ""
    heard_s: float | None = None
    cut: bool = False
    settings_hash: str = ""
    error: str | None = None


def subset_folder(run: Path, benchmark: str, subset: str) -> Path:
    """Return the folder of a subset within a run."""
    return run / benchmark / subset


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    _replace(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSONL file atomically."""
    _replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A unique name, since two processes may write the same file; JSON may hold lone surrogates.
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(checkpoint: Path) -> str:
    """Hash a checkpoint: relative name, size, first and last MiB of every file in its folder.

    For a single file the name is ignored, as it may be renamed.
    """
    files = [checkpoint] if checkpoint.is_file() else checkpoint.rglob("*")
    digest = hashlib.sha256()
    for path in sorted(p for p in files if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(checkpoint)} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(_HASHED_BYTES))
            if size > 2 * _HASHED_BYTES:
                file.seek(-_HASHED_BYTES, io.SEEK_END)
                digest.update(file.read())
    return digest.hexdigest()[:16]


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FunAudioChatError: the file is missing or not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FunAudioChatError(f"cannot read {path}: {error}") from error


class Journal:
    """A JSONL file that is appended to; open it with :func:`appending`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Append rows and flush them to disk."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self._file.write("".join(lines).encode("utf-8", errors="replace"))
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def appending(path: Path, wait: bool = False) -> Iterator[Journal]:
    """Open a JSONL file for a single writer, truncating an incomplete last line.

    Args:
        path: the file.
        wait: whether to wait until another process has released the file.

    Raises:
        FunAudioChatError: another process holds the file and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FunAudioChatError(
                f"another process is writing {path}; use --shard i/n to divide the work"
            ) from error
        _truncate_incomplete_line(file)
        yield Journal(file)


def _truncate_incomplete_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size and file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file written by this toolkit, skipping incomplete ones."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def load_predictions(folder: Path) -> list[Prediction]:
    """Load the predictions of a subset from all shards: one per item, in data order.

    Of several rows of an item, those with the current settings take precedence, then answers over
    failures, then later rows over earlier ones. Rows whose item is no longer in the data, or has
    another id there, are left out.
    """
    known = read_json(folder / "subset.json") if (folder / "subset.json").is_file() else {}
    settings, keys = known.get("settings"), known.get("item_keys")
    rows = (
        row
        for row in stored_predictions(folder)
        if keys is None or not row.item_key or keys.get(row.id) == row.item_key
    )
    return sorted(_best(rows, settings, "id").values(), key=lambda p: p.index)


def known_answers(folder: Path, settings: str) -> dict[str, Prediction]:
    """Map each item key to the best stored prediction, to resume from."""
    return _best(stored_predictions(folder), settings, "item_key")


def stored_predictions(folder: Path) -> Iterator[Prediction]:
    """Yield every stored row of a subset, from all shards.

    Raises:
        FunAudioChatError: a file was written by an incompatible version.
    """
    for path in sorted(folder.glob("predictions*.jsonl")):
        for row in json_rows(path):
            try:
                yield Prediction(**row)
            except TypeError as error:
                raise FunAudioChatError(
                    f"{path} was written by an incompatible version: {error}"
                ) from error


def _best(rows: Iterable[Prediction], settings: str | None, key: str) -> dict[str, Prediction]:
    def rank(row: Prediction) -> tuple[bool, bool]:
        return row.settings_hash == settings, row.error is None

    found: dict[str, Prediction] = {}
    for row in rows:
        old = found.get(getattr(row, key))
        if old is None or rank(row) >= rank(old):
            found[getattr(row, key)] = row
    return found


def answers_of(folder: Path, predictions: list[Prediction]) -> tuple[list[Answer], int]:
    """Return the answers for the scorers, and how many had ``<think>`` blocks removed.

    A spoken answer whose audio file is gone counts as failed; silence would be scored as wrong.
    """
    answers, thoughts = [], 0
    for p in predictions:
        audio = folder / p.audio_out if p.audio_out else None
        if audio is not None and not audio.is_file():
            p.error = p.error or "the audio of the answer is missing"
        if p.error is not None:
            continue
        text, raw_text = p.text, p.raw_text or p.text
        if "<think>" in raw_text:
            thoughts += 1
            text, raw_text = _THOUGHT.sub("", text).strip(), _THOUGHT.sub("", raw_text)
        question_audio = Path(p.audio) if p.audio else None
        answers.append(
            Answer(
                p.benchmark,
                p.subset,
                p.id,
                p.fields,
                p.instruction,
                text,
                raw_text,
                audio,
                question_audio,
                p.n_speech_codes == 0,
            )
        )
    return answers, thoughts
