# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Rows on their way through LLaMA-Factory: numbered, and refused or skipped if they are bad.

LLaMA-Factory cuts a row that is too long without a word, and an error does not say which row it is
about. Its functions are replaced by ones that do the same and look.
"""

import copy
import json
import logging
import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from datasets import concatenate_datasets
from datasets.exceptions import DatasetGenerationError
from llamafactory.data import converter, loader
from llamafactory.data.processor import (
    PackedSupervisedDatasetProcessor,
    PairwiseDatasetProcessor,
    SupervisedDatasetProcessor,
)
from llamafactory.extras.constants import IGNORE_INDEX

from funaudiochat.errors import FunAudioChatError

logger = logging.getLogger(__name__)

REMEDY = "fix the row (`funaudiochat train check-data` checks all rows), or set skip_bad_rows: true"
_ROW = "_row"
_load_dataset = loader.load_dataset
_get_converter = converter.get_dataset_converter
_preprocess = loader._get_preprocessed_dataset
_skip_bad_rows = False
_read_audio: Callable[[Any, Any], None]
# Lines that are not JSON, of the files loaded since rows were last counted.
_lines_skipped = 0
# Rows skipped while they stream, by the processes that read them, which are forks of this one.
_streamed_skips = multiprocessing.Value("q")


class _RowChecks:
    """Encodes every row in full and refuses, or skips, what cannot be trained on."""

    skip_bad_rows: bool
    columns: tuple[str, ...] = (
        "input_ids", "attention_mask", "labels", "images", "videos", "audios",
    )  # fmt: skip
    audio_columns: tuple[str, ...] = ("_audios",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.skip_bad_rows = _skip_bad_rows
        self._encoded: deque[tuple[list[int], ...]] = deque()

    def preprocess_dataset(self: Any, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the model inputs of a batch of rows."""
        kept: dict[str, list[Any]] = {key: [] for key in examples}
        for values in zip(*examples.values(), strict=True):
            row = dict(zip(examples, values, strict=True))
            name = row.get(_ROW) or "a row"
            try:
                self._encoded.append(self._encode_whole(row))
            except FunAudioChatError as error:
                if not self.skip_bad_rows:
                    raise FunAudioChatError(f"{name}: {error}; {REMEDY}") from error
                logger.warning("%s is skipped: %s", name, error)
                if self.data_args.streaming:
                    with _streamed_skips.get_lock():
                        _streamed_skips.value += 1
                continue
            # LLaMA-Factory carries the images of a row along with it, packed or not; there are
            # none, so that its name travels there, into the batch (``row_names``).
            row["_images"] = [name]
            for column in self.audio_columns:
                # Lets an error while training name the row.
                row[column] = [
                    json.dumps({**json.loads(entry), "row": name}, ensure_ascii=False)
                    for entry in row[column] or []
                ] or None
            for key, value in row.items():
                kept[key].append(value)
        inputs = super().preprocess_dataset(kept)  # type: ignore[misc]
        return inputs or {key: [] for key in self.columns}

    def _encode_whole(self: Any, row: dict[str, Any]) -> tuple[list[int], ...]:
        """Return ids and labels of a row.

        Raises:
            FunAudioChatError: what is wrong with it.
        """
        prompt, response, audios = row["_prompt"], row["_response"], row["_audios"] or []
        if len(prompt) % 2 != 1 or len(response) != 1:
            raise FunAudioChatError("its messages are not user and assistant in turn")
        unlimited = copy.copy(self.data_args)
        unlimited.cutoff_len = sys.maxsize
        ids, labels = SupervisedDatasetProcessor(
            self.template, self.tokenizer, self.processor, unlimited
        )._encode_data_example(
            prompt, response, row["_system"], row["_tools"], row["_images"] or [],
            row["_videos"] or [], audios,
        )  # fmt: skip
        self._check_encoded(len(ids), audios)
        return ids, labels

    def _check_encoded(self: Any, length: int, audios: list[str]) -> None:
        """Raise FunAudioChatError for a row that would be cut off, or is skipped for its audio."""
        if length > self.data_args.cutoff_len:
            raise FunAudioChatError(
                f"is {length} tokens long and cutoff_len is {self.data_args.cutoff_len}: its end "
                "would be cut off; raise cutoff_len if the memory allows it"
            )
        if self.skip_bad_rows:
            for entry in audios:
                _read_audio(entry, self.processor)

    def print_data_example(self: Any, example: dict[str, list[int]]) -> None:
        """Print a row as the model gets it, and the part it is trained on, without token ids."""
        learned = [token for token in example["labels"] if token != IGNORE_INDEX]
        for title, ids in (("inputs", example["input_ids"]), ("labels", learned)):
            print(f"{title}:\n{self.tokenizer.decode(ids)}".replace(self.tokenizer.pad_token, ""))

    def _encode_data_example(self, *args: Any, **kwargs: Any) -> tuple[list[int], ...]:
        """Return what the row in turn was encoded to when it was checked."""
        return self._encoded.popleft()


class CheckedProcessor(_RowChecks, SupervisedDatasetProcessor):
    """Rows one by one."""


class CheckedPackedProcessor(_RowChecks, PackedSupervisedDatasetProcessor):
    """Rows packed together."""


SIDES = ("chosen", "rejected")


class _SidedProcessor(PairwiseDatasetProcessor):
    """Carries the audios of each answer along with a pair."""

    def preprocess_dataset(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the model inputs of a batch of pairs."""
        inputs = super().preprocess_dataset(examples)
        if inputs:
            inputs |= {f"{side}_audios": examples[f"_{side}_audios"] for side in SIDES}
        return inputs


class CheckedPairProcessor(_RowChecks, _SidedProcessor):
    """Pairs of a chosen and a rejected answer, each with audios of its own."""

    columns = (
        *(f"{side}_{name}" for side in SIDES
          for name in ("input_ids", "attention_mask", "labels", "audios")),
        "images", "videos", "audios",
    )  # fmt: skip
    audio_columns = ("_audios", *(f"_{side}_audios" for side in SIDES))

    def _encode_whole(self: Any, row: dict[str, Any]) -> tuple[list[int], ...]:
        """Return ids and labels of both sides of a pair.

        Raises:
            FunAudioChatError: what is wrong with it.
        """
        prompt, answers = row["_prompt"], row["_response"]
        if len(prompt) % 2 != 1 or len(answers) != 2:
            raise FunAudioChatError(
                "its messages do not alternate and end with the question, or one of chosen and "
                "rejected is missing"
            )
        asked = self._expand("audio", prompt, row["_audios"] or [])
        encoded: list[list[int]] = []
        for side, answer in zip(SIDES, answers, strict=True):
            audios = row[f"_{side}_audios"] or []
            messages = asked + self._expand(f"{side}_audio", [answer], audios)
            ids, learned = self.template.encode_oneturn(
                self.tokenizer, messages, row["_system"], row["_tools"]
            )
            self._check_encoded(len(ids) + len(learned), audios)
            encoded += [ids + learned, [IGNORE_INDEX] * len(ids) + learned]
        self._check_encoded(0, row["_audios"] or [])
        if encoded[:2] == encoded[2:] and row["_chosen_audios"] == row["_rejected_audios"]:
            raise FunAudioChatError("chosen and rejected are the same; there is nothing to prefer")
        return tuple(encoded)

    def _expand(self: Any, field: str, messages: list[Any], audios: list[str]) -> list[Any]:
        """Replace the placeholders of messages, naming the field of audios in errors."""
        plugin = self.template.mm_plugin
        try:
            expanded: list[Any] = plugin.process_messages(messages, [], [], audios, self.processor)
        except FunAudioChatError as error:
            raise FunAudioChatError(f"{field}: {error}") from error
        return expanded

    def print_data_example(self: Any, example: dict[str, list[int]]) -> None:
        """Print both sides of a pair as the model gets them, and what of each is learned."""
        for side in SIDES:
            print(f"{side}:")
            names = ("input_ids", "labels")
            super().print_data_example({name: example[f"{side}_{name}"] for name in names})


def _good_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are JSON objects; skip or refuse the others."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                if not isinstance(json.loads(line), dict):
                    raise ValueError("it is not an object")
            except ValueError as error:
                problem = f"{path.name}, row {number}"
                if not _skip_bad_rows:
                    raise FunAudioChatError(
                        f"{problem}: is not a JSON object ({error}); {REMEDY}"
                    ) from error
                logger.warning("%s is skipped: it is not a JSON object (%s)", problem, error)
                continue
            yield number, line if line.endswith("\n") else line + "\n"


def load_numbered(*args: Any, data_files: Any = None, **kwargs: Any) -> Any:
    """Load a data set like ``datasets.load_dataset``, with the names of its rows in a column.

    Names are the file's and the number of the row: of the line in a JSONL file.
    """
    global _lines_skipped
    if data_files and len(data_files) > 1:
        return concatenate_datasets(
            [load_numbered(*args, data_files=[file], **kwargs) for file in data_files]
        )
    file = Path(data_files[0]) if data_files else None
    numbers: list[int] | None = None
    try:
        dataset = _load_dataset(*args, data_files=data_files, **kwargs)
    except DatasetGenerationError as error:
        if kwargs.get("path") != "json" or file is None:
            raise
        with NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as good:
            numbers = []
            for number, line in _good_lines(file):
                good.write(line)
                numbers.append(number)
            good.flush()
            try:
                dataset = _load_dataset(*args, data_files=[good.name], **kwargs)
            except DatasetGenerationError:
                raise FunAudioChatError(
                    f"{file}: the rows do not have the same fields and kinds of values "
                    f"({error.__cause__ or error}); {REMEDY.split(',')[0]}"
                ) from error
        _lines_skipped += len(_filled_lines(file)) - len(numbers)
    if not hasattr(dataset, "add_column") or kwargs.get("streaming"):
        return dataset
    if numbers is None and file and kwargs.get("path") == "json":
        numbers = _filled_lines(file)
    if numbers is None or len(numbers) != len(dataset):  # a JSON list, Parquet, the hub
        numbers = list(range(1, len(dataset) + 1))
    name = file.name if file else str(kwargs.get("path") or "data")
    return dataset.add_column(_ROW, [f"{name}, row {number}" for number in numbers])


def _filled_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that are not blank."""
    with path.open("rb") as lines:
        return [number for number, line in enumerate(lines, 1) if line.strip()]


class _NumberedConverter:
    """Converts a row and keeps its name."""

    def __init__(self, convert: Any) -> None:
        self.convert = convert

    def __call__(self, example: dict[str, Any]) -> dict[str, Any]:
        data_set, sides = self.convert.dataset_attr, {}
        if data_set.ranking:
            sides = {f"_{side}_audios": example.get(f"{side}_audio") or None for side in SIDES}
            for column in (data_set.system, data_set.tools, data_set.audios):
                example = {column: None, **example}
        return {**self.convert(example), _ROW: example.get(_ROW) or "", **sides}


def _numbered_converter(*args: Any, **kwargs: Any) -> Any:
    return _NumberedConverter(_get_converter(*args, **kwargs))


def _counted(dataset: Any, data_args: Any, *args: Any, **kwargs: Any) -> Any:
    """Preprocess a data set, and say how many of its rows were skipped."""
    global _lines_skipped
    processed = _preprocess(dataset, data_args, *args, **kwargs)
    if _skip_bad_rows and dataset is not None and not data_args.streaming:
        rows = len(dataset) + _lines_skipped
        kept = sum(map(len, processed["images"]))  # their names; packed rows hold several
        logger.warning("skip_bad_rows: %d of %d rows skipped", rows - kept, rows)
        _lines_skipped = 0
    return processed


def streamed_skips() -> int:
    """Return how many rows the workers of this process skipped while they streamed."""
    return _streamed_skips.value


def check_rows(skip_bad_rows: bool, read_audio: Callable[[Any, Any], None]) -> None:
    """Make LLaMA-Factory number and check its rows; safe to repeat.

    Args:
        skip_bad_rows: skip and count them instead of ending.
        read_audio: reads an audio entry with a processor, to see whether that is possible.
    """
    global _skip_bad_rows, _read_audio, _lines_skipped
    # A run before this one may have ended between its lines and its rows.
    _skip_bad_rows, _read_audio, _lines_skipped = skip_bad_rows, read_audio, 0
    loader.load_dataset = load_numbered
    loader._get_preprocessed_dataset = _counted
    loader.SupervisedDatasetProcessor = CheckedProcessor
    loader.PackedSupervisedDatasetProcessor = CheckedPackedProcessor
    loader.PairwiseDatasetProcessor = CheckedPairProcessor
    converter.get_dataset_converter = _numbered_converter
