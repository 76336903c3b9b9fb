# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Stereo conversations with times of their words, divided into turns."""

import json

import numpy as np
import pytest
import soundfile

from funaudiochat.errors import FunAudioChatError
from training.process.data_process import make_row
from training.process.stereo_manifest import convert

RATE_HZ = 24000
# The assistant greets, is asked twice, and says its second answer in two parts.
ASSISTANT = [
    ("Hello.", 0.2, 0.6), ("It", 3.0, 3.2), ("is", 3.3, 3.5), ("four.", 3.5, 4.0),
    ("Paris", 7.0, 7.5), ("of", 8.2, 8.4), ("course.", 8.4, 9.0),
]  # fmt: skip
USER = [("two", 1.5, 2.0), ("plus", 2.0, 2.2), ("two", 2.2, 2.5), ("France?", 5.0, 6.5)]


def write(folder, name="talk", channels=2, words=None):
    """Write a conversation: a tone wherever somebody speaks."""
    tones = np.zeros((10 * RATE_HZ, 2), np.float32)
    for channel, said, pitch in ((0, ASSISTANT, 300), (1, USER, 500)):
        for _, start, end in said:
            t = np.arange(int(start * RATE_HZ), int(end * RATE_HZ))
            tones[t, channel] = 0.3 * np.sin(2 * np.pi * pitch * t / RATE_HZ)
    soundfile.write(folder / f"{name}.wav", tones[:, :channels], RATE_HZ)
    alignments = [[w, [a, b], "SPEAKER_MAIN"] for w, a, b in ASSISTANT]
    alignments += [[w, [a, b], "SPEAKER_01"] for w, a, b in USER]
    given = {"alignments": alignments} if words is None else words
    (folder / f"{name}.json").write_text(json.dumps(given))
    return json.dumps({"path": f"{name}.wav", "duration": 10.0})


def rows_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("user_words", [True, False])
def test_every_answer_is_a_row_with_the_turns_before_it(tmp_path, user_words):
    words = [[w, [a, b], "SPEAKER_MAIN"] for w, a, b in ASSISTANT]
    line = write(tmp_path, words=None if user_words else {"alignments": words})
    (tmp_path / "list.jsonl").write_text(line + "\n\n")
    assert convert(tmp_path / "list.jsonl", tmp_path / "out") == (2, [])
    first, second = rows_of(tmp_path / "out")
    assert [first["answer_text"], second["answer_text"]] == ["It is four.", "Paris of course."]
    told = ["two plus two", "France?"] if user_words else ["", ""]
    assert [first["question_text"], second["question_text"]] == told
    assert "history" not in first and [t["answer_text"] for t in second["history"]] == [
        "It is four."
    ]
    for row, question_s, answer_s in ((first, 1.2, 1.2), (second, 1.7, 2.2)):
        for side, seconds, pitch in (("question", question_s, 500), ("answer", answer_s, 300)):
            audio, rate_hz = soundfile.read(tmp_path / "out" / row[f"{side}_audio"])
            assert len(audio) / rate_hz == pytest.approx(seconds, abs=0.06)
            strongest = np.abs(np.fft.rfft(audio)).argmax() * rate_hz / len(audio)
            assert strongest == pytest.approx(pitch, abs=5)
    tokenizer = type("Tokens", (), {"encode": lambda self, audio: [1] * (len(audio) // 640)})()
    row = make_row(second, tmp_path / "out", tokenizer)
    assert len(row["messages"]) == 4 and len(row["audio"]) == 3


def test_damaged_conversations_are_skipped_and_named(tmp_path):
    mono = write(tmp_path, "mono", channels=1)
    good = write(tmp_path, "good")
    late = write(tmp_path, "late", words={"alignments": [["a", [90, 91], "SPEAKER_MAIN"]]})
    turned = write(tmp_path, "turned", words={"alignments": [["a", [2, 1], "SPEAKER_MAIN"]]})
    odd = write(tmp_path, "odd", words={"alignments": [["a", 2]]})
    torn = write(tmp_path, "torn")
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    lines = [mono, late, turned, odd, torn, '{"path": "gone.wav"}', "{", "[]", good]
    (tmp_path / "list.jsonl").write_text("\n".join(lines) + "\n")
    rows, problems = convert(tmp_path / "list.jsonl", tmp_path / "out")
    assert rows == 2 == len(rows_of(tmp_path / "out"))
    assert [problem.split(":")[0] for problem in problems] == [f"row {n}" for n in range(1, 9)]
    causes = "1 channels", "ends before", "before its start", "no alignments", "cannot be read"
    for problem, told in zip(problems, causes, strict=False):
        assert told in problem
    with pytest.raises(FunAudioChatError, match="cannot be read"):
        convert(tmp_path / "none.jsonl", tmp_path / "out")
