# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Rows of a model's own answers, which keep it from forgetting."""

import json
import sys

import pytest

from funaudiochat.errors import FunAudioChatError
from funaudiochat.hub import NANO_MODEL
from funaudiochat.voice_chat import VoiceChat
from training.check_data import check_file
from training.process import rehearse


def test_the_answers_of_nano_are_rows_that_can_be_trained_on(tmp_path, monkeypatch):
    chat = VoiceChat.from_pretrained(NANO_MODEL, device="cpu")
    out = tmp_path / "rows.jsonl"
    assert rehearse.rehearse(chat, ["What color is snow?"], out) == 1
    summary = check_file(out, chat.processor.tokenizer)
    assert not summary.problems and not summary.partial_groups
    (row,) = map(json.loads, out.read_text().splitlines())
    assert json.loads(row["audio"][0])["text"] == "Snow is white."
    # An answer that does not end is left out.
    monkeypatch.setattr(rehearse, "_MAX_NEW_TOKENS", 2)
    assert rehearse.rehearse(chat, ["What color is snow?"], out) == 0 and out.read_text() == ""


def test_unusable_questions_are_told_before_the_model_is_loaded(tmp_path, monkeypatch):
    path = tmp_path / "questions.jsonl"
    arguments = ["rehearse.py", str(path), "--model-path", "none", "--out", "none"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(FunAudioChatError, match="cannot be read"):
        rehearse.main()
    path.write_text("{\n")
    with pytest.raises(FunAudioChatError, match=r"questions\.jsonl, row 1: "):
        rehearse.main()
