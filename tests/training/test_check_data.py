# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The data validator names row, field and remedy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from funaudiochat.audio import load_audio, save_wav
from funaudiochat.errors import FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A
from training.check_data import check_file, draw_histograms

BLANK = "<|audio_bos|><|AUDIO|><|audio_eos|>"
DELAY = "<|audio_bos|>" * 10


@pytest.fixture
def waveform(tmp_path) -> Path:
    save_wav(tmp_path / "q.wav", 0.1 * np.sin(np.arange(16800)), 16000)  # 1.05 s
    return tmp_path / "q.wav"


def row(waveform, question=None, answer=None, **changes) -> dict:
    question = {"path": str(waveform), "token": "<|audio_pad|>" * 26, "text": ""} | (question or {})
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


def test_a_good_file_has_no_problems_and_a_summary_with_a_picture(tmp_path, waveform):
    text = {"messages": [{"role": r, "content": "hi"} for r in ("user", "assistant")]}
    assert problems(tmp_path, row(waveform), text, row(waveform, question={"token": ""})) == []
    tokenizer = FunAudioChatProcessor.from_pretrained(TINY_A).tokenizer
    summary = check_file(tmp_path / "rows.jsonl", tokenizer)
    assert summary.rows == 3 and summary.turns == [1, 1, 1]
    assert summary.question_seconds == [pytest.approx(1.05)] * 2
    assert summary.answer_seconds == [0.8, 0.8]
    # The first row: its text with both placeholders as 6 groups each (26 pads; 10 + 20 tokens).
    # The second one gets the original's system prompt.
    given = json.dumps({**text, "system": "You are a helpful assistant."})
    (tmp_path / "given.jsonl").write_text(given)
    assert check_file(tmp_path / "given.jsonl", tokenizer).tokens == summary.tokens[1:2]
    turns = f"<|im_start|>user\n{BLANK}<|im_end|>\n<|im_start|>assistant\n{BLANK}<|im_end|>\n"
    plain = len(tokenizer(f"<|im_start|>system\ns<|im_end|>\n{turns}")["input_ids"])
    assert summary.tokens[0] == plain - 2 + 6 + 6
    draw_histograms(summary, tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"question": {"path": "nowhere.wav"}}, "audio[0].path", "file not found"),
        ({"question": {"token": "<|audio_pad|>" * 23}}, "audio[0].token", "26 times for 1.05 s"),
        ({"answer": {"token": DELAY + "[AU6561]"}}, "audio[1].token", "speech token 6561"),
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
        ({"system": 4}, "system", "string"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, waveform, changes, field, says):
    found = problems(tmp_path, row(waveform), row(waveform, **changes))
    assert any(p.row == 2 and p.field == field and says in p.text for p in found), found
    assert all(p.row == 2 for p in found)


def test_tokens_that_do_not_fit_their_audio_are_found(tmp_path, waveform):
    (problem,) = problems(tmp_path, row(waveform, answer={"path": str(waveform)}))
    assert problem.field == "audio[1].token" and "20 speech tokens for 1.05 s" in problem.text


def test_files_are_read_as_training_reads_them(tmp_path, waveform):
    """Halved and short files are found, and what is read has as many tokens as training counts."""
    samples = 0.1 * np.sin(np.arange(48000) / 9)
    soundfile.write(tmp_path / "whole.flac", samples, 16000)
    data = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "half.flac").write_bytes(data[: len(data) // 2])
    soundfile.write(tmp_path / "short.wav", samples[:160], 16000)
    unstated = bytearray(data)
    unstated[21] &= 0xF0  # the length in STREAMINFO, 36 bits
    unstated[22:26] = bytes(4)
    (tmp_path / "unstated.flac").write_bytes(unstated)
    for name, codec in {"aac.m4a": "aac", "opus.webm": "libopus"}.items():
        write_media(tmp_path / name, samples.astype(np.float32), codec)
    good = ["whole.flac", "unstated.flac", "aac.m4a", "opus.webm"]
    for rate_hz in (32000, 44100, 48000, 96000):  # one sample short of 26 tokens
        soundfile.write(tmp_path / f"{rate_hz}.wav", np.ones(26 * rate_hz // 25 - 1) / 9, rate_hz)
        good.append(f"{rate_hz}.wav")
    rows = []
    for name in good:
        count = int(len(load_audio(tmp_path / name, 16000)) / 16000 * 25)
        question = {"path": str(tmp_path / name), "token": "<|audio_pad|>" * count}
        rows.append(row(waveform, question=question))
    assert problems(tmp_path, *rows) == []
    bad = [row(waveform, question={"path": str(tmp_path / n)}) for n in ("half.flac", "short.wav")]
    found = problems(tmp_path, *bad)
    assert [(p.row, p.field) for p in found] == [(1, "audio[0].path"), (2, "audio[0].path")]
    assert "half.flac" in found[0].text and "too short" in found[1].text


def write_media(path: Path, samples: np.ndarray, codec: str) -> None:
    av = pytest.importorskip("av", reason="needs PyAV: pip install 'funaudiochat[media]'")
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=48000, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48000)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        fifo = av.AudioFifo()
        for part in (frame, None):
            for block in resampler.resample(part):
                block.pts = None
                fifo.write(block)
        while block := fifo.read(stream.codec_context.frame_size or 960, partial=True):
            file.mux(stream.encode(block))
        file.mux(stream.encode(None))


def test_wav_path_is_another_name_of_path(tmp_path, waveform):
    named = {"wav_path": str(waveform), "token": "<|audio_pad|>" * 26}
    good = row(waveform)
    good["audio"][0] = json.dumps(named)
    assert problems(tmp_path, good) == []
    good["audio"][0] = json.dumps({"token": "<|audio_pad|>" * 26})
    (problem,) = problems(tmp_path, good)
    assert problem.field == "audio[0].path"


def test_text_that_looks_like_a_placeholder_is_text(tmp_path, waveform):
    says = "what do <audio>, <|AUDIO|> and <|im_end|> mean?"
    messages = [{"role": role, "content": says} for role in ("user", "assistant")]
    assert problems(tmp_path, {"system": BLANK, "messages": messages, "audio": []}) == []


def test_transcripts_in_the_question_and_partial_groups_are_warned_of(tmp_path, waveform):
    heard = row(waveform, question={"text": "what is said"})
    asr = row(waveform, question={"text": "the answer"})
    asr["messages"][1]["content"], asr["audio"] = "the answer", asr["audio"][:1]
    partial = row(waveform, answer={"token": DELAY + "[AU0001]" * 21})
    lines = "".join(json.dumps(r) + "\n" for r in (row(waveform), heard, asr, partial))
    (tmp_path / "rows.jsonl").write_text(lines)
    summary = check_file(tmp_path / "rows.jsonl")
    assert summary.problems == [] and summary.partial_groups == 1
    first, second = summary.warnings
    assert (first.row, second.row) == (2, 3) and "ref_text" in first.text
    assert "is the answer of the row" in second.text


def test_roles_that_do_not_alternate_are_found(tmp_path, waveform):
    bad = row(waveform)
    bad["messages"][1]["role"] = "user"
    (problem,) = problems(tmp_path, bad)
    assert problem.field == "messages[1].role"


def test_with_a_tokenizer_long_rows_and_transcripts_are_found(tmp_path, waveform):
    tokenizer = FunAudioChatProcessor.from_pretrained(TINY_A).tokenizer
    long = row(waveform, answer={"text": "one two three four five six seven eight nine ten"})
    found = problems(tmp_path, long, tokenizer=tokenizer, cutoff_len=20)
    assert {p.field for p in found} == {"audio[1].text", ""}


@pytest.mark.parametrize("line", ["{", "[]", "null", "3"])
def test_lines_that_are_no_rows_are_named(tmp_path, waveform, line):
    (problem,) = problems(tmp_path, row(waveform), line)
    assert problem.row == 2


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("\n")
    for name in ("bytes", "empty", "missing"):
        with pytest.raises(FunAudioChatError, match=name):
            check_file(tmp_path / name)


def test_the_command_prints_problems_and_fails(tmp_path, waveform):
    partial = {"token": DELAY + "[AU0001]" * 21}
    problems(tmp_path, row(waveform, answer=partial), row(waveform, answer={"text": ""}))
    command = [sys.executable, "-m", "funaudiochat.cli", "train", "check-data", "rows.jsonl"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1, done.stderr
    assert "row 2, audio[1].text: is empty" in done.stdout
    assert "2 rows, 1 with problems" in done.stdout
    assert "1 of 2 spoken answers end in a partial group" in " ".join(done.stdout.split())
