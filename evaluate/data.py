# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Rows of data files, with what is wrong with them.

A file that is missing or of another kind raises; a row that is broken becomes an item with a
problem, which names the file and the row, so that nothing is lost silently.
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
    """One row: its file and place there, and its columns or the reason they cannot be read."""

    path: Path
    place: str
    columns: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def where(self) -> str:
        return f"{self.path}, {self.place}"

    def text(self, *names: str) -> str:
        """The first of these columns that there is, as text.

        Raises:
            RowError: there is none, or it holds something else.
        """
        for name in names:
            value = self.columns.get(name)
            if value is not None:
                if not isinstance(value, str | int | float):
                    raise RowError(f"column {name!r} holds {type(value).__name__}, not text")
                return str(value)
        raise RowError(f"column {' or '.join(map(repr, names))} is missing")

    def get(self, *names: str) -> Any:
        """The first of these columns that is not None, or None."""
        return next((v for n in names if (v := self.columns.get(n)) is not None), None)


class RowError(ValueError):
    """What is wrong with a row."""


def items_of(
    rows: Iterable[RowOfData], make: Callable[[RowOfData], dict[str, Any]]
) -> Iterator[Item]:
    """Items from rows.

    Args:
        make: the row's part of an :class:`Item`; may leave out ``id``. Raises RowError.
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
        # Lone surrogates, which JSON may hold, do not survive the files of a run.
        id_ = str(made.pop("id", index)).encode("utf-8", "replace").decode()
        seen[id_] = seen.get(id_, 0) + 1
        if seen[id_] > 1:
            id_ = f"{id_}#{seen[id_]}"
        yield Item(id=id_, index=index, source=row.path, **made)


def _open(path: Path) -> Path:
    if not path.is_file():
        raise LayoutError(f"no file {path}; `funaudiochat eval list` shows the layout")
    return path


def json_lines(path: Path) -> Iterator[RowOfData]:
    """Rows of a JSONL file."""
    with _open(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    columns = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield RowOfData(path, f"line {number}", problem=f"is no JSON: {error}")
                else:
                    yield _json_row(path, f"line {number}", columns)


def _json_row(path: Path, place: str, columns: Any) -> RowOfData:
    if not isinstance(columns, dict):
        return RowOfData(path, place, problem="is no JSON object")
    return RowOfData(path, place, columns)


def json_list(path: Path) -> Iterator[RowOfData]:
    """Rows of a JSON file that holds one list of objects, or of a JSONL file."""
    data = _open(path).read_bytes()
    if not data.lstrip().startswith(b"["):
        yield from json_lines(path)
        return
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path} is no JSON: {error}") from error
    for number, columns in enumerate(rows, 1):
        yield _json_row(path, f"entry {number}", columns)


def csv_rows(path: Path, separator: str = ",") -> Iterator[RowOfData]:
    """Rows of a CSV or TSV file with a header."""
    # Tab-separated corpora write quotation marks as they are.
    quoting: Any = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
    with _open(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
        table: Any = csv.DictReader(file, delimiter=separator, quoting=quoting)
        for number, columns in enumerate(table, 2):
            yield RowOfData(path, f"row {number}", {k: v for k, v in columns.items() if k})


def parquet_rows(paths: list[Path]) -> Iterator[RowOfData]:
    """Rows of Parquet files."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise LayoutError("Parquet files need pyarrow: pip install 'funaudiochat[eval]'") from error
    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            number = 0
            for batch in file.iter_batches(batch_size=64):
                for columns in batch.to_pylist():
                    number += 1
                    yield RowOfData(path, f"row {number}", columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise LayoutError(f"{path} is no readable Parquet file: {error}") from error


def parquet_files(folder: Path, pattern: str) -> list[Path]:
    """Files below a folder, in order.

    Raises:
        LayoutError: there is none.
    """
    found = sorted(folder.glob(pattern))
    if not found:
        raise LayoutError(f"no file {folder}/{pattern}; `funaudiochat eval list` shows the layout")
    return found


def embedded_audio(row: RowOfData, folder: Path, column: str = "audio") -> Path | bytes:
    """The sound of a Parquet row: its bytes, or the file it names below ``folder``.

    Raises:
        RowError: neither is there.
    """
    value = row.get(column)
    if isinstance(value, dict):
        if value.get("bytes"):
            return value["bytes"]
        value = value.get("path")
    if isinstance(value, str) and value:
        return find_file(value, folder)
    raise RowError(f"column {column!r} holds no sound")


def find_file(name: str, *folders: Path) -> Path:
    """A file by its name in the first folder that has it; where none has, in the first.

    A missing sound shows when it is to be read, so that the item is recorded with that reason.

    Raises:
        RowError: the name leaves the folder, or no file can have it.
    """
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise RowError(f"no file can have the name {name!r}")
    path = Path(name)
    inside = not path.is_absolute() or any(path.is_relative_to(f.absolute()) for f in folders)
    if not inside or ".." in path.parts:
        raise RowError(f"the file name {name!r} must lie below the data folder")
    candidates = [folder / path for folder in folders]
    return next((path for path in candidates if path.is_file()), candidates[0])


def find_sound(name: str, *folders: Path) -> Path:
    """:func:`find_file` of a name that may write the data set's own root as a slash."""
    inside = any(Path(name).is_relative_to(folder.absolute()) for folder in folders)
    return find_file(name if inside else name.lstrip("/"), *folders)


def given_choices(values: Iterable[Any]) -> list[str]:
    """The options that are there, in order, without labels such as ``(A) ``.

    A label is dropped only where every option has the one of its place, so that an option which
    merely begins like one stays as it is.
    """
    choices = [str(v) for v in values if not _is_blank(v)]
    labels = [f"({chr(ord('A') + i)})" for i in range(len(choices))]
    if all(c.startswith(label) for c, label in zip(choices, labels, strict=True)):
        return [c.removeprefix(label).strip() for c, label in zip(choices, labels, strict=True)]
    return choices


def _is_blank(value: Any) -> bool:
    # Tables write what is missing as null, as not a number or as nothing.
    return value is None or value != value or not str(value).strip()


def right_choice(answer: str, choices: list[str]) -> str:
    """The option that an answer names, by its text, ``(B) text`` or ``(B)``; else the answer."""
    if answer in choices:
        return answer
    found = re.fullmatch(r"\(([A-Z])\)\s*(.*)", answer.strip(), re.DOTALL)
    place = ord(found[1]) - ord("A") if found else len(choices)
    if found and place < len(choices) and found[2].strip() in ("", choices[place]):
        return choices[place]
    return answer


def as_list(value: Any) -> list[Any]:
    """A list, also from its JSON text.

    Raises:
        RowError: it is none.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{value[:80]!r} is no list: {error}") from error
    if not isinstance(value, list):
        raise RowError(f"{str(value)[:80]!r} is no list")
    return value
