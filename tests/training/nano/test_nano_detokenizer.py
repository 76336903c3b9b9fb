# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Batches and training steps of Nano's vocoder and flow, on tones instead of speech."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import soundfile
import torch

from funaudiochat.constants import CODEBOOK_SIZE
from training.nano.answers import Answers, normalize_mel
from training.nano.data import write_jsonl
from training.nano.features import vocoder_mel
from training.nano.train_flow import (
    CONFIG,
    DigitEmbedding,
    FlowRun,
    masked_error,
    new_flow,
    regression,
    speaker_vectors,
)
from training.nano.train_vocoder import VocoderRun, spectral_loss


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six "answers" of a second or two: noisy tones of 120 to 220 Hz with random tokens."""
    folder, rng = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    records = []
    for number in range(6):
        tokens = 25 + 5 * number
        phase = np.arange(tokens * 960) * (120 + 20 * number) / 24000 * 2 * np.pi
        waveform = 0.2 * sum(np.sin(k * phase) / k for k in range(1, 6))
        waveform += 0.01 * rng.standard_normal(len(waveform))
        soundfile.write(folder / f"{number}.flac", waveform, 24000)
        records.append({
            "audio": f"{number}.flac", "part": "test" if number == 5 else "train",
            "voice": "rms" if number in (1, 3) else "heart", "text": "",
            "codes": rng.integers(0, CODEBOOK_SIZE, tokens).tolist(),
        })  # fmt: skip
    write_jsonl(folder / "answers.jsonl", records)
    return folder


def test_features_follow_the_audio_and_are_computed_once(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Answers(work, "train")
    waveform, _ = soundfile.read(work / "0.flac", dtype="float32")
    mel, f0 = answers.mel_and_f0(0)
    wanted = normalize_mel(vocoder_mel(torch.from_numpy(waveform)[None])[0].T)
    assert torch.allclose(mel, wanted, atol=0.01)
    assert len(mel) == len(f0) == 2 * 25
    assert (f0[3:-3] - 120).abs().max() < 2
    monkeypatch.setattr("training.nano.answers.vocoder_mel", None)
    assert torch.equal(Answers(work, "train").mel_and_f0(0)[0], mel)
    assert len(Answers(work, "test", "heart").items) == 1


def test_segments_hold_the_audio_of_their_frames(work: Path) -> None:
    answers = Answers(work, "train")
    middle = answers.segments(Random(0), 3, 30, 8)
    assert middle.mel.shape == (3, 80, 38) and middle.f0.shape == (3, 38)
    assert middle.waveform.shape == (3, 14400)
    again = normalize_mel(vocoder_mel(middle.waveform))
    inside = slice(3, 27)  # the window of the frames at the edges reaches outside
    assert torch.allclose(again[:, :, inside], middle.mel[:, :, inside], atol=0.02)
    ends = answers.segments(Random(0), 2, 30, 0)
    assert ends.mel.shape[2] == 30


def test_token_batches_visit_every_answer_once_and_pad(work: Path) -> None:
    answers = Answers(work, "train")
    batches = list(answers.token_batches(Random(0), 80))
    assert sorted(n for b in batches for n in b.counts.tolist()) == [25, 30, 35, 40, 45]
    for batch in batches:
        assert batch.tokens.numel() <= 80
        assert batch.mel.shape == (*batch.tokens.shape[:1], 2 * batch.tokens.shape[1], 80)


def test_digit_embedding_equals_its_table() -> None:
    embedding = DigitEmbedding(80)
    tokens = torch.randint(0, CODEBOOK_SIZE, (2, 9))
    assert torch.allclose(embedding.table()(tokens), embedding(tokens), atol=1e-6)
    assert embedding.table().weight.shape == (CODEBOOK_SIZE, 80)


def test_speaker_vectors_are_fixed_unit_and_apart() -> None:
    vectors = speaker_vectors()
    assert list(vectors) == ["heart", "rms"]
    assert abs(float(vectors["heart"] @ vectors["rms"])) < 1e-5
    assert float(vectors["rms"].norm()) == pytest.approx(1, abs=1e-5)
    assert torch.equal(vectors["heart"], speaker_vectors()["heart"])


def test_regression_does_not_depend_on_padding(work: Path) -> None:
    flow, answers = new_flow().eval(), Answers(work, "train")
    vectors = speaker_vectors()
    both, alone = answers.token_batch([0, 4]), answers.token_batch([0])
    speakers = torch.stack([vectors[v] for v in both.voices])
    with torch.no_grad():
        made = regression(flow, both, speakers)
        single = regression(flow, alone, speakers[:1])
    assert torch.allclose(made[:1, : single.shape[1]], single, atol=1e-4)
    wrong = made.clone()
    wrong[0, 50:] += 100
    errors = [torch.stack(masked_error(m, both)) for m in (made, wrong)]
    assert torch.equal(*errors)


def test_a_few_flow_steps_lower_both_losses(work: Path) -> None:
    flow, answers = new_flow(), Answers(work, "train")
    batch, vectors = answers.token_batch([0, 1, 2]), speaker_vectors()
    speakers = torch.stack([vectors[v] for v in batch.voices])
    optimizer = torch.optim.AdamW(flow.parameters(), 2e-3)

    def total() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        matching = flow.loss(
            batch.tokens, batch.mel, speakers, batch.counts, [None], generator=generator
        )
        return masked_error(regression(flow, batch, speakers), batch)[0] + matching

    first = float(total().detach())
    for _ in range(25):
        optimizer.zero_grad()
        total().backward()
        optimizer.step()
    assert float(total().detach()) < 0.8 * first
    assert CONFIG.vocab_size == CODEBOOK_SIZE


def test_a_flow_that_was_regressing_continues_with_matching_and_streams(work: Path) -> None:
    run = FlowRun(work, 12)
    run.save_every = run.evaluate_every = 2
    run.train()
    measured = [set(point["held_out"]) for point in run.state["curve"]]
    assert measured == [{"offline"}] + 5 * [{"offline", "streaming"}]
    assert FlowRun(work, 12).state["curve"] == run.state["curve"]


@pytest.mark.slow
def test_a_few_vocoder_steps_lower_the_loss(work: Path) -> None:
    run = VocoderRun(work, 1000)
    run.warm_up_steps, run.peak_rate = 1, 3e-4
    parts = [run.train_step(Random(step % 2)) for step in range(30)]
    history = [part["spectral"] + part["mel"] for part in parts]
    assert sum(history[-4:]) < 0.8 * sum(history[:4])


def test_spectral_loss_is_zero_for_equal_audio_only() -> None:
    waveform = torch.randn(1, 4800)
    assert float(spectral_loss(waveform, waveform)) == 0
    assert float(spectral_loss(0.5 * waveform, waveform)) > 0.5
