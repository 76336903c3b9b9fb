# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Pairs made of a model's own answers: how they are scored, chosen, kept and resumed."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from funaudiochat.errors import FunAudioChatError, ServerError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from funaudiochat.voice_chat import VoiceChat
from tests.helpers.chat_server import Server
from tests.helpers.commands import CLI
from tests.helpers.commands import run as run_command
from tests.helpers.pairs import write_wav
from tests.helpers.tiny_folders import build
from tests.helpers.tiny_runs import needs_llamafactory
from training.check_data import check_file
from training.make_pairs import (
    KINDS,
    Answer,
    PairMaker,
    PairOptions,
    Question,
    disturb,
    judge_model_of,
    make_pairs,
    pair_of,
    rate,
    read_questions,
    score_answer,
)

pytest.importorskip("jiwer")
OPTIONS = PairOptions(samples=4, margin=0.2, least=0.2, max_new_tokens=12, seed=1)


def write_questions(folder, *rows):
    path = folder / "questions.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("question", "answer", "scores"),
    [
        (Question("1", "understanding", answers=("4", "four")),
         Answer("It is four.", [1] * 25, "it is 4"), {"text": 1, "heard": 1}),
        (Question("1", "understanding", answers=("4",)),
         Answer("Fourteen.", [1] * 25, "four"), {"text": 0, "heard": 1}),
        (Question("1", "robustness", answers=("paris",)),
         Answer("It is Paris now.", [1] * 25, "it is harris now"),
         {"text": 1, "heard": 0, "clear": 0.75}),
        (Question("1", "robustness"), Answer("Yes.", [1], ""), {"clear": 0}),
        (Question("1", "robustness", answers=("a",)), Answer("A", [1]), {"text": 1}),
        (Question("1", "instruction", wishes=("slow", "short")), Answer("One two.", [1] * 50),
         {"manner": 1}),
        (Question("1", "instruction", wishes=("fast", "long")), Answer("One two.", [1] * 50),
         {"manner": 0}),
        (Question("1", "instruction", wishes=("fast", "short")), Answer("One two."),
         {"manner": 0.5}),
        (Question("1", "empathy", warm=("sorry",), cold=("calm down",)),
         Answer("I am sorry.", [1], "I am sorry"), {"warmth": 1, "clear": 1}),
        (Question("1", "empathy", warm=("sorry",), cold=("calm down",)),
         Answer("Sorry, calm down!"), {"warmth": 0}),
        (Question("1", "understanding", answers=("四",)), Answer("是四。"), {"text": 1}),
    ],
)  # fmt: skip
def test_each_kind_has_its_own_rule(question, answer, scores):
    assert score_answer(question, answer) == scores
    assert list(scores) == [name for name in KINDS[question.kind] if name in scores]


def test_the_best_and_the_worst_answer_that_ended_become_a_pair():
    question = Question("q", "understanding", text="Two plus two?", answers=("four",))
    answers = [
        Answer("five", [5] * 10, "five", {"text": 0.0}),
        Answer("four", [4] * 10, "four", {"text": 1.0}),
        Answer("cut off", [9] * 10, None, {"text": 0.0}, usable=False),
    ]
    row = pair_of(question, None, answers, PairOptions())
    chosen, rejected = (json.loads(row[f"{s}_audio"][0]) for s in ("chosen", "rejected"))
    assert chosen["text"] == "four" and "[AU0004]" in chosen["token"]
    assert rejected["text"] == "five" and row["chosen_score"] == 1 and row["rejected_score"] == 0
    assert row["chosen_reason"] == "text 1; heard 'four'" and row["kind"] == "understanding"
    assert pair_of(question, None, answers[:1], PairOptions()) is None
    assert pair_of(question, None, answers[::2], PairOptions()) is None
    assert pair_of(question, None, answers, PairOptions(least=1.1)) is None
    assert pair_of(question, None, answers, PairOptions(margin=1.1)) is None
    written = pair_of(replace(question, speech=False), "q.wav", answers, PairOptions())
    assert written["chosen"]["content"] == "four" and written["chosen_audio"] == []
    assert written["messages"][0]["content"].endswith("\nTwo plus two?")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "row 2: "),
        ("[]", "not a JSON object"),
        ({"kind": "wit", "text": "a"}, "kind is 'wit'"),
        ({"kind": "empathy"}, "neither audio nor text"),
        ({"kind": "empathy", "audio": "gone.wav"}, "file not found"),
        ({"kind": "robustness", "text": "a"}, "has no audio"),
        ({"kind": "instruction", "text": "a", "wishes": ["loud"]}, "slow, fast, short, long"),
        ({"kind": "empathy", "text": "a", "warm": "sorry"}, "not a list of texts"),
        ({"kind": "empathy", "text": "a", "mood": "b"}, "unknown fields ['mood']"),
        ({"kind": "empathy", "text": "a", "speech": False}, "nothing that tells"),
        ({"kind": "empathy", "text": "a", "id": "1"}, "comes twice"),
        ({"kind": "empathy", "text": "a", "transcript": 1}, "transcript is not text"),
        ({"text": "a"}, "kind"),
    ],
)
def test_a_damaged_question_is_named(tmp_path, row, says):
    good = {"kind": "empathy", "text": "hi", "warm": ["hi"]}
    with pytest.raises(FunAudioChatError, match=r"questions\.jsonl, row 2: ") as raised:
        read_questions(write_questions(tmp_path, good, row), list(KINDS))
    assert says in str(raised.value)
    path = write_questions(tmp_path, good)
    assert [q.id for q in read_questions(path, ["empathy"])] == ["1"]
    for kinds, told in ((["robustness"], "holds no question"), (["wit"], "unknown kinds")):
        with pytest.raises(FunAudioChatError, match=told):
            read_questions(path, kinds)
    with pytest.raises(FunAudioChatError, match="cannot be read"):
        read_questions(tmp_path / "none.jsonl", ["empathy"])


def test_noise_is_drawn_by_the_seed_and_holds_the_talker():
    t = np.arange(16000) / 16000
    question, talker = np.sin(2000 * t).astype(np.float32), np.sin(5000 * t[:7000])
    scenes = [disturb(question, talker, Random(n)) for n in range(12)]
    assert all(np.isfinite(scene).all() and np.abs(scene).max() <= 1 for scene in scenes)
    assert np.array_equal(scenes[3], disturb(question, talker, Random(3)))
    alone = [disturb(question, None, Random(n)) for n in range(12)]
    assert any(
        len(a) != len(b) or not np.allclose(a, b) for a, b in zip(scenes, alone, strict=True)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return build(tmp_path_factory.mktemp("models"))


class Ears:
    """Hears every second answer as right."""

    calls = 0

    def __call__(self, waveform, rate_hz):
        assert rate_hz == 24000 and len(waveform)
        self.calls += 1
        return "left" if self.calls % 2 else "nothing"


@pytest.fixture
def maker(folders, tmp_path, monkeypatch):
    """Sample the tiny model's speech; its random text never ends, so that a word stands for it."""
    chat = VoiceChat.from_pretrained(*folders, device="cpu")
    ask = chat.ask
    monkeypatch.setattr(
        chat, "ask", lambda **options: replace(ask(**options), text="left", finish_reason="stop")
    )
    return PairMaker(chat, Ears(), OPTIONS, tmp_path / "noise")


@pytest.fixture
def questions(tmp_path):
    write_wav(tmp_path / "a.wav")
    write_wav(tmp_path / "b.wav", 500)
    path = write_questions(
        tmp_path,
        {"kind": "robustness", "audio": "a.wav", "answers": ["left"]},
        {"kind": "understanding", "audio": "b.wav", "text": "Which way?", "answers": ["left"]},
        {"kind": "understanding", "text": "Which way?", "answers": ["left"]},
    )
    return read_questions(path, list(KINDS))


def test_pairs_of_the_tiny_model_pass_the_check_and_resume(maker, questions, folders, tmp_path):
    out, settings = tmp_path / "pairs.jsonl", {"model": "tiny"}
    assert make_pairs(maker, questions, out, settings) == (3, 3)
    processor = FunAudioChatProcessor.from_pretrained(folders[0])
    assert check_file(out, processor.tokenizer).problems == []
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert json.loads(rows[0]["audio"][0])["path"].startswith(str(tmp_path / "noise"))
    assert json.loads(rows[1]["audio"][0])["path"] == str(tmp_path / "b.wav")
    assert all("heard 'left'" in row["chosen_reason"] for row in rows)
    assert maker.judge.calls == 12
    # Stopped in the third question: its torn line is cut off, and it alone is asked again.
    journal, whole = tmp_path / "pairs.jsonl.answers.jsonl", out.read_bytes()
    written = journal.read_bytes()
    journal.write_bytes(written[:-40])
    out.unlink()
    assert make_pairs(maker, questions, out, settings) == (3, 3)
    assert maker.judge.calls == 16 and journal.read_bytes() == written
    assert out.read_bytes() == whole
    # Another margin chooses among the answers that are there.
    maker.options = replace(OPTIONS, margin=0.9)
    assert make_pairs(maker, questions, out, settings) == (0, 3) and maker.judge.calls == 16
    with pytest.raises(FunAudioChatError, match="other settings"):
        make_pairs(maker, questions, out, {"model": "another"})
    journal.write_bytes(b"{}\n" + written)
    with pytest.raises(FunAudioChatError, match="line 1 is damaged"):
        make_pairs(maker, questions, out, settings)


@pytest.fixture
def judge_model(monkeypatch):
    """Start a stand-in of a judge model's server, which gives one reply after the other."""
    pytest.importorskip("openai")
    monkeypatch.setenv("JUDGE_API_KEY", "key")
    replies: list = []
    server = Server(lambda request: replies.pop(0))
    client = judge_model_of(f"judge@{server.url}", [])
    yield client, replies, server
    server.shutdown()
    server.server_close()


def test_a_judge_model_rates_what_was_heard_by_the_rule_of_the_kind(judge_model, caplog):
    client, replies, server = judge_model
    question = Question(
        "7", "empathy", audio="a.wav", transcript="I lost my job.", answers=("sorry",)
    )
    replies += ["Warm. [[10]]", "Curt, [[2]] at first, in all [[ 5.5 ]]"]
    answers = [Answer("I am sorry.", [1], "I am sorry"), Answer("So what?")]
    for answer in answers:
        rate(client, question, answer)
        answer.scores = score_answer(question, answer)
    assert answers[0].scores == {"clear": 1, "rating": 1} and answers[1].scores == {"rating": 0.5}
    asked = [request["messages"][0]["content"] for request in server.requests]
    assert "feelings" in asked[0] and "I lost my job." in asked[0] and "sorry" in asked[0]
    assert "as a listener understood it: I am sorry\n" in asked[0]
    assert "reply: So what?\n" in asked[1] and server.keys == {"Bearer key"}
    row = pair_of(question, "a.wav", answers, PairOptions())
    assert row["chosen_reason"].endswith("rating 1; heard 'I am sorry'; judge model 'Warm. [[10]]'")
    # Damaged replies: no rating, ratings off the scale, no choices, a refusal.
    for reply in ("Very good.", "[[11]]", "[[0]]", "[[-3]]", "", None, 400):
        replies.append(reply)
        answer = Answer("Yes.")
        rate(client, question, answer)
        assert answer.rating is None and not answer.usable
        assert "rating" not in score_answer(question, answer)
    assert caplog.text.count("question 7: no rating") == 7 and "refused on purpose" in caplog.text
    replies.append(401)
    with pytest.raises(ServerError, match="judge is unreachable"):
        rate(client, question, Answer("Yes."))


def test_pairs_are_resumed_after_the_judge_model_was_away(maker, tmp_path, judge_model):
    client, replies, server = judge_model
    path = write_questions(
        tmp_path,
        *({"kind": "understanding", "text": text, "speech": False, "answers": ["left"]}
          for text in ("Which way?", "Where?")),
    )  # fmt: skip
    questions, out = read_questions(path, list(KINDS)), tmp_path / "pairs.jsonl"
    maker = PairMaker(maker.chat, None, OPTIONS, tmp_path / "noise", client)
    replies += ["[[9]]", "[[1]]", "no", "[[5]]", 404]
    with pytest.raises(ServerError):
        make_pairs(maker, questions, out, {})
    assert not out.exists()
    replies += ["[[3]]"] * 4
    assert make_pairs(maker, questions, out, {}) == (1, 2) and len(server.requests) == 9
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["chosen_score"], row["rejected_score"]) == (0.945, 0.5)


def test_a_judge_model_needs_words_and_a_name(questions, monkeypatch):
    pytest.importorskip("openai")
    with pytest.raises(FunAudioChatError, match=r"question '1' is spoken and has no transcript"):
        judge_model_of("judge@http://127.0.0.1:9/v1", questions)
    with pytest.raises(FunAudioChatError, match=r"must be MODEL or MODEL@URL"):
        judge_model_of("@http://127.0.0.1:9/v1", [])
    for name in ("JUDGE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FunAudioChatError, match="cannot set up the judge"):
        judge_model_of("judge", [])


@needs_llamafactory
def test_they_train(maker, questions, folders, tmp_path):
    from tests.training.test_preference import log_of, train

    out = tmp_path / "pairs.jsonl"
    make_pairs(maker, questions, out, {})
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    (step,) = log_of(train(tmp_path, rows, max_steps=1, model_name_or_path=str(folders[0])))
    assert step["loss"] == pytest.approx(np.log(2), abs=1e-5)


@pytest.mark.slow
def test_the_command_says_what_it_made_and_what_is_missing(folders, tmp_path):
    path = write_questions(tmp_path, {"kind": "empathy", "text": "hi", "warm": ["hi"]})
    common = [
        *CLI, "train", "make-pairs", "--model-path", folders[0], "--questions", path,
        "--out", tmp_path / "pairs.jsonl", "--samples", "2", "--max-new-tokens", "4",
    ]  # fmt: skip
    said = run_command(*common, "--judge", "none", cwd=tmp_path)
    assert "0 pairs of 1 questions" in said.stdout + said.stderr
    assert (tmp_path / "pairs.jsonl").read_text() == ""
    for options, told in (
        (["--judge", "ears"], "whisper or none"),
        (["--judge", "none", "--kinds", "wit"], "unknown kinds"),
    ):
        said = run_command(*common, *options, cwd=tmp_path, code=1)
        assert told in said.stdout + said.stderr
