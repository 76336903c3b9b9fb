# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A new voice: recordings, speech tokens, flow, and what is measured of it."""

import json

import numpy as np
import pytest
import torch

from funaudiochat.audio import save_wav
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.voices import installed_voices
from funaudiochat.errors import FunAudioChatError
from funaudiochat.hub import NANO_MODEL, NANO_TTS
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.check_data import check_file
from training.measure_speech import read_recordings as read_held_out
from training.measure_speech import voice_scores
from training.process.data_process import process
from training.process.voice_manifest import read_recordings, voice_manifest
from training.speech_measures import (
    pitch_range,
    similarity,
    speaker_embedding,
    speaker_encoder_available,
    speaking_rate,
)
from training.train_flow import read_rows, train_flow

RATE = 24000


def tone(seconds: float, hz: float = 150.0, rate: int = RATE) -> np.ndarray:
    """Return a buzz with harmonics, as a voice has them."""
    t = np.arange(int(seconds * rate)) / rate
    return (0.1 * sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 9))).astype(np.float32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(4):
        save_wav(folder / f"{number}.wav", tone(1.0 + 0.2 * number, 140 + 5 * number), RATE)
        (folder / f"{number}.txt").write_text("The sky\n is blue.\n")
    (folder / "3.txt").write_text("The sky is blue and the snow is white and the grass is green.")
    return folder


@pytest.mark.slow
def test_recordings_become_a_voice_of_the_detokenizer(recordings, tmp_path):
    tokenizer = FunAudioChatProcessor.from_pretrained(NANO_MODEL).tokenizer
    manifest = voice_manifest(read_recordings(recordings), tokenizer, tmp_path / "voice")
    asked = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["question_text"] for row in asked][:2] == ["Say: The sky is blue."] * 2
    assert len(read_rows_of(tmp_path / "voice" / "held_out.jsonl")) == 1
    rows = tmp_path / "voice.jsonl"
    assert process(manifest, rows, NANO_TTS, 1) == (3, 0)
    # The long text fits beside its short recording, as silence follows.
    assert check_file(rows, tokenizer).problems == []
    out = tmp_path / "tts"
    errors = train_flow(rows, NANO_TTS, "anna", out, steps=8, rate=1e-3)
    assert errors["after"] < errors["before"]
    losses = json.loads((out / "flow_losses.json").read_text())["losses"]
    assert len(losses) == 1 and np.isfinite(losses).all()
    voices, old = installed_voices(out), installed_voices(NANO_TTS)
    assert set(voices) == {*old, "anna"} and all(torch.equal(voices[n], old[n]) for n in old)
    assert all(abs(float(voices["anna"] @ vector)) < 1e-5 for vector in old.values())
    audio = CosyVoice3Detokenizer.from_pretrained(out).decode(range(10), voices["anna"])
    assert len(audio) == 9600 and bool(audio.isfinite().all())
    assert (out / "hift.pt").read_bytes() == (NANO_TTS / "hift.pt").read_bytes()


def read_rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_unusable_recordings_are_all_named(tmp_path):
    with pytest.raises(FunAudioChatError, match="holds 0 recordings"):
        read_recordings(tmp_path)
    for name, samples, rate in (
        ("short", tone(0.1), RATE), ("telephone", tone(1, rate=8000), 8000),
        ("silent", np.zeros(RATE, np.float32), RATE), ("wordless", tone(1), RATE),
        ("empty", tone(1), RATE), ("good", tone(1), RATE),
    ):  # fmt: skip
        save_wav(tmp_path / f"{name}.wav", samples, rate)
        (tmp_path / f"{name}.txt").write_text("Yes.")
    (tmp_path / "wordless.txt").unlink()
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "damaged.wav").write_bytes(b"RIFF")
    (tmp_path / "damaged.txt").write_text("Yes.")
    with pytest.raises(FunAudioChatError, match="correct or remove") as raised:
        read_recordings(tmp_path)
    told = str(raised.value)
    for name in ("short", "telephone", "silent", "wordless", "empty", "damaged"):
        assert f"\n{name}.wav: " in told
    assert "good.wav" not in told and "record at 16 kHz" in told


def test_rows_without_recordings_and_foreign_tokens_are_refused(tmp_path):
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(FunAudioChatError, match="cannot be read"):
        read_rows(rows)
    for damaged in ("{", "[]", '{"audio": ["{"]}', '{"audio": [1]}', "{}"):
        rows.write_text(damaged + "\n")
        with pytest.raises(FunAudioChatError, match="row 1 is damaged"):
            read_rows(rows)
    rows.write_text('{"audio": []}\n')
    with pytest.raises(FunAudioChatError, match="holds 0 spoken answers"):
        read_rows(rows)
    entry = json.dumps({"path": "a.wav", "token": "[AU9999]"})
    rows.write_text(2 * (json.dumps({"audio": [entry]}) + "\n"))
    with pytest.raises(FunAudioChatError, match="the speech token 9999, and the flow knows 6561"):
        train_flow(rows, NANO_TTS, "anna", tmp_path / "out")
    with pytest.raises(FunAudioChatError, match="written over"):
        train_flow(rows, NANO_TTS, "anna", NANO_TTS)


def test_pitch_and_rate_of_a_known_waveform():
    middle, width = pitch_range(np.concatenate([tone(1, 150), tone(1, 300)]), RATE)
    assert 145 < middle < 305 and width == pytest.approx(12, abs=0.5)
    assert all(np.isnan(pitch_range(np.zeros(RATE, np.float32), RATE)))
    padded = np.pad(tone(2), (RATE, RATE))
    assert speaking_rate("one two three four", padded, RATE) == pytest.approx(2, abs=0.05)
    assert np.isnan(speaking_rate("one", np.zeros(RATE, np.float32), RATE))


def test_speech_that_was_not_heard_counts_as_wrong(tmp_path):
    pytest.importorskip("jiwer")
    speech = [("one two", tone(1)), ("three", np.zeros(0, np.float32))]
    scores = voice_scores(speech, [], lambda waveform, rate: "one two")
    assert scores["wer_percent"] == pytest.approx(100 / 3)
    assert scores["words_per_second"] == pytest.approx(2, abs=0.1)
    path = tmp_path / "held_out.jsonl"
    for damaged in ("{", "[]", '{"audio": "gone.wav", "text": "a"}', ""):
        path.write_text(damaged + "\n" if damaged else "")
        with pytest.raises(FunAudioChatError):
            read_held_out(path)


def test_the_same_waveform_is_the_same_speaker():
    if not speaker_encoder_available():
        pytest.skip("pip install --no-deps resemblyzer==0.1.4")
    low, high = (speaker_embedding(tone(2, hz), RATE) for hz in (110, 260))
    assert np.linalg.norm(low) == pytest.approx(1, abs=1e-5)
    assert similarity(low, [low]) == pytest.approx(1, abs=1e-5)
    assert similarity(low, [high]) < 0.95
    with pytest.raises(FunAudioChatError, match="silent"):
        speaker_embedding(np.zeros(RATE, np.float32), RATE)
