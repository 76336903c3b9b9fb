# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Import and export of the prediction files of other tools.

========== ============================================ =====================================
format     columns                                      matched by
========== ============================================ =====================================
ours       ``id``, ``text``, ``raw_text``, ``audio_out``  id
speechfc   ``index``, ``predict``                       index, else line number; the utterance is
                                                        compared
kimi       ``index``, ``prediction``                    index, else line number; question, audio
                                                        and subset are compared
voicebench ``prompt``, ``response``                     line number; the prompt is compared
========== ============================================ =====================================
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluate.benchmarks import BENCHMARKS
from evaluate.benchmarks.speech_fc import REFERENCE_FIELDS
from evaluate.core import CHOICE_SENTENCE, Benchmark, Item, Subset
from evaluate.records import (
    Prediction,
    appending,
    load_predictions,
    subset_folder,
    write_json_lines,
)
from evaluate.run import blank_prediction, inspect_subset, note_settings, note_subset
from funaudiochat.errors import FunAudioChatError

_REPLY_COLUMNS = {
    "ours": "text",
    "speechfc": "predict",
    "kimi": "prediction",
    "voicebench": "response",
}
FORMATS = tuple(_REPLY_COLUMNS)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a JSONL file.

    Raises:
        FunAudioChatError: the file is missing, or a line, which the message names, is not a JSON
            object.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise FunAudioChatError(f"cannot read {path}: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FunAudioChatError(f"{path}, line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise FunAudioChatError(f"{path}, line {number} is not a JSON object")
        rows.append(row)
    return rows


def detect_format(rows: list[dict[str, Any]], path: Path) -> str:
    """Detect the format from the columns of the first row.

    Raises:
        FunAudioChatError: no format matches.
    """
    first = rows[0] if rows else {}
    if "id" in first and ("text" in first or "error" in first):
        return "ours"
    for name in ("speechfc", "kimi", "voicebench"):
        if _REPLY_COLUMNS[name] in first:
            return name
    if "ground_truth" in first and "function" in first:
        return "speechfc"  # a missing `predict` counts as an empty reply
    raise FunAudioChatError(
        f"{path} has an unknown format; its rows need the columns id and text, index and predict, "
        "index and prediction, or prompt and response"
    )


def import_predictions(
    benchmark: Benchmark, subset: Subset, data: Path, run: Path, path: Path
) -> tuple[int, int]:
    """Import the answers of a file into a run; return how many items have and lack an answer.

    Raises:
        FunAudioChatError: the file or the data cannot be read, or the rows do not match the items.
    """
    rows = read_rows(path)
    form = detect_format(rows, path)
    with path.open("rb") as file:
        hash_ = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = subset_folder(run, benchmark.name, subset.name)
    note_settings(run, hash_, {"predictions": path.name, "format": form})
    found = inspect_subset(benchmark, subset, data)
    note_subset(folder, found, hash_)
    column = "id" if form == "ours" else "index"
    by_key = {
        str(row.get(column, line)) if form != "voicebench" else str(line): row
        for line, row in enumerate(rows)
    }
    predictions = []
    for item in subset.load(benchmark.data_folder(data)):
        row = by_key.get(item.id if form == "ours" else str(item.index))
        key = found["item_keys"][item.id]
        prediction = blank_prediction(benchmark, subset, item, hash_, key)
        if prediction.error is None:
            _import_row(prediction, item, row, form, path)
        predictions.append(prediction)
    with appending(folder / "predictions.jsonl") as journal:
        journal.append([asdict(prediction) for prediction in predictions])
    failed = sum(prediction.error is not None for prediction in predictions)
    return len(predictions) - failed, failed


def _import_row(
    prediction: Prediction, item: Item, row: dict[str, Any] | None, form: str, path: Path
) -> None:
    if row is None:
        prediction.error = f"{path.name} has no row for this item"
        return
    if other := _mismatch(prediction, item, row, form):
        raise FunAudioChatError(
            f"{path}: the {other} of the row for item {item.index} differs from the data; the file "
            "belongs to another set or is in another order"
        )
    reply = row.get(_REPLY_COLUMNS[form])
    prediction.text = "" if reply is None else str(reply)
    prediction.raw_text = str(row.get("raw_text") or prediction.text)
    prediction.error = str(row["error"]) if row.get("error") else None
    if form == "ours":
        prediction.n_speech_codes, prediction.cut = row.get("n_speech_codes"), bool(row.get("cut"))
    if row.get("audio_out"):
        audio = path.parent / str(row["audio_out"])
        prediction.audio_out = str(audio.resolve())


def _mismatch(prediction: Prediction, item: Item, row: dict[str, Any], form: str) -> str | None:
    """Name the first property of the question that differs between row and item, if any."""
    if form == "voicebench":
        same = str(row.get("prompt")) == item.fields.get("question")
        return None if same else "prompt"
    if form == "ours":
        named = (("benchmark", prediction.benchmark), ("subset", prediction.subset))
        return next((name for name, own in named if row.get(name, own) != own), None)
    if form == "speechfc":
        columns = ("dataset_key", "utterance")
        return next(
            (c for c in columns if row.get(c, item.fields.get(c)) != item.fields.get(c)), None
        )
    others = {subset.name for one in BENCHMARKS.values() for subset in one.subsets}
    if row.get("subset") in others - {prediction.subset}:
        return "subset"
    question, choices, _ = (item.instruction or "").partition(CHOICE_SENTENCE)
    own = item.fields.get("question") or (choices and question)
    given = _normalised(f"{row.get('question') or ''} {row.get('audio_content') or ''}")
    if given and own and _normalised(own) not in given:
        return "question"
    audio_name = Path(str(row.get("audio_path") or "")).stem
    if audio_name and isinstance(item.audio, Path) and audio_name != item.audio.stem:
        return "audio"
    return None


def _normalised(text: Any) -> str:
    return " ".join(str(text or "").lower().split())


def export_predictions(
    benchmark: Benchmark, subset: Subset, run: Path, form: str, target: Path
) -> Path:
    """Write the answers of a run in the format of another tool.

    Raises:
        FunAudioChatError: the run has no answers for the subset, or the format is unknown.
    """
    if form not in FORMATS:
        raise FunAudioChatError(f"unknown format {form!r}; known formats: {', '.join(FORMATS)}")
    predictions = load_predictions(subset_folder(run, benchmark.name, subset.name))
    if not predictions:
        raise FunAudioChatError(f"{run} has no answers for {benchmark.name}/{subset.name}")
    if form == "ours":
        path = target / f"{benchmark.name}-{subset.name}.jsonl"
        write_json_lines(path, map(asdict, predictions))
        return path
    if form == "speechfc":
        dataset = subset.name.replace("_", "-")
        name = run.resolve().name
        path = target / name / dataset / f"predict-{name}-{dataset}.json"
    else:
        path = target / f"{benchmark.name}-{subset.name}-{form}.jsonl"
    write_json_lines(path, (_exported(prediction, form) for prediction in predictions))
    return path


def _exported(prediction: Prediction, form: str) -> dict[str, Any]:
    fields = prediction.fields
    if form == "voicebench":
        row = {
            "prompt": fields.get("question", ""),
            "response": prediction.text,
            "reference": fields.get("reference"),
            "key": fields.get("key"),
            "instruction_id_list": fields.get("instructions"),
            "kwargs": fields.get("kwargs"),
        }
        return {column: value for column, value in row.items() if value is not None}
    if form == "kimi":
        return {
            **fields,
            "index": prediction.index,
            "audio_path": prediction.audio,
            "question": prediction.instruction or "",
            "audio_content": fields.get("question", ""),
            "answer": fields.get("reference", fields.get("answer", "")),
            "subset": prediction.subset,
            "instruction": fields.get("instructions"),
            "instruction_kwargs": fields.get("kwargs"),
            "prediction": prediction.text,
        }
    known = {key: fields.get(key) for key in REFERENCE_FIELDS}
    return {**known, "index": prediction.index, "predict": prediction.raw_text}
