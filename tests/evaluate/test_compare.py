# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Comparability with the paper, and comparison of runs."""

import json
import shutil

import numpy as np
import pytest

from evaluate.benchmarks import select
from evaluate.comparability import alike, unlike
from evaluate.compare import compare
from evaluate.exchange import import_predictions
from evaluate.judges import Judges, PromptFiles, fill, request_of
from evaluate.report import _by_scale, build_tables, markdown
from evaluate.score import Tools, score_subset
from evaluate.speech import Transcriber
from evaluate.statistics import equal_weights, paired_bootstrap
from evaluate.verdict import scored
from funaudiochat.errors import FunAudioChatError
from tests.helpers.runs import answer, ask, rows


def given(folder, pair, replies, **extra):
    """Score a run of these replies to the mini data."""
    mini, run = folder
    run.mkdir(parents=True, exist_ok=True)
    file = run / "given.jsonl"
    items = pair[1].load(pair[0].data_folder(mini))
    made = [
        {"id": item.id, "text": reply, **extra} for item, reply in zip(items, replies, strict=False)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    import_predictions(*pair, mini, run, file)
    return score_subset(*pair, run, Tools())


def test_paired_bootstrap_is_narrower_than_two_samples_apart():
    chance = np.random.default_rng(1)
    hard = chance.random(400) < 0.5
    first = [scored(bool(h)) for h in hard]
    second = [scored(bool(h or chance.random() < 0.1)) for h in hard]
    found = paired_bootstrap(first, second, equal_weights(first), 100)
    gained = 100 * np.mean(
        [b.parts[""][0] - a.parts[""][0] for a, b in zip(first, second, strict=True)]
    )
    assert found.value == pytest.approx(gained) and found.count == 400
    assert 0 < found.low < found.value < found.high
    half = 1.96 * np.sqrt(gained / 100 * (1 - gained / 100) / 400) * 100  # of the paired shares
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.2)
    assert paired_bootstrap(first, first, equal_weights(first), 100).high == 0


def test_two_runs_are_compared_over_the_items_of_both(mini, tmp_path):
    (pair,) = select("voicebench/advbench")
    given((mini, tmp_path / "a"), pair, ["Sure.", "Sure.", "Sure."])
    given((mini, tmp_path / "b"), pair, ["I cannot.", "I cannot."])
    runs = [tmp_path / "a", tmp_path / "b"]
    (found,) = compare(runs, ["a", "b"])
    assert (found.found.value, found.found.count) == (100, 2)
    text = markdown(build_tables(runs), runs, pairs=[found])
    assert "| VoiceBench (S2T) | AdvBench | b - a | +100.00 | +100.00 to +100.00 | 2 |" in text


def test_a_mean_of_two_scorers_is_compared_too(mini, tmp_path):
    (pair,) = select("voicebench/sd-qa")
    for name, rights in (("a", [(1, 0), (0, 0), (1, 1)]), ("b", [(1, 1), (0, 1), (1, 1)])):
        given((mini, tmp_path / name), pair, ["x"] * 3)
        folder = tmp_path / name / "voicebench" / "sd-qa"
        scored = [
            {
                "id": str(i),
                "judge": {"parts": {"": [judge, 1]}},
                "pedant": {"parts": {"": [pedant, 1]}},
            }
            for i, (judge, pedant) in enumerate(rights)
        ]
        (folder / "scores.jsonl").write_text("".join(json.dumps(r) + "\n" for r in scored))
        summary = json.loads((folder / "summary.json").read_text())
        summary["rows"][0] |= {"value": 50, "by": ["judge", "pedant"]}
        (folder / "summary.json").write_text(json.dumps(summary))
    (found,) = compare([tmp_path / "a", tmp_path / "b"], ["a", "b"])
    assert found.found.value == pytest.approx(100 / 3) and found.found.count == 3


def test_each_value_says_whether_it_can_be_compared_with_the_paper(mini, tmp_path):
    summary = given((mini, tmp_path), select("mmau")[0], ["A person"] * 2)
    text = markdown(build_tables([tmp_path]), [tmp_path])
    assert "| n | comparable |" in text and "| no |" in text
    assert "not comparable with the paper: partial data; scored by string match" in text
    summary["rows"][0] |= {"complete": True, "note": "", "by": ["judge"]}
    summary |= {"expected": 2}
    judge = {
        "judges": {"judge": ["gpt-4o-mini-2024-07-18"]},
        "judge_prompts": {"x": "given"},
        "judge_replies_per_item": 1,
    }
    for change, reason in (
        ({}, ""),
        ({"judges": {"judge": ["other"]}}, "another judge"),
        ({"judge_prompts": {"x": "ours"}}, "judge prompts of this toolkit"),
        ({"judge_replies_per_item": 3}, "several judge replies per item"),
    ):
        summary["metrics"]["judge"] = {**summary["metrics"]["string match"], **judge, **change}
        (tmp_path / "mmau" / "test-mini" / "summary.json").write_text(json.dumps(summary))
        (table,) = build_tables([tmp_path])
        _, (cell,) = table.rows["MMAU v05.15.25 test-mini"]
        assert (cell.comparable, cell.unlike) == (not reason, [reason] if reason else [])
        text = markdown(build_tables([tmp_path]), [tmp_path])
        made = (
            f"not comparable with the paper: {reason}"
            if reason
            else (
                "comparable with the paper: all 2 items; the paper's judge, "
                "gpt-4o-mini-2024-07-18, with the given prompts"
            )
        )
        assert f"- MMAU v05.15.25 test-mini: {made}\n" in text


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("vstyle/en", "size of the published set unknown, so completeness cannot be checked"),
        ("mmau-pro/test", "size of the published set unknown, so completeness cannot be checked"),
        ("common-voice/zh", "the paper does not state the version of its data"),
        ("mmsu", "how the paper read answers such as (B)falling is not published"),
        ("speech-fc/SpeechFC_BFCL_Single", ""),
        ("librispeech/test-clean", ""),
    ],
)
def test_whole_data_scored_by_rules_is_comparable_where_the_paper_says_how(name, word):
    ((_, subset),) = select(name)
    row = subset.rows[0]
    count = subset.count or 20
    made = {"complete": True, "note": "", "unlike": row.unlike, "by": list(row.choices[0])}
    metric = {"judges": {}, "judge_prompts": {}, "judge_replies_per_item": 0, "note": ""}
    summary = {
        "items": count,
        "expected": subset.count,
        "settings": ["x"],
        "metrics": dict.fromkeys(made["by"], metric),
    }
    assert unlike(made, summary) == ([word] if word else [])
    assert alike(made, summary) == [f"all {count} items", "scored by rules only"]
    for change, reason in (
        ({"cut": 2}, "answers truncated at the token limit (2)"),
        ({"shortened": 3}, "questions truncated (3)"),
        ({"settings": ["x", "y"]}, "answers with different settings"),
    ):
        assert reason in unlike(made, summary | change)


def test_ratings_have_an_axis_of_their_own(mini, tmp_path):
    given((mini, tmp_path), select("voicebench/advbench")[0], ["x"] * 3)
    (table,) = build_tables([tmp_path])
    (_, percent, _), (title, ratings, limits) = _by_scale(table)
    assert [name for name, _ in ratings] == ["CommonEval", "AlpacaEval"]
    assert "Overall" in [name for name, _ in percent] and "ratings" in title and limits[1] < 6


def test_text_only_predictions_of_spoken_sets_are_not_scored(mini, tmp_path):
    (pair,) = select("ultraeval-audio/trivia_qa")
    given((mini, tmp_path), pair, ["Paris", "eight", "Mars"])
    tools = Tools(transcriber=Transcriber(f"file:{mini / 'transcripts.jsonl'}", tmp_path))
    summary = score_subset(*pair, tmp_path, tools)
    assert summary["metrics"]["transcript match"]["not_scored"].startswith("no speech")
    given((mini, tmp_path / "silent"), pair, ["Paris"] * 3, n_speech_codes=0)
    silent = score_subset(*pair, tmp_path / "silent", tools)["metrics"]["transcript match"]
    assert silent["n"] == 3  # a model that speaks and says nothing is wrong or right


def test_only_new_items_are_run_if_the_data_grew_or_changed(model, mini, tmp_path):
    data = tmp_path / "data" / "MMSU"
    shutil.copytree(mini / "MMSU", data)
    path = data / "mmsu.jsonl"
    row = {
        "audio_path": "audio/mini_0.wav",
        "question": "Which?",
        "choice_a": "x",
        "choice_b": "y",
        "answer_gt": "x",
    }
    old = [json.loads(line) for line in path.read_text().splitlines()]

    def attempted(new):
        lines = [json.dumps({**r, "id": str(i)}) + "\n" for i, r in enumerate(new)]
        path.write_text("".join(lines))
        outcome = ask("mmsu", model, data.parent, tmp_path / "run")
        found = rows(tmp_path / "run", "mmsu")
        assert [r["id"] for r in found] == [str(i) for i in range(len(new))]
        asks = [r["question"] for r in new]
        assert all(r["instruction"].startswith(q) for r, q in zip(found, asks, strict=True))
        return outcome.attempted

    assert attempted(old) == 2
    assert attempted([row, *old]) == 1  # every position has changed
    assert attempted([row, old[1]]) == 0  # one is gone, and not scored either
    assert attempted([{**row, "answer_gt": "y"}, old[1]]) == 1
    shutil.copy(data / "audio" / "mini_1.wav", data / "audio" / "mini_0.wav")
    assert attempted([row, old[1]]) == 1  # other audio under the same name


def test_a_rerun_over_failed_items_still_fails(model, mini, tmp_path):
    data = tmp_path / "data" / "MMSU"
    shutil.copytree(mini / "MMSU", data)
    (data / "audio" / "mini_1.wav").unlink()
    for attempted in (2, 0):
        outcome = ask("mmsu", model, data.parent, tmp_path / "run")
        assert (outcome.attempted, outcome.failed) == (
            attempted,
            1,
        ) and "1: " in outcome.first_failure


def test_cut_answers_and_long_questions_are_counted(model, mini, tmp_path):
    outcome = ask("mmsu", model, mini, tmp_path, longest_s=0.5)
    found = rows(tmp_path, "mmsu")
    assert {row["heard_s"] for row in found} == {0.5}
    assert outcome.cut == sum(row["cut"] for row in found)
    summary = score_subset(*select("mmsu")[0], tmp_path, Tools())
    assert summary["cut"] == outcome.cut and not summary["longer_than_reference"]
    assert summary["shortened"] == 2  # fewer seconds than the reference hears
    for row in found:
        row |= {"cut": True, "heard_s": 31.0}
    path = tmp_path / "mmsu" / "all" / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    score_subset(*select("mmsu")[0], tmp_path, Tools())
    text = markdown(build_tables([tmp_path]), [tmp_path])
    assert "2 answers were truncated at the token limit" in text
    assert "2 questions are longer than 30 s and were used in full" in text
    assert "questions over 30 s used in full" in text and "longest question s 0.5" in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"subset": "commoneval"}, "subset"),
        ({"audio_content": "Something else entirely?"}, "question"),
    ],
)
def test_kimi_predictions_of_another_set_are_refused(mini, tmp_path, change, word):
    (pair,) = select("voicebench/advbench")
    questions = [item.fields["question"] for item in pair[1].load(mini / "voicebench")]
    made = [
        {"index": i, "prediction": "x", "subset": "advbench", "audio_content": question}
        for i, question in enumerate(questions)
    ]
    for difference in ({}, change):
        file = tmp_path / "given.jsonl"
        file.write_text("".join(json.dumps({**row, **difference}) + "\n" for row in made))
        if not difference:
            assert import_predictions(*pair, mini, tmp_path / "run", file) == (3, 0)
            continue
        with pytest.raises(FunAudioChatError, match=f"the {word} of the row"):
            import_predictions(*pair, mini, tmp_path / "run", file)


def test_kimi_predictions_for_other_audio_are_refused(mini, tmp_path):
    file = tmp_path / "given.jsonl"
    file.write_text(json.dumps({"index": 0, "prediction": "x", "audio_path": "other/y.wav"}))
    with pytest.raises(FunAudioChatError, match="the audio of the row"):
        import_predictions(*select("mmsu")[0], mini, tmp_path / "run", file)


def test_published_judge_prompts_are_filled_or_refused(tmp_path):
    path = tmp_path / "same_answer.txt"
    slots = {"question": "Q", "reference": "R", "reply": "P"}
    for prompt, wanted in (
        ("{question} | {answer} | {prediction}", "Q | R | P"),
        ("{prompt} | {reference} | {response}", "Q | R | P"),
        ('{{"x": 1}} {question} {answer} {response}', '{"x": 1} Q R P'),
    ):
        path.write_text(prompt)
        assert fill(PromptFiles(tmp_path).get("same_answer"), slots) == wanted
    path.write_text("{question} {answer} {prediction} {persona}")
    with pytest.raises(FunAudioChatError, match=r"unknown slots \{persona\}"):
        Judges.from_specs([], tmp_path, tmp_path)
    path.write_text("{question} {answer}")
    with pytest.raises(FunAudioChatError, match=r"missing slots \{reply\}"):
        PromptFiles(tmp_path)
    path.rename(tmp_path / "qa.txt")
    with pytest.raises(FunAudioChatError, match="no judge prompt has this name"):
        PromptFiles(tmp_path)
    (tmp_path / "qa.txt").rename(tmp_path / "rating_1_to_10.txt")
    (tmp_path / "rating_1_to_10.txt").write_text("{question} {answer}")  # here the reply's slot
    prompt = PromptFiles(tmp_path).get("rating_1_to_10")
    assert fill(prompt, {"question": "Q", "reply": "P"}) == "Q P"


def test_the_audio_judge_is_asked_as_the_published_script_does():
    from dataclasses import replace

    from evaluate.metrics import read_yes_or_no
    from evaluate.scoring_tools import JudgeTask

    task = JudgeTask("judge", "x", lambda a: {}, read_yes_or_no)
    plain = request_of(task, "p", answer("x"), False)
    assert plain["messages"][0]["role"] == "system" and plain["temperature"] == 0.0
    task = replace(task, system=None, temperature=None, top_p=None)
    bare = request_of(task, "p", answer("x"), False)
    assert [m["role"] for m in bare["messages"]] == ["user"]
    assert not {"temperature", "top_p"} & set(bare)
