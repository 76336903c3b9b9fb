# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The data validator names row, field and remedy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from build_tiny_folders import MODEL

from funaudiochat.audio import save_wav
from funaudiochat.errors import FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.check_data import check_file, draw_histograms

ROOT = Path(__file__).parents[2]
BLANK = "<|audio_bos|><|AUDIO|><|audio_eos|>"
DELAY = "<|audio_bos|>" * 10


@pytest.fixture
def wave(tmp_path) -> Path:
    save_wav(tmp_path / "q.wav", 0.1 * np.sin(np.arange(16800)), 16000)  # 1.05 s
    return tmp_path / "q.wav"


def row(wave, question=None, answer=None, **changes) -> dict:
    question = {"path": str(wave), "token": "<|audio_pad|>" * 26, "text": ""} | (question or {})
    answer = {"token": DELAY + "[AU0000][AU6560]" * 10, "text": "yes"} | (answer or {})
    return {
        "system": "s",
        "messages": [{"role": role, "content": BLANK} for role in ("user", "assistant")],
        "audio": [json.dumps(question), json.dumps(answer)],
        **changes,
    }


def problems(tmp_path, *rows, **options):
    lines = (r if isinstance(r, str) else json.dumps(r) for r in rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return check_file(tmp_path / "rows.jsonl", **options).problems


def test_a_good_file_has_no_problems_and_a_summary_with_a_picture(tmp_path, wave):
    text = {"messages": [{"role": r, "content": "hi"} for r in ("user", "assistant")]}
    assert problems(tmp_path, row(wave), text, row(wave, question={"token": ""})) == []
    tokenizer = FunAudioChatProcessor.from_pretrained(MODEL).tokenizer
    summary = check_file(tmp_path / "rows.jsonl", tokenizer)
    assert summary.rows == 3 and summary.turns == [1, 1, 1]
    assert summary.question_seconds == [pytest.approx(1.05)] * 2
    assert summary.answer_seconds == [0.8, 0.8]
    # The first row: its text with both placeholders as 6 groups each (26 pads; 10 + 20 codes).
    turns = f"<|im_start|>user\n{BLANK}<|im_end|>\n<|im_start|>assistant\n{BLANK}<|im_end|>\n"
    plain = len(tokenizer(f"<|im_start|>system\ns<|im_end|>\n{turns}")["input_ids"])
    assert summary.tokens[0] == plain - 2 + 6 + 6
    draw_histograms(summary, tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"question": {"path": "nowhere.wav"}}, "audio[0].path", "no such file"),
        ({"question": {"token": "<|audio_pad|>" * 25}}, "audio[0].token", "26 times for 1.05 s"),
        ({"answer": {"token": DELAY + "[AU6561]"}}, "audio[1].token", "code 6561"),
        ({"answer": {"token": DELAY}}, "audio[1].token", "[AU0000]"),
        ({"answer": {"token": DELAY + "[AU0001] x"}}, "audio[1].token", "x"),
        ({"answer": {"token": "[AU0001]"}}, "audio[1].token", "10 times"),
        ({"answer": {"text": ""}}, "audio[1].text", "empty"),
        ({"audio": []}, "audio", "0 entries for 2 placeholders"),
        ({"audio": ["{", "{}"]}, "audio[0]", "JSON"),
        ({"audio": None}, "audio", "list"),
        ({"messages": []}, "messages", "list of messages"),
        ({"messages": [{"role": "user", "content": "hi"}], "audio": []}, "messages", "assistant"),
        ({"messages": [{"role": "user"}, 3], "audio": []}, "messages[1]", "text"),
        ({"system": 4}, "system", "text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, wave, changes, field, says):
    found = problems(tmp_path, row(wave), row(wave, **changes))
    assert any(p.row == 2 and p.field == field and says in p.text for p in found), found
    assert all(p.row == 2 for p in found)


def test_codes_that_do_not_fit_their_wave_are_found(tmp_path, wave):
    (problem,) = problems(tmp_path, row(wave, answer={"path": str(wave)}))
    assert problem.field == "audio[1].token" and "20 codes for 1.05 s" in problem.text


def test_roles_that_do_not_alternate_are_found(tmp_path, wave):
    bad = row(wave)
    bad["messages"][1]["role"] = "user"
    (problem,) = problems(tmp_path, bad)
    assert problem.field == "messages[1].role"


def test_with_a_tokenizer_long_rows_and_transcripts_are_found(tmp_path, wave):
    tokenizer = FunAudioChatProcessor.from_pretrained(MODEL).tokenizer
    long = row(wave, answer={"text": "one two three four five six seven eight nine ten"})
    found = problems(tmp_path, long, tokenizer=tokenizer, cutoff_len=20)
    assert {p.field for p in found} == {"audio[1].text", ""}


@pytest.mark.parametrize("line", ["{", "[]", "null", "3"])
def test_lines_that_are_no_rows_are_named(tmp_path, wave, line):
    (problem,) = problems(tmp_path, row(wave), line)
    assert problem.row == 2


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("\n")
    for name in ("bytes", "empty", "missing"):
        with pytest.raises(FunAudioChatError, match=name):
            check_file(tmp_path / name)


def test_the_command_prints_problems_and_fails(tmp_path, wave):
    problems(tmp_path, row(wave), row(wave, answer={"text": ""}))
    command = [sys.executable, "-m", "funaudiochat.cli", "train", "check-data", "rows.jsonl"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1, done.stderr
    assert "row 2, audio[1].text: is empty" in done.stdout
    assert "2 rows, 1 with problems" in done.stdout
