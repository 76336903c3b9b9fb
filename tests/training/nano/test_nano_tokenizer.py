# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The small speech tokenizer: parity with the family, ONNX export, training, features."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from onnxruntime import InferenceSession
from safetensors.torch import load_file

from funaudiochat.constants import CODEBOOK_SIZE
from tests.helpers import ROOT
from training.nano.data import write_jsonl
from training.nano.features import FrameStore, pitch_hz, vocoder_mel, whisper_mel
from training.nano.tokenizer import (
    SpeechTokenizer,
    TokenizerConfig,
    digits_of,
    export_onnx,
    tokens_of,
)
from training.nano.train_tokenizer import TokenizerRun

GOLDEN = ROOT / "tests" / "golden" / "cosyvoice3"


@pytest.fixture
def tiny() -> SpeechTokenizer:
    torch.manual_seed(0)
    return SpeechTokenizer(TokenizerConfig(width=64, blocks=1)).eval()


@pytest.fixture(scope="module")
def golden() -> tuple[SpeechTokenizer, dict[str, torch.Tensor]]:
    weights = load_file(GOLDEN / "s3v3_tiny.safetensors")
    model = SpeechTokenizer(TokenizerConfig(width=128, blocks=1)).eval()
    names = {k.removeprefix("encoder."): v for k, v in weights.items()}
    names = {k.replace("_codebook.project_down", "project_in"): v for k, v in names.items()}
    model.load_state_dict(names, strict=True)
    return model, load_file(GOLDEN / "s3v3_cases.safetensors")


def test_ids_equal_the_recorded_ones_of_the_family(
    golden: tuple[SpeechTokenizer, dict[str, torch.Tensor]],
) -> None:
    model, cases = golden
    mel = whisper_mel(cases["wav16k"])
    assert torch.allclose(mel, cases["mel"], atol=1e-4)
    tokens = model(cases["mel"][None], cases["single.mel_len"])
    assert torch.equal(tokens, cases["single.codes"].long())


def test_padded_batch_equals_single_runs(tiny: SpeechTokenizer) -> None:
    lengths = torch.tensor([50, 37, 3])
    mel = torch.randn(3, 128, 50)
    batch = tiny(mel, lengths)
    for row, length in enumerate(lengths.tolist()):
        single = tiny(mel[row : row + 1, :, :length], torch.tensor([length]))
        assert single.shape[1] == -(-length // 4)
        assert torch.equal(batch[row : row + 1, : single.shape[1]], single)


def test_tokens_and_digits_are_inverse() -> None:
    tokens = torch.arange(CODEBOOK_SIZE)
    assert torch.equal(tokens_of(digits_of(tokens)), tokens)
    assert torch.equal(digits_of(tokens).unique(), torch.tensor([-1.0, 0.0, 1.0]))


def test_onnx_has_the_official_signature_and_equal_ids(
    tiny: SpeechTokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "speech_tokenizer_v3.onnx"
    export_onnx(tiny, path)
    session = InferenceSession(str(path))
    feats, length = session.get_inputs()
    assert (feats.type, length.type) == ("tensor(float)", "tensor(int32)")
    assert (feats.shape[:2], length.shape) == ([1, 128], [1])
    for frames in (3, 4, 97, 400):
        mel = torch.randn(1, 128, frames)
        inputs = {feats.name: mel.numpy(), length.name: np.array([frames], np.int32)}
        ids = session.run(None, inputs)[0].flatten()
        assert ids.tolist() == tiny(mel, torch.tensor([frames])).flatten().tolist()


@pytest.fixture
def two_sentences(tmp_path: Path) -> Path:
    """Twelve "utterances" of two tones, each tone a phone."""
    records = []
    for number in range(12):
        phones = "ab" if number % 2 else "ba"
        tones = [np.sin(np.arange(8000) * {"a": 0.15, "b": 0.6}[p]) for p in phones]
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * np.concatenate(tones), 16000)
        part = "train" if number < 10 else "test"
        audio = {"audio": f"{number}.wav", "phones": phones, "voice": "heart", "part": part}
        records.append({"text": phones, **audio})
    write_jsonl(tmp_path / "answers.jsonl", records)
    return tmp_path


def test_training_lowers_the_loss_and_resumes_with_the_same_weights(two_sentences: Path) -> None:
    config = TokenizerConfig(width=64, blocks=1)
    run = TokenizerRun(two_sentences, 40, config)
    batch = run.train_set
    first = run.train_step(batch)
    run.train()
    last = run.train_step(batch)
    assert all(last[name] < 0.7 * first[name] for name in ("ctc", "mel_l1"))
    resumed = TokenizerRun(two_sentences, 999, config)
    assert (resumed.state["step"], resumed.state["steps"]) == (40, 40)
    saved = torch.load(two_sentences / "tokenizer.pt", weights_only=True)["model"]
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    curve = json.loads((two_sentences / "tokenizer_curve.json").read_text())
    assert curve[-1]["held_out"]["answers/heart"]["utterances"] == 2


def test_training_without_data_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="training.nano.data"):
        TokenizerRun(tmp_path, 10, TokenizerConfig(width=64, blocks=1))


def test_frame_store_keeps_arrays_and_forgets_a_torn_end(tmp_path: Path) -> None:
    path, arrays = tmp_path / "x.f16", [torch.randn(n, 3).half().float() for n in (4, 1, 7)]
    FrameStore(path, 3).extend(arrays[:2])
    with path.open("ab") as file:
        file.write(b"torn")
    store = FrameStore(path, 3)
    store.extend(arrays[2:])
    store = FrameStore(path, 3)
    assert len(store) == 3
    for index, array in enumerate(arrays):
        assert torch.equal(store[index], array)


def test_pitch_follows_a_gliding_tone_and_is_zero_in_silence() -> None:
    hz = torch.linspace(120, 300, 24000)
    phase = torch.cumsum(hz.double() / 24000, 0) * 2 * torch.pi
    tone = sum(torch.sin(k * phase) / k for k in (1, 2, 3)).float() * 0.2
    found = pitch_hz(torch.cat([tone, torch.zeros(9600)]))
    wanted = hz[240::480]
    assert (found[2:47] - wanted[2:47]).abs().max() < 3
    assert (found[53:] == 0).all()
    assert vocoder_mel(tone[None]).shape == (1, 80, 50)
