# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Synthesis, manifests and the judge; their packages may be absent."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile

from training.nano.data import (
    SAMPLES_PER_TOKEN,
    make_dialogues,
    read_jsonl,
    render_answer,
    write_jsonl,
)
from training.nano.domain import Domain
from training.nano.judge import judge, judge_available, score
from training.nano.rooms import Scene
from training.nano.voices import (
    HELD_OUT_VOICES,
    TRAINING_VOICES,
    VOICES,
    available,
    require_sha256,
    speak,
)

needs_voices = pytest.mark.skipif(
    not all(map(available, VOICES)), reason="install the voice packages of training/nano/README.md"
)
needs_heart = pytest.mark.skipif(not available("heart"), reason="install hibari-tts==0.2.1")
needs_judge = pytest.mark.skipif(not judge_available(), reason="install faster-whisper and weights")


@needs_voices
@pytest.mark.parametrize("voice", VOICES)
def test_every_voice_speaks_for_a_plausible_time(voice: str) -> None:
    waveform = speak("The capital of France is Paris.", voice, 16000, Random(0))
    assert waveform.dtype == np.float32 and np.isfinite(waveform).all()
    assert 1.0 < len(waveform) / 16000 < 3.5
    assert np.sqrt(np.mean(waveform**2)) > 0.01


@needs_heart
def test_warp_raises_the_pitch_but_keeps_the_pace() -> None:
    plain, warped = (
        speak("Seven plus five is twelve.", "heart", 16000, Random(0), warp=w) for w in (1, 1.2)
    )
    assert len(warped) == pytest.approx(len(plain), rel=0.12)

    def centroid(waveform: np.ndarray) -> float:
        power = np.abs(np.fft.rfft(waveform)) ** 2
        return float((power * np.arange(len(power))).sum() / power.sum() / len(waveform))

    assert centroid(warped) > 1.08 * centroid(plain)


@needs_voices
def test_interrupted_synthesis_resumes(tmp_path: Path) -> None:
    domain = Domain()
    make_dialogues(domain, "test_voice", 3, tmp_path / "once")
    make_dialogues(domain, "test_voice", 2, tmp_path / "twice")
    manifest = tmp_path / "twice/dialogues/test_voice.jsonl"
    with manifest.open("a") as file:
        file.write('{"id": "test_voice-0000')
    make_dialogues(domain, "test_voice", 3, tmp_path / "twice")
    records = read_jsonl(manifest)
    assert records == read_jsonl(tmp_path / "once/dialogues/test_voice.jsonl")
    for record in records:
        user = record["messages"][0]
        waveform, rate = soundfile.read(tmp_path / "twice" / user["audio"])
        assert rate == 16000 and len(waveform) / rate == pytest.approx(user["seconds"], abs=1e-3)
        assert user["voice"] in HELD_OUT_VOICES and user["voice"] not in TRAINING_VOICES
        assert len(user["phones"]) > 3


@needs_heart
def test_answers_last_whole_tokens_and_repeat_exactly(tmp_path: Path) -> None:
    records = [render_answer("Paris is in France.", "train", "heart", tmp_path / n) for n in "ab"]
    waveforms = [soundfile.read(tmp_path / n / records[0]["audio"])[0] for n in "ab"]
    assert records[0] == records[1]
    assert np.array_equal(*waveforms)
    assert len(waveforms[0]) % SAMPLES_PER_TOKEN == 0


def test_scene_adds_silence_noise_and_level_and_repeats_exactly() -> None:
    waveform = np.sin(np.arange(16000) * 0.1).astype(np.float32)
    scene = Scene(0.25, 0.125, 0.2, 20.0, True, 4000, 0.5, 7)
    heard = scene.record(waveform, 16000)
    assert np.array_equal(heard, scene.record(waveform, 16000))
    assert len(heard) == len(waveform) + 6000
    assert np.abs(heard).max() == pytest.approx(0.5)
    quiet = np.sqrt(np.mean(heard[:3800] ** 2)) / np.sqrt(np.mean(heard[5000:19000] ** 2))
    assert 0.02 < quiet < 0.25
    clean = Scene(0.0, 0.0, 0.0, None, False, None, 1.0, 7).record(waveform, 16000)
    assert np.allclose(clean, waveform / np.abs(waveform).max(), atol=1e-6)


def test_half_written_manifest_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"a": 1}, {"b": "ü"}])
    path.write_text(path.read_text() + '{"c": ')
    assert read_jsonl(path) == [{"a": 1}, {"b": "ü"}]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_other_weights_than_the_pinned_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"other")
    with pytest.raises(ValueError, match="install the pinned version"):
        require_sha256(tmp_path / "w.bin", "0" * 64)


def test_word_errors_are_counted_after_normalisation() -> None:
    verdict = score(["Seven plus five is twelve.", "Hello there."], ["7 + 5 = 12", "hello bear"])
    assert verdict.wer_percent == pytest.approx(100 / 7)
    assert verdict.exact_percent == 50
    with pytest.raises(ValueError, match="1 texts but 0"):
        score(["a"], [])
    with pytest.raises(ValueError, match="without words"):
        score(["..."], ["a"])


@needs_judge
@needs_heart
def test_judge_understands_clear_speech_and_not_noise() -> None:
    text = "The capital of France is Paris."
    waveform = speak(text, "heart", 24000, Random(0))
    noise = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    assert judge([(text, waveform, 24000)]).wer_percent == 0
    assert judge([(text, noise, 24000)]).exact_percent == 0
