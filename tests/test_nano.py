# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The shipped Nano weights do what their model cards say."""

import hashlib
import json

import numpy as np
import pytest
import soxr
import torch

from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.speech_tokenizer import SpeechTokenizer
from funaudiochat.cosyvoice3.voices import load_voices
from funaudiochat.hub import NANO_MODEL
from tests.helpers import ROOT
from training.nano.features import pitch_hz
from training.nano.judge import judge, judge_available
from training.nano.tokenizer import digits_of

TTS = ROOT / "pretrained_models" / "Fun-CosyVoice3-Nano"
# Sentences of the assistant that occur nowhere in training, with their speech tokens.
ANSWERS = json.loads((ROOT / "tests/golden/nano/held_out_answers.json").read_text())


@pytest.fixture(scope="module")
def detokenizer() -> CosyVoice3Detokenizer:
    return CosyVoice3Detokenizer.from_pretrained(TTS)


@pytest.fixture(scope="module")
def voices() -> dict[str, torch.Tensor]:
    return load_voices(TTS / "voices.safetensors")


def test_files_are_those_of_the_checksums():
    sizes = {}
    for folder in (TTS, NANO_MODEL):
        sums = (folder / "SHA256SUMS").read_text().splitlines()
        listed = {name: digest for digest, name in (line.split("  ") for line in sums)}
        paths = [p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS"]
        files = {str(path.relative_to(folder)): path for path in paths}
        assert set(listed) == set(files) - {"README.md"}
        for name, digest in listed.items():
            assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, name
        sizes[folder] = sum(path.stat().st_size for path in paths)
    assert sizes[TTS] < 15e6 and sum(sizes.values()) < 40e6


@pytest.mark.parametrize("schedule", [None, ChunkSchedule()], ids=["offline", "streaming"])
def test_the_speech_tokenizer_recovers_the_tokens_from_their_audio(detokenizer, voices, schedule):
    tokenizer = SpeechTokenizer.from_pretrained(TTS)
    equal = []
    for answer in ANSWERS:
        waveform = detokenizer.decode(answer["codes"], voices["heart"], schedule)
        again = tokenizer.encode(soxr.resample(waveform.numpy(), 24000, 16000))
        assert len(again) == len(answer["codes"])
        made, heard = digits_of(torch.tensor(answer["codes"])), digits_of(torch.as_tensor(again))
        equal.append(float((made == heard).float().mean()))
    # Measured 0.90; ternary digits of unrelated speech agree in less than half of the places.
    assert np.mean(equal) > 0.8


def test_the_two_voices_differ_in_pitch(detokenizer, voices):
    medians = {}
    for name in ("heart", "joe"):
        pitch = pitch_hz(detokenizer.decode(ANSWERS[3]["codes"], voices[name]))
        medians[name] = float(pitch[pitch > 0].median())
    assert medians["joe"] < 0.8 * medians["heart"]


@pytest.mark.skipif(not judge_available(), reason="install the judge of training/nano/README.md")
def test_a_recogniser_understands_sentences_that_training_never_saw(detokenizer, voices):
    cases = []
    for answer in ANSWERS:
        stream = detokenizer.stream(voices["heart"])
        pieces = [stream.push(answer["codes"][n : n + 5]) for n in range(0, 70, 5)]
        cases.append((answer["text"], torch.cat([*pieces, stream.finish()]).numpy(), 24000))
    assert judge(cases).wer_percent <= 10
