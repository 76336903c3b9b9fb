# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Readers of data files that keep track of unusable rows.

A missing or unreadable file raises. A broken row becomes an item with a problem, which names the
file and the row, so nothing is dropped silently.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.core import Item, LayoutError

csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class RowOfData:
    """One row of a data file: its location, and its columns or the reason they cannot be read."""

    path: Path
    position: str
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def where(self) -> str:
        """The location of the row, for messages."""
        return f"{self.path}, {self.position}"

    def text(self, *names: str) -> str:
        """Return the first of these columns that is present, as text.

        Raises:
            RowError: none is present, or the value is not text or a number.
        """
        for name in names:
            value = self.columns.get(name)
            if value is not None:
                if not isinstance(value, str | int | float):
                    raise RowError(f"column {name!r} must be text, not {type(value).__name__}")
                return str(value)
        raise RowError(f"column {' or '.join(map(repr, names))} is missing")

    def get(self, *names: str) -> Any:
        """Return the first of these columns that is not None, or None."""
        return next((v for n in names if (v := self.columns.get(n)) is not None), None)


class RowError(ValueError):
    """A row that cannot be used."""


def items_of(
    rows: Iterable[RowOfData], make: Callable[[RowOfData], dict[str, Any]]
) -> Iterator[Item]:
    """Convert rows to items.

    Args:
        rows: rows of the data.
        make: maps a row to fields of :class:`Item`, ``id`` being optional; may raise RowError.
    """
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        try:
            if row.problem is not None:
                raise RowError(row.problem)
            made = make(row)
        except RowError as error:
            made = {"problem": f"{row.where}: {error}"}
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            OSError,
            RecursionError,
        ) as error:
            made = {"problem": f"{row.where} cannot be read: {error!r}"}
        # The files of a run cannot store lone surrogates, which JSON may contain.
        id_ = str(made.pop("id", index)).encode("utf-8", "replace").decode()
        seen[id_] = seen.get(id_, 0) + 1
        if seen[id_] > 1:
            id_ = f"{id_}#{seen[id_]}"
        yield Item(id=id_, index=index, source=row.path, **made)


def _open(path: Path) -> Path:
    if not path.is_file():
        raise LayoutError(f"no file {path}; `funaudiochat eval list` shows the expected layout")
    return path


def json_lines(path: Path) -> Iterator[RowOfData]:
    """Yield the rows of a JSONL file."""
    with _open(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    columns = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield RowOfData(path, f"line {number}", problem=f"not valid JSON: {error}")
                else:
                    yield _json_row(path, f"line {number}", columns)


def _json_row(path: Path, position: str, columns: Any) -> RowOfData:
    if not isinstance(columns, dict):
        return RowOfData(path, position, problem="not a JSON object")
    return RowOfData(path, position, columns)


def json_list(path: Path) -> Iterator[RowOfData]:
    """Yield the rows of a JSON file with one list of objects, or of a JSONL file."""
    data = _open(path).read_bytes()
    if not data.lstrip().startswith(b"["):
        yield from json_lines(path)
        return
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is not valid JSON: {error}") from error
    for number, columns in enumerate(rows, 1):
        yield _json_row(path, f"entry {number}", columns)


def csv_rows(path: Path, separator: str = ",") -> Iterator[RowOfData]:
    """Yield the rows of a CSV or TSV file with a header."""
    with _open(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
        table = csv.DictReader(
            file,
            delimiter=separator,
            # Tab-separated corpora do not quote values.
            quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
        )
        for number, columns in enumerate(table, 2):
            yield RowOfData(path, f"row {number}", {k: v for k, v in columns.items() if k})


def parquet_rows(paths: list[Path]) -> Iterator[RowOfData]:
    """Yield the rows of Parquet files."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise LayoutError(
            "reading Parquet files needs pyarrow: pip install 'funaudiochat[eval]'"
        ) from error
    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            number = 0
            for batch in file.iter_batches(batch_size=64):
                for columns in batch.to_pylist():
                    number += 1
                    yield RowOfData(path, f"row {number}", columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise LayoutError(f"cannot read the Parquet file {path}: {error}") from error


def parquet_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files below a folder that match a pattern, sorted.

    Raises:
        LayoutError: no file matches.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise LayoutError(
            f"no file {folder}/{pattern}; `funaudiochat eval list` shows the expected layout"
        )
    return found


def embedded_audio(row: RowOfData, folder: Path, column: str = "audio") -> Path | bytes:
    """Return the audio of a Parquet row: its bytes, or the file that it names below ``folder``.

    Raises:
        RowError: the row has neither.
    """
    value = row.get(column)
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        value = value.get("path")
    if isinstance(value, str) and value:
        return find_file(value, folder)
    raise RowError(f"column {column!r} contains no audio")


def find_file(name: str, *folders: Path) -> Path:
    """Return the path of a file in the first folder that contains it, else in the first folder.

    A missing file is reported when it is read, so that its item is recorded with this reason.

    Raises:
        RowError: the name is not a valid file name or points outside the folders.
    """
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise RowError(f"invalid file name {name!r}")
    path = Path(name)
    inside = not path.is_absolute() or any(path.is_relative_to(f.absolute()) for f in folders)
    if not inside or ".." in path.parts:
        raise RowError(f"the file {name!r} must be below the data folder")
    candidates = [folder / path for folder in folders]
    return next((path for path in candidates if path.is_file()), candidates[0])


def find_audio(name: str, *folders: Path) -> Path:
    """Find an audio file whose name may start with a slash for the root of the data set."""
    inside = any(Path(name).is_relative_to(folder.absolute()) for folder in folders)
    return find_file(name if inside else name.lstrip("/"), *folders)


def given_choices(values: Iterable[Any]) -> list[str]:
    """Return the non-empty options in order, without labels such as ``(A) ``.

    Labels are removed only if every option has the label of its position, so an option that merely
    looks labelled is kept as it is.
    """
    choices = [str(v) for v in values if not _is_blank(v)]
    labels = [f"({chr(ord('A') + i)})" for i in range(len(choices))]
    if all(c.startswith(label) for c, label in zip(choices, labels, strict=True)):
        return [c.removeprefix(label).strip() for c, label in zip(choices, labels, strict=True)]
    return choices


def _is_blank(value: Any) -> bool:
    # A missing value may be null, NaN or an empty string.
    return value is None or value != value or not str(value).strip()


def right_choice(answer: str, choices: list[str]) -> str:
    """Return the option that an answer refers to by its text, ``(B) text`` or ``(B)``.

    An answer that refers to none of them is returned as it is.
    """
    if answer in choices:
        return answer
    found = re.fullmatch(r"\(([A-Z])\)\s*(.*)", answer.strip(), re.DOTALL)
    index = ord(found[1]) - ord("A") if found else len(choices)
    if found and index < len(choices) and found[2].strip() in ("", choices[index]):
        return choices[index]
    return answer


def as_list(value: Any) -> list[Any]:
    """Return a list, given as such or as JSON.

    Raises:
        RowError: the value is not a list.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{value[:80]!r} is not a list: {error}") from error
    if not isinstance(value, list):
        raise RowError(f"{str(value)[:80]!r} is not a list")
    return value
