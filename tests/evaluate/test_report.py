# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The tables: their values, and the notes below them."""

import json
from importlib.metadata import version

import pytest

from evaluate.benchmarks import select
from evaluate.exchange import import_predictions
from evaluate.judges import Judges
from evaluate.records import json_rows
from evaluate.report import build_tables, markdown, paper
from evaluate.score import Tools, score_subset, table_value
from evaluate.scorers.vstyle import WEIGHTS
from evaluate.speech import Transcriber
from tests.helpers.runs import ask


def report_of(run):
    return markdown(build_tables([run]), [run])


@pytest.mark.parametrize("group", sorted(paper()["overall"]))
@pytest.mark.parametrize("column", range(2))
def test_the_papers_overalls_follow_from_its_own_rows(group, column):
    total = paper()["overall"][group]
    values = {name: row[column] for name, row in paper()["groups"][group].items()}
    published = values.pop(total["row"])
    found = table_value(values, total.get("factors", {}))
    assert found == pytest.approx(published, abs=0.0101)


def test_vstyles_factors_are_its_weights():
    for language in ("en", "zh"):
        factors = paper()["overall"][f"VStyle {language} (Table 5)"]["factors"]
        for ability, weight in WEIGHTS.items():
            assert factors.get(ability, 1) == pytest.approx(weight * len(WEIGHTS))


def test_vstyle_has_an_overall_only_of_the_whole_set(model, mini, tmp_path):
    tools = Tools(judges=Judges.from_specs([f"audio judge=file:{mini / 'judge.jsonl'}"], tmp_path))
    for limit, wanted in ((1, None), (None, 3.0)):
        ask("vstyle/en", model, mini, tmp_path, limit=limit)
        score_subset(*select("vstyle/en")[0], tmp_path, tools)
        (table,) = build_tables([tmp_path])
        published, (cell,) = table.rows["Overall"]
        assert published == 3.35
        if wanted is None:
            assert cell.value is None and "- Overall: not scored: needs" in report_of(tmp_path)
    even = sum(weight for i, weight in enumerate(WEIGHTS.values()) if i % 2 == 0)
    assert cell.value == pytest.approx(4 * even + 2 * (1 - even))
    assert cell.low is None  # one item per ability gives no spread


def test_only_sets_that_were_asked_three_times_are_said_to_be(model, mini, tmp_path):
    judge = f"file:{tmp_path / 'replies.jsonl'}"
    names = ("voicebench/commoneval", "openaudiobench/llama_questions")
    replies = [
        {
            "benchmark": name.split("/")[0],
            "subset": name.split("/")[1],
            "id": "0",
            "sample": sample,
            "reply": "5" if name.startswith("voice") else "The score is [Correct]",
        }
        for name in names
        for sample in range(3)
    ]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replies))
    tools = Tools(judges=Judges.from_specs([judge], tmp_path, replies_per_item=3))
    for name in names:
        ask(name, model, mini, tmp_path, limit=1)
        score_subset(*select(name)[0], tmp_path, tools)
    once, three = report_of(tmp_path).split("## VoiceBench")
    assert "3 judge replies per item" in three and "judge replies per item" not in once


def test_the_toolkits_choices_and_the_tools_behind_a_value_are_stated(model, mini, tmp_path):
    names = ("voicebench/advbench", "common-voice/zh", "ultraeval-audio/llama_questions")
    tools = Tools(transcriber=Transcriber(f"file:{mini / 'transcripts.jsonl'}", tmp_path))
    for name in names:
        ask(name, model, mini, tmp_path, limit=1)
        score_subset(*select(name)[0], tmp_path, tools)
    text = report_of(tmp_path)
    for word in (
        "model Fun-Audio-Chat-Tiny",
        "text greedy",
        "max new tokens 6",
        "seed 0",
        "temperature 0.8",
        "repetition penalty 1.2",
        "voice default",
    ):
        assert word in text.splitlines()[4]
    tables = {table.split("\n")[0]: table for table in text.split("\n## ")[1:]}
    assert "match case-insensitively" in tables["VoiceBench (S2T)"]
    recognition = tables["Speech recognition (WER %)"]
    assert "compute-wer ignoring case" in recognition and "chosen by this toolkit" in recognition
    assert f"compute-wer {version('compute-wer')}" in recognition
    quality = tables["Speech quality on UltraEval-Audio Llama Q."]
    assert "against the text generated with it" in quality
    assert "speech recognition: recorded (transcripts.jsonl)" in quality


def test_thoughts_are_cut_before_scoring_and_counted(mini, tmp_path):
    replies = ["<think>I cannot say.</think>Sure, here it is.", "<think>Sure", "I cannot help."]
    file = tmp_path / "given.jsonl"
    made = [{"id": str(i), "text": reply} for i, reply in enumerate(replies)]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    (pair,) = select("voicebench/advbench")
    import_predictions(*pair, mini, tmp_path / "run", file)
    summary = score_subset(*pair, tmp_path / "run", Tools())
    assert summary["thoughts_cut"] == 2
    scores = json_rows(tmp_path / "run" / "voicebench" / "advbench" / "scores.jsonl")
    assert [row["phrases"]["score"] for row in scores] == [[0.0], [1.0], [1.0]]  # a blank refuses
    assert "<think> blocks removed from 2 answers" in report_of(tmp_path / "run")


def test_skipped_answers_are_counted_where_all_are(mini, tmp_path):
    file = tmp_path / "given.jsonl"
    made = [{"index": i, "prediction": "no idea"} for i in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    (pair,) = select("mmsu")
    import_predictions(*pair, mini, tmp_path / "run", file)
    score_subset(*pair, tmp_path / "run", Tools())
    wanted = "also reference rule not scored (2: skipped: no letter at either end)"
    assert wanted in report_of(tmp_path / "run")
