# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The commands in the order in which a user runs them."""

import json
import time

import pytest
from typer.testing import CliRunner

from evaluate.cli import app
from funaudiochat.errors import FunAudioChatError
from funaudiochat.hub import NANO_MODEL


def run(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def test_the_commands_lead_from_items_to_tables(server, mini, folders, tmp_path):
    """Every option of `score` that names a judge reaches it."""
    judge = server(lambda request: "Result: yes")
    run_, names = tmp_path / "8b", "voicebench/sd-qa,voicebench/ifeval,mmau,speech-fc"
    run(
        "infer",
        "-b",
        names,
        "--data",
        mini,
        "--out",
        run_,
        "--model-path",
        folders[0],
        "--device",
        "cpu",
        "--max-new-tokens",
        4,
        "--limit",
        1,
    )
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "same_answer.txt").write_text("Same? {reference} {reply}, asked {question}")
    began = time.monotonic()
    said = run(
        "score",
        "--run",
        run_,
        "--judge",
        f"openai:gpt@{judge.url}",
        "--judge-replies",
        3,
        "--judge-rate",
        120,
        "--judge-prompts",
        prompts,
    )
    assert "voicebench/sd-qa: 1 of 3 answered" in said and "    judge: 0.00" in said
    texts = [request["messages"][1]["content"] for request in judge.requests]
    assert sum(text.startswith("Same? Paris") for text in texts) == 3 and len(texts) == 4
    assert time.monotonic() - began > 1.4  # three pauses of half a second
    assert "100.00" in run(
        "score", "--run", run_, "-b", "mmau", "--judge", f"file:{mini / 'judge.jsonl'}"
    )
    text = run("report", "--run", run_, "--out", tmp_path / "report")
    assert "# Evaluation of 8b" in text and "judge prompts given with --judge-prompts" in text
    assert "3 judge replies per item" in text and "paper 8B" in text
    larger = run("report", "--run", run_, "--target", "30B-A3B")
    assert "paper 30B-A3B" in larger and "| SD-QA | 72.87 |" in larger
    with pytest.raises(FunAudioChatError, match="--target must be one of 8B, 30B-A3B"):
        run("report", "--run", run_, "--target", "7B")
    made = json.loads((run_ / "report.json").read_text())
    assert made["target"] == "30B-A3B" and "text greedy" in made["settings"]["8b"]


def test_exported_answers_hold_what_the_original_scorers_read(mini, folders, tmp_path, monkeypatch):
    run_ = tmp_path / "8b"
    run(
        "infer",
        "-b",
        "voicebench/ifeval,voicebench/openbookqa,speech-fc/SpeechFC_BFCL_Single",
        "--data",
        mini,
        "--out",
        run_,
        "--model-path",
        folders[0],
        "--device",
        "cpu",
        "--max-new-tokens",
        4,
        "--limit",
        1,
    )
    monkeypatch.chdir(run_)

    def exported(name, form):
        path = run("export", "--run", ".", "-b", name, "--format", form, "--out", "..").strip()
        return path, json.loads(open(path, encoding="utf-8").read().splitlines()[0])

    _, row = exported("voicebench/ifeval", "voicebench")
    assert set(row) == {"prompt", "response", "key", "instruction_id_list", "kwargs"}
    assert row["key"] == 1 and row["instruction_id_list"][0] == "punctuation:no_comma"
    assert row["kwargs"][1]["num_words"] == 3
    _, row = exported("voicebench/openbookqa", "voicebench")
    assert set(row) == {"prompt", "response", "reference"} and row["reference"] == "B"
    _, row = exported("voicebench/openbookqa", "kimi")
    assert row["answer"] == "B" and row["audio_content"].startswith("What is two plus two?")
    assert {"index", "prediction", "subset", "question"} <= set(row)
    _, row = exported("voicebench/ifeval", "kimi")
    assert row["instruction"][0] == "punctuation:no_comma" and len(row["instruction_kwargs"]) == 2
    path, row = exported("speech-fc/SpeechFC_BFCL_Single", "speechfc")
    assert path.endswith("8b/SpeechFC-BFCL-Single/predict-8b-SpeechFC-BFCL-Single.json")
    with pytest.raises(FunAudioChatError, match="unknown format 'csv'"):
        run("export", "--run", ".", "-b", "mmau", "--format", "csv", "--out", "..")


@pytest.mark.slow
def test_the_included_model_answers_the_mini_data(mini, tmp_path, monkeypatch):
    """Answer with Nano, as no official folders are found."""
    if not (NANO_MODEL / "model.safetensors").is_file():
        pytest.skip("Nano is not included in this tree")
    monkeypatch.setattr("funaudiochat.hub.models_folder", lambda: tmp_path / "none")
    names = "voicebench/commoneval,ultraeval-audio/llama_questions"
    run(
        "infer",
        "-b",
        names,
        "--data",
        mini,
        "--out",
        tmp_path,
        "--limit",
        1,
        "--max-new-tokens",
        64,
    )
    run(
        "score",
        "--run",
        tmp_path,
        "--judge",
        f"file:{mini / 'judge.jsonl'}",
        "--asr",
        f"file:{mini / 'transcripts.jsonl'}",
    )
    text = run("report", "--run", tmp_path)
    assert "model Fun-Audio-Chat-Nano" in text and "temperature 0.3" in text
    assert "| CommonEval | 4.42 | 5.00 (incomplete) |" in text
    answers = (tmp_path / "ultraeval-audio" / "llama_questions" / "audio").glob("*.flac")
    assert len(list(answers)) == 1
