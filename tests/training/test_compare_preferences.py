# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Preference training of Nano: which questions are asked, the table, and that it resumes."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from funaudiochat.errors import FunAudioChatError
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.pairs import write_wav
from tests.helpers.tiny_folders import build
from tests.helpers.tiny_runs import needs_llamafactory
from training import compare_preferences as comparison
from training.compare_preferences import BEFORE, MEASURED, PAIRED, compare, questions_of, report

pytest.importorskip("jiwer")


def dialogue(name, question, **fields):
    """Return a line of a split; fields override those of the answer."""
    answer = {"role": "assistant", "text": "Go left.", "keys": ["left"], **fields}
    asked = {"role": "user", "text": question, "audio": "question.wav"}
    return json.dumps({"id": name, "tools": [], "messages": [asked, answer]}) + "\n"


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    (folder / "dialogues").mkdir(parents=True)
    write_wav(folder / "question.wav")
    for split, questions in {
        MEASURED: ["Which way?", "which way", "Where to?", "Where now?", "And now?"],
        PAIRED: ["Where to?", "Left or right?", "What side?"],
    }.items():
        lines = [dialogue(f"{split}-{n}", text) for n, text in enumerate(questions)]
        lines.insert(0, dialogue("two keys", "Both?", keys=["left", "right"]))
        (folder / "dialogues" / f"{split}.jsonl").write_text("".join(lines))
    return folder


class Ears:
    """Hears half of the sampled answers, then what it is told to hear."""

    def __init__(self):
        self.sampled, self.told = 0, []

    def __call__(self, waveform, rate_hz):
        if self.told:
            return self.told.pop(0)
        self.sampled += 1
        return "go left" if self.sampled % 2 else "nothing"


@pytest.fixture
def args(work, tmp_path, monkeypatch):
    model, tts = build(tmp_path / "models")
    ask = VoiceChat.ask

    def answered(self, **options):
        # Random text never ends and its speech is noise, so that a known answer stands for them.
        reply = ask(self, **{**options, "sampling": replace(options["sampling"], max_new_tokens=2)})
        t = np.arange(24000) / 24000
        buzz = 0.1 * sum(np.sin(300 * np.pi * k * t) / k for k in range(1, 9))
        return replace(
            reply, text="Go left.", finish_reason="stop",
            speech_tokens=torch.arange(25) + options["sampling"].seed % 97,
            audio=buzz.astype(np.float32),
        )  # fmt: skip

    monkeypatch.setattr(VoiceChat, "ask", answered)
    options = f"--seeds 2 --questions 2 --samples 2 --steps 2 --items 4 --work {work}"
    parser = comparison.command_line()
    return parser.parse_args([*options.split(), "--model", str(model), "--tts", str(tts)])


def test_questions_of_pairs_are_not_those_that_are_measured(work):
    measured = questions_of(work, MEASURED, 4)
    assert [comparison.wording(q) for q in measured] == [
        "which way", "where to", "where now", "and now",
    ]  # fmt: skip
    assert [bool(q.audio) for q in measured] == [True, False, True, False]
    assert all(q.answers == ("left",) for q in measured)
    known = frozenset(map(comparison.wording, measured))
    paired = questions_of(work, PAIRED, 2, known)
    assert [comparison.wording(q) for q in paired] == ["left or right", "what side"]
    with pytest.raises(FunAudioChatError, match="has 2 questions of valid_paraphrase, not 3"):
        questions_of(work, PAIRED, 3, known)


def test_the_table_has_the_numbers_of_known_answers_and_finished_arms_rest(args, monkeypatch):
    trained = []

    def train(arm, seed, model, pairs, steps, rate, adapter, out):
        assert (pairs / "dataset_info.json").is_file() and steps == 2
        if len(trained) == stop_at:
            raise KeyboardInterrupt
        trained.append((arm, seed))
        shutil.copytree(model, out, dirs_exist_ok=True)
        # Every arm is heard well with one seed, and a word is missing with the other.
        ears.told = 4 * ["left" if seed else "Go left!"]

    monkeypatch.setattr(comparison, "train", train)
    ears, stop_at = Ears(), 3
    before = ["go left", "left", "left", "nothing"]
    answer_scores = comparison.answer_scores

    def scores(*arguments):
        if not trained:
            ears.told = list(before)
        return answer_scores(*arguments)

    monkeypatch.setattr(comparison, "answer_scores", scores)
    with pytest.raises(KeyboardInterrupt):
        compare(args, ears)
    assert ears.sampled == 4 and len(trained) == 3
    stop_at = 100
    table = report(compare(args, ears)).splitlines()
    assert ears.sampled == 4 and len(trained) == len(set(trained)) == 2 * len(comparison.ARMS)
    assert "2 pairs from 2 answers to each of 2 held-out questions; 2 steps" in table[2]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[6:]]
    assert [row[0] for row in rows] == [BEFORE, *comparison.ARMS]
    # Four of eight words are missing or wrong.
    assert rows[0][1:5] == ["100.0", "75.0", "50.0", "150.0"] and rows[0][6:] == ["2.00", ""]
    # None or four of eight words are missing.
    for row in rows[1:]:
        assert row[1:4] == ["100.0 ± 0.0", "100.0 ± 0.0", "25.0 ± 35.4"]
    # A whole run is not repeated, and other settings do not mix with it.
    assert report(compare(args, ears)).splitlines() == table
    args.samples = 3
    with pytest.raises(FunAudioChatError, match="other settings"):
        compare(args, ears)


@needs_llamafactory
@pytest.mark.slow
def test_an_arm_is_trained_and_measured(args, monkeypatch):
    arm = comparison.ARMS["text only, SFT term"]
    monkeypatch.setattr(comparison, "ARMS", {"text": arm})
    args.seeds = 1
    results = compare(args, Ears())
    assert [result["arm"] for result in results] == [BEFORE, "text"]
    state = args.work / "preference" / "text-0" / "trainer_state.json"
    assert json.loads(state.read_text())["global_step"] == 2
