# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Audio to speech tokens, and audio to a voice, through real ONNX files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from funaudiochat.audio import save_wav
from funaudiochat.cosyvoice3.segments import segment_bounds
from funaudiochat.cosyvoice3.speech_tokenizer import SpeechTokenizer, log_mel
from funaudiochat.cosyvoice3.voices import (
    DEFAULT_VOICE,
    add_voice,
    choose_voice,
    installed_voices,
    load_voices,
    speaker_vector,
)
from funaudiochat.errors import AudioError, CheckpointError, VoiceError
from tests.helpers.cosyvoice3_folders import GOLDEN
from tests.helpers.onnx_folders import TinyCampplus, build_campplus, build_speech_tokenizer
from utils.cosyvoice_tokenizer import extract_speech_token, get_audio_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tts")
    build_speech_tokenizer(folder / "speech_tokenizer_v3.onnx")
    build_campplus(folder / "campplus.onnx")
    return folder


@pytest.fixture(scope="module")
def data():
    return load_file(GOLDEN / "s3v3_cases.safetensors")


def test_log_mel_equals_recorded(data):
    np.testing.assert_allclose(log_mel(data["wav16k"].numpy()), data["mel"].numpy(), atol=1e-4)


def test_tokens_equal_recorded(folder, data):
    tokenizer, waveform = SpeechTokenizer.from_pretrained(folder), data["wav16k"].numpy()
    codes = tokenizer.encode(waveform)
    assert codes.tolist() == data["single.codes"][0].tolist()
    assert codes.dtype == np.int64
    short = tokenizer.encode(waveform[: 160 * int(data["short.mel_len"])]).tolist()
    assert short == data["short.codes"][0].tolist() == data["batch.codes"][1, :26].tolist()


@pytest.mark.parametrize(
    "seconds, bounds",
    [
        (29, [(0, 29)]),
        (30, [(0, 30)]),
        (30.5, [(0, 15.25), (15.25, 30.5)]),
        (31, [(0, 30), (30, 31)]),
        (75.25, [(0, 30), (30, 60), (60, 75.25)]),
        (60.5, [(0, 30), (30, 45.25), (45.25, 60.5)]),
    ],
)
def test_long_audio_is_cut_by_the_30_s_rule(seconds, bounds):
    expected = [(round(a * 16000), round(b * 16000)) for a, b in bounds]
    assert segment_bounds(round(seconds * 16000), 16000, 1) == expected


def test_long_audio_gives_the_tokens_of_its_segments(folder, data):
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    waveform = np.tile(data["wav16k"].numpy(), 16)[: 31 * 16000]
    parts = [tokenizer.encode(waveform[: 30 * 16000]), tokenizer.encode(waveform[30 * 16000 :])]
    assert len(parts[0]) == 750
    assert tokenizer.encode(waveform).tolist() == np.concatenate(parts).tolist()


def test_the_known_names_encode_files_and_arrays(folder, data, tmp_path):
    save_wav(tmp_path / "a.wav", data["wav16k"].numpy(), 16000)
    tokenizer = get_audio_tokenizer(folder)
    codes = extract_speech_token(tokenizer, [tmp_path / "a.wav", (data["wav16k"].numpy(), 16000)])
    assert codes[1] == data["single.codes"][0].tolist()
    assert len(codes[0]) == len(codes[1])


def test_a_damaged_voice_network_is_named(folder, data, tmp_path):
    save_wav(tmp_path / "a.wav", data["wav16k"].numpy(), 16000)
    for network in (folder / "speech_tokenizer_v3.onnx", tmp_path / "a.wav"):
        with pytest.raises(VoiceError, match="damaged or of another network"):
            add_voice("a", tmp_path / "a.wav", network, tmp_path / "voices.safetensors")


def test_added_voices_stand_beside_the_downloaded_default(tmp_path, monkeypatch):
    """Only where the folder's voices are vectors of the same network."""
    downloaded = tmp_path / "new_spk2info.pt"
    monkeypatch.setattr("funaudiochat.cosyvoice3.voices.VOICES_FILE", downloaded)
    with pytest.raises(VoiceError, match="download --only voices"):
        installed_voices(tmp_path)
    torch.save({DEFAULT_VOICE: {"embedding": torch.ones(1, 192)}}, downloaded)
    assert set(installed_voices(tmp_path)) == {DEFAULT_VOICE}
    save_file({"mine": torch.full((192,), 2.0)}, tmp_path / "voices.safetensors")
    assert set(installed_voices(tmp_path)) == {"mine"}
    (tmp_path / "campplus.onnx").touch()
    voices = installed_voices(tmp_path)
    assert set(voices) == {DEFAULT_VOICE, "mine"}
    assert torch.equal(choose_voice(voices), torch.ones(192))


def kaldi_filter_banks(waveform):
    """Kaldi's filter banks [T, 80] in numpy: 25 ms / 10 ms, Povey window, 20 Hz to 8 kHz."""
    count = 1 + (len(waveform) - 400) // 160
    frames = np.stack([waveform[160 * i : 160 * i + 400] for i in range(count)]).astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, 512)) ** 2

    def mel(hertz):
        return 1127 * np.log(1 + hertz / 700)

    edges = np.linspace(mel(20), mel(8000), 82)
    place = mel(np.arange(257) * 16000 / 512)[:, None]
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.log(np.maximum(power @ np.minimum(rising, falling).clip(0), np.finfo("f4").eps))


def test_a_speaker_vector_is_of_kaldis_filter_banks_without_their_mean(folder):
    generator = np.random.default_rng(0)
    waveform = (np.sin(np.arange(16000) / 9) * 0.3 + generator.normal(0, 0.01, 16000)).astype("f4")
    banks = kaldi_filter_banks(waveform)
    network = TinyCampplus()
    expected = network(torch.from_numpy(banks - banks.mean(0))[None].float())[0]
    found = speaker_vector(waveform, folder / "campplus.onnx")
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("samples", [0, 200, 639])
def test_too_short_audio_is_refused(folder, samples):
    with pytest.raises(AudioError, match="no samples|too short"):
        SpeechTokenizer.from_pretrained(folder).encode(np.ones(samples, np.float32) / 2)


def test_integers_are_scaled_and_unscaled_floats_refused(folder, data):
    tokenizer = SpeechTokenizer.from_pretrained(folder)
    integers = np.round(data["wav16k"].numpy() * 32767).astype(np.int16)
    expected = tokenizer.encode(integers / np.float32(32768))
    assert tokenizer.encode(integers).tolist() == expected.tolist()
    assert (expected == data["single.codes"][0].numpy()).mean() > 0.9
    with pytest.raises(AudioError, match="peaks at"):
        tokenizer.encode(integers.astype(np.float32))


def test_missing_damaged_and_foreign_networks_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="is missing"):
        SpeechTokenizer.from_pretrained(tmp_path)
    (tmp_path / "speech_tokenizer_v3.onnx").write_bytes(b"\x08\x07broken")
    with pytest.raises(CheckpointError, match="damaged"):
        SpeechTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="not a speech tokenizer"):
        SpeechTokenizer.from_pretrained(folder / "campplus.onnx")
    with pytest.raises(CheckpointError, match="onnxruntime-gpu"):
        SpeechTokenizer.from_pretrained(folder, device="tpu")


def test_a_voice_is_made_from_a_prompt_and_kept_with_the_others(folder, data, tmp_path):
    file, waveform = tmp_path / "voices.safetensors", data["wav16k"].numpy()
    save_wav(tmp_path / "a.wav", waveform, 16000)
    save_wav(tmp_path / "b.wav", waveform[::-1].copy() * 0.3, 16000)
    for name in ("a", "b"):
        add_voice(name, tmp_path / f"{name}.wav", folder / "campplus.onnx", file)
    voices = load_voices(file)
    assert set(voices) == {"a", "b"} and voices["a"].shape == (192,)
    assert not torch.equal(voices["a"], voices["b"])


@pytest.mark.parametrize("data", [b"", b"garbage", None])
def test_damaged_voice_files_are_refused(tmp_path, data):
    path = tmp_path / "voices.safetensors"
    if data is None:
        path = tmp_path / "spk.pt"
        torch.save({"a": {"embedding": torch.full((1, 192), torch.inf)}}, path)
    else:
        path.write_bytes(data)
    with pytest.raises(VoiceError, match="voices add"):
        load_voices(path)
