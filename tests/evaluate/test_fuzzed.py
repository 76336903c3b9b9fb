# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A thousand generated answers per rule, with verdicts independent of this toolkit's scorers.

The verdicts follow from how each answer was generated or, for ACEBench, are those of another
implementation of its checker; each file says which. They complement the few recorded verdicts of
the original scorers: a change of any of them is a change of the rule.
"""

import json

import pytest

from evaluate.data import given_choices
from evaluate.scorers import acebench, choices, judge_replies, mmau_pro
from tests.helpers.runs import GOLDEN


def ace(schema, expected, given):
    tool = {"name": "f", "parameters": {"properties": {"x": schema}}}
    call = json.dumps({"name": "f", "arguments": {"x": given}})
    return acebench.check([tool], {"f": {"x": expected}}, f"<tool_call>{call}</tool_call>").valid


def mmsu(columns, answer, reply):
    left = given_choices(columns)
    options = {f"choice_{letter}": text for letter, text in zip("abcd", left, strict=False)}
    record = {**options, "answer_gt": answer, "response": reply}
    return choices.mmsu_reference_verdicts([record])[0]


RULES = {
    "fuzzed_mmau_string_match": choices.mmau_match,
    "fuzzed_mmsu_letters": mmsu,
    "fuzzed_judgments": judge_replies.is_judged_correct,
    "fuzzed_acebench_values": ace,
    "fuzzed_mmau_pro_instructions": lambda task, k, reply: mmau_pro.follows(task, k, "?", reply),
}


@pytest.mark.parametrize("name", RULES)
def test_a_thousand_answers_have_the_verdicts_of_the_rule(name):
    cases = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    wrong = [case for case in cases if RULES[name](*case[:-1]) != case[-1]]
    assert len(cases) == 1000 and wrong == []
