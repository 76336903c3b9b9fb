# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A data set of the Hugging Face hub, or a local folder of one, as a manifest."""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

from funaudiochat.errors import FunAudioChatError

DATASET = "GSQA/spoken-alpaca-gpt4"
_QUESTION = ("question", "instruction", "prompt", "user", "input")
_ANSWER = ("answer", "output", "response", "reply", "assistant")
# Words in a column's name that tell its kind rather than whose audio or text it holds.
_KINDS = {"audio", "speech", "spoken", "sound", "voice", "wav", "text", "transcript", ""}


def _words(column: str) -> set[str]:
    return set(re.split(r"[\W_]+", column.lower())) - _KINDS


def guess_columns(features: dict[str, Any]) -> dict[str, str]:
    """Field of the manifest -> column, by the columns' kinds and names.

    The text of a side is the column that shares a word with the side's audio, if there is one:
    ``input`` beside ``speech_input``, even where an ``instruction`` is written too.

    Args:
        features: column -> kind, of which an ``Audio`` one and strings are of use.
    """
    audios = [name for name, kind in features.items() if type(kind).__name__ == "Audio"]
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", "") == "string"]
    found: dict[str, str] = {}
    for role, hints in (("question", _QUESTION), ("answer", _ANSWER)):
        for kind, columns in (("audio", audios), ("text", texts)):
            named = [column for hint in hints for column in columns if hint in column.lower()]
            audio = _words(found.get(f"{role}_audio", ""))
            named.sort(key=lambda column: not _words(column) & audio)
            if named:
                found[f"{role}_{kind}"] = named[0]
    if len(audios) == 1 and "answer_audio" not in found:
        found["question_audio"] = audios[0]
    return found


def _load(datapath: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise FunAudioChatError(
            "reading a data set needs the package datasets: `make train-setup`, or write a "
            "manifest and give --manifest"
        ) from error
    try:
        # What save_to_disk wrote: one data set, or several splits of it.
        if any((Path(datapath) / name).is_file() for name in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(datapath)
            return saved["train"] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(datapath, split="train", streaming=True)
    except Exception as error:  # the hub's libraries raise many kinds
        raise FunAudioChatError(
            f"the data set {datapath} cannot be read ({type(error).__name__}: {error}); check the "
            "name and the network, or give --datapath the folder of its parquet files"
        ) from error


def _save_sound(value: Any, stem: Path) -> str:
    """Write the bytes of an audio file and return its name."""
    if not isinstance(value, dict) or not (value.get("bytes") or value.get("path")):
        raise FunAudioChatError("an audio column holds neither bytes nor a path")
    source = value.get("path") or ""
    file = stem.with_suffix(Path(source).suffix or ".wav")
    file.write_bytes(value.get("bytes") or Path(source).read_bytes())
    return file.name


def export(
    datapath: str, folder: Path, limit: int | None = None, columns: dict[str, str] | None = None
) -> Path:
    """Write audio files and ``manifest.jsonl`` of a data set, keeping existing files.

    Args:
        datapath: name on the hub, or a folder of parquet files or of ``save_to_disk``.
        folder: where to write.
        limit: rows to read.
        columns: field of the manifest -> column; guessed where None.

    Raises:
        FunAudioChatError: the data set cannot be read, or its columns are not understood.
    """
    dataset = _load(datapath)
    features = dataset.features or {}
    chosen = columns or guess_columns(features)
    missing = set(chosen.values()) - features.keys()
    if (
        missing
        or "answer_text" not in chosen
        or not chosen.keys() & {"question_audio", "question_text"}
    ):
        raise FunAudioChatError(
            f"{datapath} has the columns {', '.join(features)}; say which is which with --columns "
            "question_audio=COLUMN question_text=COLUMN answer_audio=COLUMN answer_text=COLUMN"
        )
    from datasets import Audio

    for field, column in chosen.items():
        if field.endswith("audio"):
            dataset = dataset.cast_column(column, Audio(decode=False))
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.jsonl"
    done = manifest.read_bytes().count(b"\n") if manifest.exists() else 0
    if done:  # an incomplete last line is rewritten
        data = manifest.read_bytes()
        manifest.write_bytes(data[: data.rfind(b"\n") + 1])
    with manifest.open("a" if done else "w", encoding="utf-8") as out:
        rows = islice(dataset.skip(done), None if limit is None else max(0, limit - done))
        for number, row in enumerate(rows, done):
            line = {}
            for field, column in chosen.items():
                value = row[column]
                if field.endswith("audio"):
                    side = field.removesuffix("_audio")
                    value = _save_sound(value, folder / f"{number:07d}_{side}")
                line[field] = value
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
    return manifest
