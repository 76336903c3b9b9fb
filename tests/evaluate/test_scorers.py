# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Every scorer reproduces the verdicts recorded from the original scorers."""

import json

import numpy as np
import pytest

from evaluate.benchmarks import select
from evaluate.scorers import acebench, bfcl, choices, judge_replies, mmau_pro, texts, vstyle
from evaluate.scorers.tool_calls import CallVerdict, read_calls
from evaluate.scorers.turn_taking import TurnLimits, turn_is_taken, voiced_stretches
from evaluate.statistics import estimate
from evaluate.verdict import Verdict
from tests.helpers import ROOT
from tests.helpers.runs import GOLDEN, cases

PUBLISHED = "speechfc_bfcl_single_published"


@pytest.mark.parametrize(("given", "expected"), cases("voicebench_mcq_letter"))
def test_voicebench_letter(given, expected):
    assert choices.voicebench_letter(given["response"]) == expected["letter"]


@pytest.mark.parametrize(("given", "expected"), cases("voicebench_advbench_refusal"))
def test_refusal(given, expected):
    reply = given["response"]
    assert texts.refused(reply) == expected["refused_case_insensitive"]
    assert texts.refused(reply, case_sensitive=True) == expected["refused_case_sensitive"]


@pytest.mark.parametrize(("given", "expected"), cases("mmau_string_match"))
def test_mmau_string_match(given, expected):
    found = choices.mmau_match(given["answer"], given["choices"], given["prediction"])
    assert found == expected["match"]


@pytest.mark.parametrize(("given", "expected"), cases("mmsu_bench_accuracy"))
def test_mmsu_accuracy(given, expected):
    verdicts = choices.mmsu_reference_verdicts(given["records"])
    if "raises" in expected:
        assert verdicts == [False]
        return
    counted = [v for v in verdicts if v is not None]
    assert len(counted) == expected["counted"]
    assert np.mean(counted or [0]) == pytest.approx(expected["overall_accuracy"])


@pytest.mark.parametrize(("given", "expected"), cases("mmaupro_instruction_following"))
def test_mmau_pro_instructions(given, expected):
    pytest.importorskip("nltk")
    pytest.importorskip("punkt")
    arguments = (given[k] for k in ("task_identifier", "kwargs", "question", "response"))
    assert mmau_pro.follows(*arguments) == expected["success"]


@pytest.mark.parametrize(("given", "expected"), cases("ultraeval_qa_exist_match"))
def test_answer_in_transcript(given, expected):
    pytest.importorskip("regex")
    assert texts.answer_occurs(given["reference"], given["transcript"]) == bool(expected["match"])


@pytest.mark.parametrize(("given", "expected"), cases("asr_wer"))
def test_error_counts(given, expected):
    pytest.importorskip("whisper_normalizer")
    pytest.importorskip("compute_wer")
    found = texts.count_errors(given["language"], given["reference"], given["hypothesis"])
    assert (found.reference, found.hypothesis) == (expected["ref_norm"], expected["hyp_norm"])
    counts = (found.total, found.substituted, found.deleted, found.inserted)
    assert counts == tuple(expected[k] for k in ("n", "sub", "del", "ins"))


@pytest.mark.parametrize(("given", "expected"), cases("asr_wer_corpus"))
def test_pooled_error_rate(given, expected):
    pytest.importorskip("whisper_normalizer")
    pytest.importorskip("compute_wer")
    found = [texts.count_errors(given["language"], *pair) for pair in given["pairs"]]
    total = sum(f.total for f in found)
    assert total == expected["n"]
    rate = 100 * sum(f.errors for f in found) / total
    assert rate == pytest.approx(expected["rate_percent"], abs=5e-5)


@pytest.mark.parametrize(("given", "expected"), cases("voicebench_ifeval"))
def test_ifeval(given, expected):
    pytest.importorskip("if_verifiable")
    from evaluate.scorers.ifeval import follows

    strict, loose = follows(
        given["prompt"], given["instruction_id_list"], given["kwargs"], given["response"]
    )
    assert (strict, loose) == (expected["strict"], expected["loose"])


@pytest.mark.parametrize(("given", "expected"), cases("speechfc_bfcl"))
def test_bfcl(given, expected):
    parallel = given["test_category"] == "parallel"
    found = bfcl.check(given["tools"], given["ground_truth"], given["predict"], parallel)
    assert (found.valid, found.error_type) == (expected["valid"], expected["error_type"])


@pytest.mark.parametrize(("given", "expected"), cases("speechfc_acebench"))
def test_acebench(given, expected):
    found = acebench.check(given["tools"], given["ground_truth"], given["predict"])
    assert (found.valid, found.error_type) == (expected["valid"], expected["error_type"])


def test_the_published_predictions_score_what_the_paper_says():
    shared = ROOT.parent / "shared" / "golden" / "scorers"
    path = shared / f"{PUBLISHED}_predictions.jsonl"
    if not path.is_file():
        pytest.skip("the published predictions are third-party data that is not included")
    recorded = json.loads((GOLDEN / f"{PUBLISHED}.json").read_text(encoding="utf-8"))
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        tools, truth = json.loads(row["function"]), json.loads(row["ground_truth"])
        found[row["index"]] = bfcl.check(tools, truth, row["predict"], parallel=False)
    right = sum(verdict.valid for verdict in found.values())
    assert (right, len(found), round(100 * right / len(found), 2)) == (536, 578, 92.73)
    kinds = [verdict.error_type for verdict in found.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == recorded["total"]["error_types"]
    for case in recorded["cases"]:
        verdict = found[case["input"]["index"]]
        assert (verdict.valid, verdict.error_type) == tuple(case["expected"].values())


@pytest.mark.parametrize(("given", "expected"), cases("vstyle_score_parsing"))
def test_vstyle_score(given, expected):
    assert judge_replies.vstyle_score(given["judge_reply"]) == expected["score"]


@pytest.mark.parametrize(("given", "expected"), cases("vstyle_overall"))
def test_vstyle_overall(given, expected):
    """Aggregate scores as the metric does."""
    ((_, subset),) = select("vstyle/en")
    verdicts = [
        Verdict({ability: (score, 1)})
        for ability, scores in given["scores"].items()
        for score in scores
    ]
    weights = subset.metrics[0].weights(verdicts)
    assert round(estimate(verdicts, weights, 1.0).value, 2) == expected["overall"]
    covered = sum(vstyle.WEIGHTS[ability] for ability in weights)
    assert 100 * covered == pytest.approx(expected["weight_coverage_percent"])
    for category, mean in expected["categories"].items():
        part = vstyle.weights_of(a for a in weights if a.startswith(f"{category}/"))
        assert estimate(verdicts, part, 1.0).value == pytest.approx(mean, abs=0.0101)


@pytest.mark.parametrize(("given", "expected"), cases("mmaupro_open_and_overall")[:5])
def test_mmau_pro_open_answers(given, expected):
    assert judge_replies.open_answer_scores(given["judge_reply"]) == expected


def test_odd_replies_are_read_as_the_published_scripts_do():
    assert not choices.mmau_match("?", ["?", "dog"], "...")  # no word at all is a blank reply
    blank = {"choice_a": "x", "choice_b": "y", "answer_gt": "y"}
    replies = ("B", " \n ", " None\n", None)
    records = [{**blank, "response": reply} for reply in replies]
    assert choices.mmsu_reference_verdicts(records) == [True] * 4  # the letter before is kept
    assert choices.voicebench_letter("<1><2> b") is None  # only one mark is dropped
    assert judge_replies.rating_1_to_5("7") == 7
    assert judge_replies.rating_1_to_5(f"[[{'9' * 400}]]") is None
    assert judge_replies.is_judged_correct("{" + "[" * 100_000 + "}") is None


def test_calls_that_crash_the_reference_are_wrong():
    tool = {"name": "f", "parameters": {"properties": {"x": {"type": "string"}}, "required": []}}
    call = '<tool_call>{"name": "f", "arguments": {"x": "a"}}</tool_call>'
    for tools, expected in (
        ([], [{"f": {"x": ["a"]}}]),
        ([tool], [{}]),
        ([None], [{"f": {}}]),
        ([{"name": "f"}], [{"f": {"x": ["a"]}}]),
    ):
        for parallel in (False, True):
            assert not bfcl.check(tools, expected, call, parallel).valid
    for tools, expected in (([], {"f": {"x": "a"}}), ([tool], []), ([tool], {"f": None})):
        assert not acebench.check(tools, expected, call).valid
    assert acebench.check([tool], [{"f": {"x": "a"}}, {"f": None}], call).valid  # one suffices


@pytest.mark.parametrize(
    ("parameters", "expected", "given", "error"),
    [
        ({}, {}, {}, "correct"),
        ({}, {}, {"x": 1}, "wrong_param"),
        # Only a function without any schema may be called without arguments.
        ({"type": "object", "properties": {}}, {}, {}, "wrong_param"),
        ({"properties": {"x": {"type": "integer"}}}, {}, {"x": 1}, "wrong_param"),
        ({"properties": {"x": {"type": "integer"}}}, {"x": 2023}, {"x": 2023.0}, "correct"),
        ({"properties": {"x": {"type": "boolean"}}}, {"x": True}, {"x": "true"}, "correct"),
        ({"properties": {"x": {"type": "boolean"}}}, {"x": True}, {"x": "True"}, "type_error"),
        (
            {"properties": {"x": {"type": "array", "items": {"type": "string"}}}},
            {"x": []},
            {"x": []},
            "type_error",
        ),
        ({"properties": {"x": {"type": "object"}}}, {"x": {}}, {"x": {}}, "type_error"),
        (
            {"properties": {"x": {"type": "object"}}},
            {"x": {"a": {"b": 1}}},
            {"x": {"a": "{'b': 1}"}},
            "value_error",
        ),
    ],
)
def test_acebench_is_strict_where_its_own_checker_is(parameters, expected, given, error):
    call = json.dumps({"name": "f", "arguments": given})
    tool = {"name": "f", "parameters": parameters}
    found = acebench.check([tool], {"f": expected}, f"<tool_call>{call}</tool_call>")
    assert found == CallVerdict(error == "correct", error)


def test_acebench_takes_the_first_tool_whose_name_is_in_the_expected_one():
    tools = [
        {"name": name, "parameters": {"properties": {"x": {"type": "integer"}}}}
        for name in ("get", "get_all")
    ]
    call = '<tool_call>{"name": "get_all", "arguments": {"x": 1}}</tool_call>'
    verdicts = [
        acebench.check(t, {"get_all": {"x": 1}}, call).error_type for t in (tools, tools[::-1])
    ]
    assert verdicts == ["wrong_function_name", "correct"]


def test_huge_replies_are_read():
    # A search of quadratic cost would not end within a day.
    assert read_calls("<tool_call>{" * 800_000) == []
    assert read_calls("}" * 10_000_000) == []
    assert choices.voicebench_letter("x" * 10_000_000) is None
    assert texts.answer_occurs("no", "yes " * 100_000) is False


def test_turn_taking_is_detected_in_the_models_audio():
    rate, limits = 16000, TurnLimits()
    tone = 0.3 * np.sin(np.arange(rate) / 5)
    silence = np.zeros(rate)
    answered = voiced_stretches(np.concatenate([silence, silence, tone]), rate)
    assert answered == [(pytest.approx(2.0), pytest.approx(3.0))]
    assert turn_is_taken(1.8, answered, limits) == (True, "")
    assert turn_is_taken(2.4, answered, limits)[0]  # an overlap of 0.4 s is forgiven
    assert not turn_is_taken(2.6, answered, limits)[0]
    assert turn_is_taken(3.5, answered, TurnLimits(overlap_s=2))[1] == "does not answer"
    assert not turn_is_taken(1.0, [(6.5, 7.0)], limits)[0]
    assert not turn_is_taken(1.0, [], limits)[0]
