# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Malformed rows, names and files: a reason for that row, never a traceback."""

import json
import shutil
import subprocess
import sys

import pytest

from evaluate.benchmarks import select
from evaluate.cli import app
from evaluate.core import LayoutError
from evaluate.data import RowError, as_list, find_file
from evaluate.exchange import import_predictions, read_rows
from evaluate.records import json_rows, read_json
from evaluate.run import inspect_subset
from evaluate.score import Tools, score_subset
from funaudiochat.errors import FunAudioChatError
from tests.helpers import ROOT
from tests.helpers.runs import ask, rows

DEEP = "[" * 100_000
SET = "speech-fc/SpeechFC_BFCL_Single"


def data_with(mini, tmp_path, change):
    """Copy the mini data of a benchmark, with changes to its first row."""
    folder = tmp_path / "data" / "SpeechFCEval" / "SpeechFC_BFCL_Single"
    shutil.copytree(mini / "SpeechFCEval" / "SpeechFC_BFCL_Single", folder)
    path = folder / "metadata.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(lines[0]), **change}), *lines[1:]]))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"file_name": "x" * 300 + ".wav"}, "File name too long"),
        ({"file_name": "wav/\ud800.wav"}, "invalid file name"),
        ({"file_name": "a\0.wav"}, "invalid file name"),
        ({"ground_truth": DEEP}, "RecursionError"),
        ({"function": DEEP}, "not a list"),
    ],
)
def test_a_row_nobody_can_use_is_named_and_the_others_are_asked(
    change, word, model, mini, tmp_path
):
    data = data_with(mini, tmp_path, change)
    found = inspect_subset(*select(SET)[0], data)
    assert "line 1" in found["first_problem"] and word in found["first_problem"]
    outcome = ask(SET, model, data, tmp_path / "run")
    assert (outcome.attempted, outcome.failed) == (2, 1)
    assert [row["error"] is None for row in rows(tmp_path / "run", SET)] == [False, True]


def test_names_that_cannot_be_encoded_are_still_listed(mini, tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "funaudiochat.cli",
            "eval",
            "list",
            "--benchmark",
            SET,
            "--data",
            data_with(mini, tmp_path, {"file_name": "wav/\ud800.wav"}),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "1 unusable" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_long_name_of_librispeech_is_one_item(mini, tmp_path):
    folder = tmp_path / "LibriSpeech" / "test-clean" / "1" / "2"
    folder.mkdir(parents=True)
    (folder / "1-2.trans.txt").write_text(f"{'x' * 300} A\n1-2-3 B\n")
    found = inspect_subset(*select("librispeech/test-clean")[0], tmp_path)
    assert (found["broken_rows"], found["missing_sounds"]) == (1, 1)


def test_deeply_nested_json_is_rejected(tmp_path):
    file = tmp_path / "deep.json"
    file.write_text(f'{DEEP}\n{{"a": 1}}\n')
    with pytest.raises(FunAudioChatError, match="line 1 is not valid JSON"):
        read_rows(file)
    with pytest.raises(FunAudioChatError, match="cannot read"):
        read_json(file)
    with pytest.raises(RowError, match="not a list"):
        as_list(DEEP)
    assert list(json_rows(file)) == [{"a": 1}]


def test_names_are_found_or_refused(tmp_path):
    with pytest.raises(OSError, match="too long"):
        find_file("x" * 300, tmp_path)
    with pytest.raises(OSError, match="too long"):
        find_file(str(tmp_path / ("x" * 300)), tmp_path)


def test_surrogates_and_deep_calls_reach_the_record_file(tmp_path):
    file = tmp_path / "predict-SpeechFC-BFCL-Single.json"
    made = [
        {"index": 0, "predict": "\ud800", "function": "[]", "ground_truth": "[]"},
        {"index": 1, "predict": "x", "function": DEEP, "ground_truth": DEEP},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "evaluate.SpeechFCEval.compute_metrics_speech_fc",
            "--predict_file",
            file,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "of 2" in done.stdout
    record = tmp_path / "record-SpeechFC-BFCL-Single.json"
    assert len(record.read_text(encoding="utf-8").splitlines()) == 2


def test_an_error_field_of_a_predictions_file_is_text_or_nothing(mini, tmp_path):
    file = tmp_path / "given.jsonl"
    made = [{"id": "0", "text": "a", "error": ""}, {"id": "1", "text": "b", "error": {"code": 5}}]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    (pair,) = select("voicebench/commoneval")
    assert import_predictions(*pair, mini, tmp_path / "run", file) == (1, 2)
    errors = [row["error"] for row in rows(tmp_path / "run", "voicebench/commoneval")]
    assert errors[:2] == [None, "{'code': 5}"]
    score_subset(*pair, tmp_path / "run", Tools())


@pytest.mark.parametrize("option", [("--limit", "1"), ("--shard", "1/2")])
def test_a_predictions_file_is_taken_whole_or_not(option, mini, tmp_path):
    from typer.testing import CliRunner

    done = CliRunner().invoke(
        app,
        [
            "infer",
            "--benchmark",
            "mmau",
            "--data",
            str(mini),
            "--out",
            str(tmp_path),
            "--predictions",
            "given.jsonl",
            *option,
        ],
    )
    assert isinstance(done.exception, FunAudioChatError) and "leave out" in str(done.exception)


def test_parquet_of_common_voice_is_read_once(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (subset,) = [s for _, s in select("common-voice/en")]
    folder = tmp_path / "CommonVoice"
    with pytest.raises(LayoutError, match="found neither .*parquet"):
        list(subset.load(folder))
    (folder / "en").mkdir(parents=True)
    for number, name in enumerate(("en/en-00000.parquet", "en/test-00001.parquet", "en_2.parquet")):
        row = {"sentence": f"Sentence {number}.", "audio": {"bytes": b"x", "path": None}}
        parquet.write_table(pyarrow.Table.from_pylist([row]), folder / name)
    items = list(subset.load(folder))
    assert sorted(item.fields["reference"] for item in items) == [
        f"Sentence {number}." for number in range(3)
    ]
    assert {item.audio for item in items} == {b"x"}


def test_numbers_among_mmsus_choices_are_texts(mini, tmp_path):
    shutil.copytree(mini / "MMSU", tmp_path / "MMSU")
    path = tmp_path / "MMSU" / "mmsu.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    row |= {"choice_a": 2, "choice_b": 3, "answer_gt": 2}
    path.write_text(json.dumps(row))
    (pair,) = select("mmsu")
    given = tmp_path / "given.jsonl"
    given.write_text('{"index": 0, "prediction": "(A)2"}\n')
    import_predictions(*pair, tmp_path, tmp_path / "run", given)
    summary = score_subset(*pair, tmp_path / "run", Tools())
    assert summary["metrics"]["bridged letters"]["value"] == 100
    given.write_text('{"index": 0, "prediction": "2"}\n')
    import_predictions(*pair, tmp_path, tmp_path / "run", given)
    summary = score_subset(*pair, tmp_path / "run", Tools())
    assert summary["metrics"]["bridged letters"]["value"] == 100
