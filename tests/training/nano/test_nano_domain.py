# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The question and answer generator of Nano."""

import json
import re

import pytest

from training.nano.domain import SPLITS, Domain, fill, variants
from training.nano.words import normalized_words, number_words, with_article


@pytest.fixture(scope="module")
def domain() -> Domain:
    return Domain()


def _texts(domain: Domain, split: str, count: int, role: str) -> set[str]:
    dialogues = (domain.dialogue(split, i) for i in range(count))
    return {m.text for d in dialogues for m in d.messages if m.role == role and m.spoken}


def test_a_dialogue_depends_on_seed_split_and_index_alone(domain: Domain) -> None:
    again, other = Domain(), Domain(seed=1)
    for split in SPLITS:
        first = [domain.dialogue(split, i).as_record() for i in range(50)]
        assert first == [again.dialogue(split, i).as_record() for i in reversed(range(50))][::-1]
        assert first != [other.dialogue(split, i).as_record() for i in range(50)]


@pytest.mark.parametrize("wording", ["valid", "test"])
def test_held_out_wordings_never_occur_in_training(domain: Domain, wording: str) -> None:
    training = {t.lower() for part in ("train", "valid", "test")
                for t in domain.questions("train", part)}  # fmt: skip
    training |= {t.lower() for t in _texts(domain, "train", 4000, "user")}
    held_out = {t.lower() for t in domain.questions(wording, "train")}
    assert len(held_out) > 1000
    assert not held_out & training


def test_validation_and_test_wordings_differ(domain: Domain) -> None:
    assert not set(domain.questions("valid", "train")) & set(domain.questions("test", "train"))


@pytest.mark.parametrize(("split", "part"), [("valid_slot", "valid"), ("test_slot", "test")])
def test_held_out_answers_occur_nowhere_in_training(domain: Domain, split: str, part: str) -> None:
    trained = _texts(domain, "train", 6000, "assistant") | set(domain.answers("train"))
    asked = _texts(domain, split, 300, "assistant")
    assert asked <= set(domain.answers(part))
    assert not asked & trained
    assert not set(domain.answers(part)) & trained


def test_words_of_held_out_answers_are_known_from_training(domain: Domain) -> None:
    known = {w for t in domain.answers("train") for w in normalized_words(t)}
    known |= {w for t in _texts(domain, "train", 6000, "assistant") for w in normalized_words(t)}
    for part in ("valid", "test"):
        assert {w for t in domain.answers(part) for w in normalized_words(t)} <= known


def test_tool_replies_of_the_test_split_are_new_where_results_vary(domain: Domain) -> None:
    training = _texts(domain, "train", 6000, "assistant")
    varied = [d for d in (domain.dialogue("test_tool", i) for i in range(200))
              if d.intent in ("weather", "clock", "battery")]  # fmt: skip
    assert len(varied) > 20
    assert not {d.messages[-1].text for d in varied} & training


def test_every_intent_has_five_training_wordings_and_two_kinds_held_out(domain: Domain) -> None:
    for name, intent in domain.intents.items():
        assert len([v for t in intent.spec["train"] for v in variants(t)]) >= 5, name
        assert intent.spec["valid"] and intent.spec["test"], name


def test_texts_are_grammatical_in_articles_capitals_and_slots(domain: Domain) -> None:
    texts = set(domain.questions("train", "train")) | set(domain.questions("test", "train"))
    texts |= set(domain.answers("train")) | {domain.read_aloud(i) for i in range(500)}
    for split in SPLITS.keys() - {"scrambled"}:
        texts |= _texts(domain, split, 300, "user") | _texts(domain, split, 300, "assistant")
    for text in texts:
        assert not re.search(r"\b[Aa] [aeiou]", text), text
        assert not re.search(r"\b[Aa]n [^aeiouh]", text), text
        assert not re.search(r"[{}()|_\d]|  ", text), text
        assert text[0].isupper() and text[-1] in ".?!", text


def test_arithmetic_is_right(domain: Domain) -> None:
    numbers = {number_words(n): n for n in range(200)}
    signs = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    checked = 0
    for text in domain.answers("train") + domain.answers("test"):
        found = re.fullmatch(r"([a-z ]+) (plus|minus|times) ([a-z ]+) is ([a-z ]+)\.", text.lower())
        if found:
            left, sign, right, result = found.groups()
            assert signs[sign](numbers[left], numbers[right]) == numbers[result], text
            checked += 1
    assert checked > 500


def test_a_second_turn_answers_about_the_row_it_names(domain: Domain) -> None:
    seen = set()
    for index in range(4000):
        dialogue = domain.dialogue("train", index)
        base, _, kind = dialogue.intent.partition("+")
        if not kind:
            continue
        seen.add(kind)
        first, second = dialogue.messages[1].text, dialogue.messages[3].text
        if kind == "repeat":
            assert first == second
        elif kind == "recall":
            assert first.split()[-1] == second.split()[-1]
        else:
            assert first != second
        if kind in ("follow_up", "correction") and base == "plus":
            sum_of = second.lower().split(" is ")[0]
            assert sum_of in dialogue.messages[2].text.lower()
    assert seen == {"repeat", "recall", "follow_up", "correction"}


def test_scrambled_questions_are_pieces_of_training_questions(domain: Domain) -> None:
    def words(text: str) -> str:
        return f" {' '.join(word.strip('.,?!') for word in text.lower().split())} "

    questions = set(domain.questions("train", "train"))
    asked = "|".join(map(words, questions))
    scrambled = [domain.dialogue("scrambled", i) for i in range(300)]
    assert {len(dialogue.messages) for dialogue in scrambled} == {1}
    texts = {dialogue.messages[0].text for dialogue in scrambled}
    assert len(texts) > 280 and not texts & questions
    for text in texts:
        assert text[0].isupper() and all(f" {word} " in asked for word in words(text).split())


def test_tool_dialogues_call_an_offered_tool_then_speak_the_result(domain: Domain) -> None:
    for index in range(200):
        dialogue = domain.dialogue("test_tool", index)
        _, call, result, reply = dialogue.messages
        body = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", call.text)
        assert body and not call.spoken
        parsed = json.loads(body[1])
        assert set(parsed["arguments"]) == set(domain.spec["tools"][parsed["name"]]["parameters"])
        assert dialogue.tools and json.loads(result.text) and reply.spoken


def test_unknown_split_is_refused(domain: Domain) -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        domain.dialogue("dev", 0)


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (19, "nineteen"), (40, "forty"), (365, "three hundred sixty five"),
     (1000, "one thousand"), (12345, "twelve thousand three hundred forty five"),
     (-7, "minus seven")],
)  # fmt: skip
def test_number_words(number: int, words: str) -> None:
    assert number_words(number) == words


def test_articles_and_templates() -> None:
    assert [with_article(n) for n in ("ant", "cow", "Orange")] == ["an ant", "a cow", "an Orange"]
    assert variants("(please |)say (a|b).") == [
        "please say a.",
        "please say b.",
        "say a.",
        "say b.",
    ]
    assert fill("{n} {x:a}. is it?", {"n": 21, "x": "owl"}) == "Twenty one an owl. Is it?"


@pytest.mark.parametrize(
    ("text", "words"),
    [("7 + 5 = 12.", "seven plus five is twelve"),
     ("It's 10:21, O.K.?", "its ten twenty one okay"),
     ("Okay! 1,000 grams", "okay one thousand grams"),
     ("Twenty-one minus 20°", "twenty one minus twenty degrees"),
     ("9-4 is 5%", "nine minus four is five percent")],
)  # fmt: skip
def test_scored_words_are_normalised(text: str, words: str) -> None:
    assert " ".join(normalized_words(text)) == words
