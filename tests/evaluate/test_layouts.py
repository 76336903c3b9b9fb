# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""MMAU and MMSU in the layouts of the hub, missing options, and what is downloaded."""

import io
import json
from itertools import combinations

import numpy as np
import pytest
import soundfile

from evaluate.benchmarks import select
from evaluate.data import given_choices, right_choice
from evaluate.fetch import fetch, needed
from evaluate.scorers.choices import mmsu_reference_verdicts
from evaluate.verdict import Answer
from tests.helpers.hub_server import running_hub

OPTIONS = ("rising", "falling", "flat", "broken")


def items(name, folder):
    ((_, subset),) = select(name)
    return list(subset.load(folder))


def wav():
    file = io.BytesIO()
    soundfile.write(file, np.full(1600, 0.1), 16000, format="WAV")
    return file.getvalue()


def parquet(path, rows):
    pytest.importorskip("pyarrow", reason="pyarrow is missing: make eval-setup")
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def answer_of(item, text):
    return Answer("mmsu", "all", item.id, item.fields, item.instruction, text, text)


@pytest.mark.parametrize("nothing", [None, "", float("nan")])
def test_the_letters_of_the_prompt_score_wherever_options_are_missing(tmp_path, nothing):
    """Leave out any one or two options, and try every remaining option as the correct one."""
    rows, wanted = [], []
    for gone in [set(), *map(set, combinations(range(4), 1)), *map(set, combinations(range(4), 2))]:
        left = [i for i in range(4) if i not in gone]
        for place, right in enumerate(left):
            columns = {
                f"choice_{'abcd'[i]}": nothing if i in gone else OPTIONS[i] for i in range(4)
            }
            rows.append(
                {
                    "id": str(len(rows)),
                    "audio_path": "/audio/a.wav",
                    "question": "Which?",
                    "answer_gt": OPTIONS[right],
                    **columns,
                }
            )
            wanted.append((place, len(left)))
    (tmp_path / "question").mkdir()
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "question" / "mmsu.jsonl").write_text("".join(lines))
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_bytes(wav())
    ((_, subset),) = select("mmsu")
    bridged = subset.metrics[0].scorer
    found = items("mmsu", tmp_path)
    assert len(found) == len(rows) == 4 + 4 * 3 + 6 * 2
    for item, (place, count) in zip(found, wanted, strict=True):
        assert item.problem is None and item.audio == tmp_path / "audio" / "a.wav"
        right = "ABCD"[place]
        assert f"\n({right}){item.fields['answer_gt']}" in item.instruction
        for letter in "ABCD"[:count]:
            (verdict,) = bridged([answer_of(item, f"({letter})")], None)
            assert verdict.parts[""] == (letter == right, 1.0)
            record = {**item.fields, "response": letter}
            assert mmsu_reference_verdicts([record]) == [letter == right]


def test_mmsu_from_parquet_files_with_embedded_audio(tmp_path):
    row = {
        "id": "a",
        "audio": {"bytes": wav(), "path": "a.wav"},
        "question": "Which?",
        "choice_a": "rising",
        "choice_b": None,
        "choice_c": "flat",
        "choice_d": None,
        "answer_gt": "flat",
        "category": "Perception",
    }
    parquet(tmp_path / "data" / "train-00000-of-00001.parquet", [row])
    (item,) = items("mmsu", tmp_path)
    assert (item.problem, item.audio) == (None, wav())
    assert item.instruction.endswith("\n(A)rising\n(B)flat")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("choices", [["A dog", "A person"], ["(A) A dog", "(B) A person"]])
def test_mmau_from_parquet_files_with_embedded_audio(tmp_path, choices, nested):
    known = {"id": "x", "task": "sound", "difficulty": "easy"}
    audio = {"bytes": wav(), "path": "x.wav"}
    row = {"choices": choices, "answer": choices[1]}
    row |= (
        {"context": audio, "instruction": "What is heard?", "other_attributes": known}
        if nested
        else {"audio": audio, "question": "What is heard?", **known}
    )
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [row])
    (item,) = items("mmau", tmp_path)
    assert (item.problem, item.id, item.audio) == (None, "x", wav())
    assert item.instruction.endswith("options:\n(A)A dog\n(B)A person")
    assert item.fields == {"answer": "A person", "choices": ["A dog", "A person"], "task": "sound"}


def test_only_labels_of_every_option_are_dropped():
    assert given_choices(["(A) x", None, "(B) y"]) == ["x", "y"]
    assert given_choices(["(A) x", "y"]) == ["(A) x", "y"]
    assert given_choices(["(B) x", "(A) y"]) == ["(B) x", "(A) y"]
    assert right_choice("(B) y", ["x", "y"]) == right_choice("(B)", ["x", "y"]) == "y"
    assert right_choice("(B) x", ["x", "y"]) == "(B) x"


def test_only_the_needed_files_are_downloaded(tmp_path, monkeypatch):
    repository = {
        "hlt-lab/voicebench": {
            name: b"x"
            for name in (
                "README.md",
                "sd-qa/usa-00000.parquet",
                "sd-qa/aus-00000.parquet",
                "commoneval/test-00000.parquet",
                "bbh/test-00000.parquet",
            )
        },
        "gamma-lab-umd/MMAU-test-mini": {
            name: b"x"
            for name in (
                "README.md",
                "data/test-00000.parquet",
                "test-mini-audios.zip",
                "mmau.json",
            )
        },
    }
    ((voicebench, _),) = select("voicebench/sd-qa")
    ((mmau, _),) = select("mmau")
    with running_hub(repository) as hub:
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        list(fetch(voicebench, tmp_path, {"sd-qa"}))
        list(fetch(mmau, tmp_path))
    sent = {name for name, _ in hub.sent}
    assert sent == {"README.md", "sd-qa/usa-00000.parquet", "data/test-00000.parquet"}
    assert needed(["other/x.csv"], (("*.parquet",),)) is None
