# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The ears: what they begin with, how they are trained, and how they are measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers.starting_folders import CODES, write_all, write_whisper
from training.init_model import init_model
from training.nano import ablation_ears, train_ears
from training.nano.ears import CHARACTERS, Ears, character_ids, load_ears
from training.nano.new_model import begin, new_model
from training.nano.score_ears import score, slots_found
from training.nano.speech import SpeechStore
from training.nano.train_ears import EarsRun
from training.whisper_encoder import TOWER, read_whisper

WORDS = ("old", "tower", "left", "what")


def speech(text: str) -> np.ndarray:
    """A tone of its own for each letter, 120 ms long."""
    times = np.arange(1920) / 16000
    tones = [np.sin(2 * np.pi * (300 + 130 * (ord(c) - 96)) * times) for c in text if c != " "]
    return np.concatenate([np.zeros(1600), *tones, np.zeros(1600)]).astype(np.float32) * 0.3


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    texts = [f"{a} {b}" for a in WORDS for b in WORDS]
    kinds = ("open", "question", "order", "symbols")
    for name, chosen in (("synthetic", texts), ("test_known", texts[:2]), ("real", texts[:4])):
        rows = [
            (speech(text), {"text": text, "kind": "real" if name == "real" else kinds[i % 4],
                           "part": "valid" if name == "real" and i < 2 else "train"})
            for i, text in enumerate(chosen)
        ]  # fmt: skip
        SpeechStore(folder / "ears" / name).extend(rows)
    return folder


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    return write_whisper(tmp_path_factory.mktemp("whisper"), mels=80)


@pytest.fixture(scope="module")
def whisper(whisper_folder):
    return read_whisper(whisper_folder)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(train_ears, "EPOCH", 40)
    monkeypatch.setattr(train_ears, "BATCH_FRAMES", 700)
    monkeypatch.setattr(EarsRun, "warm_up_steps", 5)
    monkeypatch.setattr(EarsRun, "peak_rate", 5e-3)


def test_ears_begin_as_whisper_and_lower_layers_learn_less(whisper):
    ears = Ears(whisper, 48)
    state = ears.encoder.state_dict()
    for key, tensor in whisper.weights.items():
        assert torch.equal(state[key.removeprefix(TOWER)], tensor)
    shares = {id(p): g["share"] for g in ears.groups() for p in g["params"]}
    assert len(shares) == len(list(ears.parameters()))
    wanted = {
        "adapter": 1, "characters": 1, "encoder.proj": 1, "encoder.ln_post": 0.3,
        "encoder.layers.1": 0.3, "encoder.layers.0": 0.12, "encoder.conv1": 0.048,
        "encoder.conv2": 0.048,
    }  # fmt: skip
    for name, share in wanted.items():
        for parameter in ears.get_submodule(name).parameters():
            assert shares[id(parameter)] == pytest.approx(share), name


def test_without_whispers_weights_everything_is_new(whisper):
    ears = Ears(replace(whisper, weights={}), 48)
    (group,) = ears.groups()
    assert group["share"] == 1 and len(group["params"]) == len(list(ears.parameters()))
    assert not torch.equal(
        ears.encoder.conv1.weight, whisper.weights[f"{TOWER}conv1.weight"].float()
    )


def test_the_ablation_trains_both_arms_on_one_data_set(work, whisper, monkeypatch, tmp_path):
    monkeypatch.setattr(ablation_ears, "open_whisper", lambda _: whisper)
    monkeypatch.setattr(ablation_ears, "REPORT", tmp_path / "report.md")
    monkeypatch.setattr("sys.argv", ["ablation_ears", "--work", str(work), "--steps", "2"])
    ablation_ears.main()
    again = (tmp_path / "report.md").read_text()
    rows = [line for line in again.splitlines() if line.startswith("| Whisper") or "random" in line]
    assert len(rows) == 2 and all(row.count("|") == 5 for row in rows)  # no held-out voices here
    starts = [
        torch.load(work / "ablation" / f"ears-1-{seed}" / "ears.pt")["model"] for seed in (0, 1)
    ]
    assert not torch.equal(*(start["encoder.conv1.weight"] for start in starts))
    ablation_ears.main()  # everything is finished
    assert (tmp_path / "report.md").read_text() == again


def test_texts_become_symbols_of_their_letters():
    assert character_ids("it's a") == [9, 20, 27, 19, 28, 1]
    assert max(character_ids(CHARACTERS)) == len(CHARACTERS)


def test_batches_hold_every_kind_once_read_and_nobody_left_out(work, whisper):
    run = EarsRun(work, whisper, 1)
    batches = list(run.batches(0))
    rows = [row for batch in batches for _, row in batch]
    assert {row["kind"] for row in rows} == set(train_ears.MIX)
    assert all(row["part"] == "train" for row in rows) and 38 <= len(rows) <= 42
    for batch in batches:
        assert len(batch) * max(len(waveform) for waveform, _ in batch) <= 700 * 160
    again = [row for batch in run.batches(0) for _, row in batch]
    assert again == rows and again != [row for batch in run.batches(1) for _, row in batch]


def test_characters_are_learned_and_the_run_can_be_extended(work, whisper, whisper_folder):
    run = EarsRun(work, whisper, 50)
    run.choose_precision()
    before = run.losses(next(run.batches(9)))[1]["ctc_characters"]
    run.train()
    longer = EarsRun(work, whisper, 60)
    assert longer.state["step"] == 50 and longer.state["steps"] == 60
    assert EarsRun(work, whisper, 10).state["steps"] == 50
    longer.train()
    after = longer.losses(next(longer.batches(9)))[1]["ctc_characters"]
    assert after < 0.5 * before
    held_out = longer.state["curve"][-1]["held_out"]
    assert set(held_out) == {"people", "test_known"}
    best = load_ears(work / "ears_best.pt", str(whisper_folder))
    heard = best.hear(torch.from_numpy(speech("old tower")))
    assert set(heard) <= set(CHARACTERS)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    sources = write_all(tmp_path_factory.mktemp("sources"))
    folder = tmp_path_factory.mktemp("joint")
    init_model(**sources, out=folder, codes=CODES)
    return folder


def test_words_are_drawn_to_the_language_models_embeddings(work, whisper, llm):
    run = EarsRun(work, whisper, 60, llm)
    model = FunAudioChatForConditionalGeneration.from_pretrained(llm)
    table = model.get_input_embeddings().weight
    sil = model.config.text_config.sil_index
    torch.testing.assert_close(run.model.embeddings[0], table[sil].detach().float())
    torch.testing.assert_close(run.model.centre, table.detach().float().mean(0))
    run.model.scale_adapter([run.model.mel(torch.from_numpy(speech("old tower")))])
    batch = next(run.batches(9))
    mels = [run.model.mel(waveform) for waveform, _ in batch]
    with torch.no_grad():
        given = run.model.adapt(run.model.encode(mels)[0])
    ratio = given.norm(dim=-1).mean() / run.model.embeddings.norm(dim=-1).mean()
    assert 0.3 < ratio < 3
    before = run.losses(batch)[1]
    run.train()
    after = run.losses(batch)[1]
    assert after["ctc_words"] < 0.8 * before["ctc_words"]
    assert after["distance"] < before["distance"]
    assert "word_error_percent" in run.state["curve"][-1]["held_out"]["people"]


def test_nano_begins_with_whispers_encoder_and_then_with_ears(whisper, tmp_path):
    new_model(tmp_path, dialogues=20, whisper=whisper)
    new = tmp_path / "models" / "new"
    model = FunAudioChatForConditionalGeneration.from_pretrained(new)
    processor = FunAudioChatProcessor.from_pretrained(new)
    assert model.config.audio_config.num_mel_bins == processor.feature_extractor.feature_size == 80
    state = model.state_dict()
    for key, tensor in whisper.weights.items():
        torch.testing.assert_close(state[key], tensor)
    ears = Ears(whisper, model.config.text_config.hidden_size)
    torch.save({"model": ears.state_dict()}, tmp_path / "ears.pt")
    begin(tmp_path, new, tmp_path / "begin", tmp_path / "ears.pt")
    state = FunAudioChatForConditionalGeneration.from_pretrained(tmp_path / "begin").state_dict()
    adapter = state["audio_tower.continual_output_matching.weight"]
    assert torch.equal(adapter, ears.adapter.weight)
    for key, tensor in ears.encoder.state_dict().items():
        assert torch.equal(state[TOWER + key], tensor)


def test_slots_count_by_word_and_by_order():
    slots = [{"size": "small", "coffeeDrink": "iced mocha"}, {"coffeeDrink": "latte"}]
    assert slots_found(slots, ["a small ice mocha", "a latte"]) == {
        "slot_words_percent": 75.0,
        "whole_orders_percent": 50.0,
    }


def test_people_are_measured_where_there_are_recordings(work, whisper, whisper_folder, tmp_path):
    an4, other, orders = (tmp_path / n for n in ("train/an4", "other", "orders"))
    for folder, names in ((an4, ["in", "out"]), (other, ["speech"]), (orders, ["o"])):
        folder.mkdir(parents=True)
        for name in names:
            both = np.stack([speech("old")] * 2, 1) if name == "speech" else speech("old")
            soundfile.write(folder / f"{name}.flac", both, 16000)
    rows = [{"file": "in.flac", "split": "train", "text": "old"},
            {"file": "out.flac", "split": "test", "text": "old"}]  # fmt: skip
    (an4 / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (other / "transcripts.json").write_text('{"speech": "Old."}')
    (orders / "labels.json").write_text('{"o": {"size": "small"}}')
    torch.save({"model": Ears(whisper, 48).state_dict()}, tmp_path / "ears.pt")
    ears = load_ears(tmp_path / "ears.pt", str(whisper_folder))
    scores = score(ears, work, tmp_path)
    counts = {name: found["recordings"] for name, found in scores.items()}
    assert counts == {"test_known": 2, "an4_test": 1, "other": 1, "orders": 1}
    assert set(score(ears, work, None)) == {"test_known"}
