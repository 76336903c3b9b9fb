# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The files of a run: ``RUN/<benchmark>/<subset>/predictions*.jsonl`` and what goes with them.

Rows are only ever appended. A process may be killed at any time: what it wrote last may be torn,
is cut off when the run goes on, and that item is asked again.
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

from evaluate.core import Answer
from funaudiochat.errors import FunAudioChatError

_HASHED_BYTES = 1 << 20
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass
class Prediction:
    """One row; ``error`` is the reason there is no answer.

    Attributes:
        item_key: hash of the question, by which it is known wherever in the data it moves.
        heard_s: seconds of the question that were given to the model.
        cut: the answer ended at the limit of tokens.
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
    return run / benchmark / subset


def write_json(path: Path, value: Any) -> None:
    """Write a file in one step, so that nobody reads half of it."""
    _replace(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSONL file by these rows in one step."""
    _replace(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, since two processes may write the same file; JSON may hold lone surrogates.
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8", errors="replace"
    ) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(checkpoint: Path) -> str:
    """Hash of a checkpoint: names, sizes, and first and last MiB of every file of its folder.

    A file's own name does not count, as it may be renamed.
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
    """Raises FunAudioChatError for a file that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FunAudioChatError(f"cannot read {path}: {error}") from error


class Journal:
    """A JSONL file that grows row by row; open it with :func:`appending`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows so that they survive the process."""
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        self._file.write("".join(lines).encode("utf-8", errors="replace"))
        self._file.flush()
        os.fsync(self._file.fileno())


@contextmanager
def appending(path: Path, wait: bool = False) -> Iterator[Journal]:
    """Open a JSONL file for one writer, its torn last line cut off.

    Args:
        wait: until another process has written its rows.

    Raises:
        FunAudioChatError: another process writes to it, and is not waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FunAudioChatError(
                f"another process writes to {path}; use --shard i/n to share the work"
            ) from error
        _cut_torn_line(file)
        yield Journal(file)


def _cut_torn_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if size and file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Whole rows of a JSONL file of ours; a torn one is passed over."""
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
    """All rows of a subset, of every shard, one for each item, in the order of the data.

    Of several rows of an item those of the settings count before others, then answers before
    failures, then later ones. Rows of a question that the data no longer holds, or holds under
    another id, are left out.
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
    """By the key of the question, the row to go on from."""
    return _best(stored_predictions(folder), settings, "item_key")


def stored_predictions(folder: Path) -> Iterator[Prediction]:
    """Every row of a subset, of every shard, as written.

    Raises:
        FunAudioChatError: a file is of another version.
    """
    for path in sorted(folder.glob("predictions*.jsonl")):
        for row in json_rows(path):
            try:
                yield Prediction(**row)
            except TypeError as error:
                raise FunAudioChatError(f"{path} is not of this version: {error}") from error


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
    """What the scorers see of the answered ones, and from how many a thought was cut.

    A spoken answer whose sound is gone is one that failed: silence would be scored as wrong.
    """
    answers, thoughts = [], 0
    for p in predictions:
        sound = folder / p.audio_out if p.audio_out else None
        if sound is not None and not sound.is_file():
            p.error = p.error or "the sound of the answer is missing"
        if p.error is not None:
            continue
        text, raw_text = p.text, p.raw_text or p.text
        if "<think>" in raw_text:
            thoughts += 1
            text, raw_text = _THOUGHT.sub("", text).strip(), _THOUGHT.sub("", raw_text)
        question = Path(p.audio) if p.audio else None
        answers.append(
            Answer(
                p.benchmark,
                p.subset,
                p.id,
                p.fields,
                p.instruction,
                text,
                raw_text,
                sound,
                question,
                p.n_speech_codes == 0,
            )
        )
    return answers, thoughts
