# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Sentences for the ears, the store of their recordings, and recordings of people."""

import json
import re
from random import Random

import numpy as np
import pytest
import soundfile
import torch

from training.nano.domain import Domain
from training.nano.drawn import SLOTS, order, slots_in
from training.nano.sentences import SHARES, Sentences, open_text, plain
from training.nano.speech import (
    LONGEST_SILENCE_S,
    REAL_RENDERINGS,
    SpeechStore,
    draw_scene,
    make_real,
    make_synthetic,
    people,
)
from training.nano.voices import QUESTION_HZ, available

TEXTS = ["Where did you find that apple?", "It's a bird, I think, sir.", "How big are they?"]


@pytest.fixture(scope="module")
def sentences():
    return Sentences(TEXTS, Domain())


def test_sentences_are_numbered_of_all_kinds_and_heard_in_letters(sentences):
    drawn = [sentences[i] for i in range(600)]
    assert drawn == [sentences[i] for i in range(600)]
    assert Sentences(TEXTS, Domain(), seed=1)[0] != sentences[0]
    for kind, share in SHARES.items():
        assert sum(s.kind == kind for s in drawn) == pytest.approx(600 * share, rel=0.3)
    for sentence in drawn:
        assert re.fullmatch(r"[a-z]+('[a-z]+)?( [a-z]+('[a-z]+)?)*", sentence.heard), sentence
        assert plain(sentence.said) == sentence.heard
    without = Sentences([], Domain())
    assert {without[i].kind for i in range(100)} == set(SHARES) - {"open"}


def test_only_training_wordings_and_rows_are_asked(sentences):
    known = {plain(text) for text in sentences.domain.questions("test", "train", most=40)}
    asked = {s.heard for i in range(1500) if (s := sentences[i]).kind == "question"}
    assert len(asked) > 200 and not asked & known


def test_orders_follow_the_grammar_and_hold_the_words_of_their_slots():
    amount = r"(some |a (little )?bit of |a lot of |lots of )?"
    milk, sugar = (amount + f"({'|'.join(SLOTS[n])})" for n in ("milkAmount", "sugarAmount"))
    before = [f"({'|'.join(SLOTS[n])})" for n in ("size", "numberOfShots", "roast")]
    pattern = (
        rf"[a-z' ]+?( an?)?( {before[0]}| {before[1]}| {before[2]}){{0,3}} "
        rf"({'|'.join(SLOTS['coffeeDrink'])})( with ({milk}|{sugar})( and ({milk}|{sugar}))?)?"
        r"( please)?"
    )
    seen = set()
    for seed in range(500):
        text, slots = order(Random(seed))
        assert re.fullmatch(pattern, text), text
        assert all(f" {value}" in text for value in slots.values())
        assert slots_in(text) == slots
        assert not re.search(r"\ban? [^aeiou]*\ba [aeiou]|\ba e|\ban [^aei]", text), text
        seen |= set(slots)
    assert seen == set(SLOTS)


def test_open_text_is_of_plain_words_and_partly_never_trained_on(tmp_path):
    path = tmp_path / "text.txt"
    lines = [f"This is line {chr(97 + i % 26)}{chr(97 + i // 26 % 26)} of all." for i in range(600)]
    other = ["Two words.", "He has 3 of them.", "Übung macht den Meister.", " ".join("a" * 14)]
    path.write_text("\n".join([*lines, *other, lines[0]]))
    kept, left = open_text([path]), open_text([path], held_out=True)
    assert sorted(kept + left) == sorted(set(lines)) and 0 < len(left) < 25


def test_scenes_are_silent_for_up_to_five_seconds_and_mostly_for_little():
    scenes = [draw_scene(Random(seed)) for seed in range(1000)]
    lead = sorted(s.lead_s for s in scenes)
    assert lead[-1] <= LONGEST_SILENCE_S and lead[-1] > 4.5 and lead[500] < 0.4
    assert max(s.tail_s for s in scenes) > 4.5


def test_an_interrupted_store_resumes(tmp_path):
    rng = np.random.default_rng(0)
    waveforms = [rng.uniform(-1, 1, size).astype(np.float32) for size in (5, 900, 40, 1)]
    recordings = [(waveform, {"text": f"t{i}"}) for i, waveform in enumerate(waveforms)]

    def stops():
        yield from recordings[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SpeechStore(tmp_path / "s").extend(stops())
    with (tmp_path / "s.raw").open("ab") as raw, (tmp_path / "s.jsonl").open("a") as manifest:
        raw.write(b"half a recording")
        manifest.write('{"text": "t2", "sta')
    store = SpeechStore(tmp_path / "s")
    assert [row["text"] for row in store.rows] == ["t0", "t1"]
    store.extend([None, *recordings[2:]])
    for found in (store, SpeechStore(tmp_path / "s")):
        assert [row["text"] for row in found.rows] == ["t0", "t1", "t2", "t3"]
        for row, waveform in zip(found.rows, waveforms, strict=True):
            torch.testing.assert_close(
                found.waveform(row), torch.from_numpy(waveform), atol=2 / 32768, rtol=0
            )


@pytest.fixture
def recordings(tmp_path):
    """Two folders of people: twelve speakers with rows, and an order with a label."""
    tone = 0.3 * np.sin(np.arange(8000) / 5)
    rows = []
    for n in range(24):
        rows.append({"file": f"{n}.flac", "speaker": f"s{n % 12}", "text": "Yes", "split": "train"})
    rows.append({"file": "unheard.flac", "speaker": "x", "text": "no", "split": "test"})
    for folder, names in (("a", [r["file"] for r in rows]), ("b", ["good.flac", "bad.flac"])):
        (tmp_path / "real" / folder).mkdir(parents=True)
        for name in names:
            soundfile.write(tmp_path / "real" / folder / name, tone, 16000)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "real" / "a" / "rows.jsonl").write_text(lines)
    labels = {
        name: {"complete": name == "good", "heard": "a latte", "slots": {}}
        for name in ("good", "bad")
    }
    (tmp_path / "real" / "b" / "labels.json").write_text(json.dumps(labels))
    return tmp_path / "real"


def test_people_are_read_by_split_and_some_are_left_out(recordings):
    found = people(recordings)
    assert {p.path.name for p in found} == {f"{n}.flac" for n in range(24)} | {"good.flac"}
    parts = {speaker: {p.part for p in found if p.speaker == speaker} for speaker in map(
        lambda p: p.speaker, found
    )}  # fmt: skip
    assert all(len(part) == 1 for part in parts.values())
    with pytest.raises(ValueError, match=r"needs a rows\.jsonl"):
        people(recordings / "a" / "nothing")
    (recordings / "b" / "labels.json").write_text(json.dumps({"good": {"size": "small"}}))
    with pytest.raises(ValueError, match="not trained on"):
        people(recordings)


def test_a_recording_is_stored_as_it_is_and_then_in_other_scenes(recordings, tmp_path):
    for _ in range(2):  # the second call has nothing to add
        make_real(tmp_path / "store", recordings, jobs=1)
    store, found = SpeechStore(tmp_path / "store"), people(recordings)
    trained = sum(p.part == "train" for p in found)
    assert len(store.rows) == len(found) + (REAL_RENDERINGS - 1) * trained
    first, last = store.rows[0], store.rows[-1]
    original = soundfile.read(found[0].path, dtype="float32")[0]
    torch.testing.assert_close(
        store.waveform(first), torch.from_numpy(original), atol=2 / 32768, rtol=0
    )
    assert last["part"] == "train" and last["samples"] != len(original)


@pytest.mark.skipif(not available("espeak"), reason="espeak-ng is not installed")
def test_synthetic_speech_grows_by_its_count(sentences, tmp_path):
    make_synthetic(tmp_path / "few", sentences, ["espeak"], 3, jobs=1)
    make_synthetic(tmp_path / "few", sentences, ["espeak"], 5, jobs=1)
    make_synthetic(tmp_path / "whole", sentences, ["espeak"], 5, jobs=1)
    few, whole = SpeechStore(tmp_path / "few"), SpeechStore(tmp_path / "whole")
    assert few.rows == whole.rows and [r["index"] for r in few.rows] == [0, 1, 2, 3, 4]
    assert [r["text"] for r in few.rows] == [sentences[i].heard for i in range(5)]
    assert all(r["samples"] > QUESTION_HZ / 4 for r in few.rows)
    assert few.raw.read_bytes() == whole.raw.read_bytes()
