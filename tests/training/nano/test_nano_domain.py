# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The question and answer generator of Nano."""

import json
import re
from collections import defaultdict
from pathlib import Path
from string import ascii_lowercase

import pytest

from training.nano.data import answer_parts
from training.nano.dialogue_writer import CONVERSATION_TURNS
from training.nano.domain import SPLITS, Domain, fill, spoken_form
from training.nano.intents import TRAINING, Dialogue
from training.nano.rows import tool_definition, typed_rows
from training.nano.sentences import open_text
from training.nano.wordings import PARTS, holds_keys, variants
from training.nano.words import normalized_words, number_words, with_article

ROWS = 6  # of an intent whose every wording is filled with; there are three million questions


@pytest.fixture(scope="module")
def domain() -> Domain:
    return Domain()


@pytest.fixture(scope="module")
def drawn(domain: Domain) -> dict[str, list[Dialogue]]:
    """Some dialogues of every split."""
    counts = {split: 300 for split in SPLITS} | {"train": 5000, "conversation": 1000}
    return {split: [domain.dialogue(split, i) for i in range(n)] for split, n in counts.items()}


def _texts(dialogues: list[Dialogue], role: str) -> set[str]:
    return {m.text for d in dialogues for m in d.messages if m.role == role and m.spoken}


def _asked(domain: Domain, *parts: str) -> set[str]:
    return {spoken_form(text) for part in parts for text in domain.questions(part, "train", ROWS)}


def test_a_dialogue_depends_on_seed_split_and_index_alone(domain: Domain) -> None:
    again, other = Domain(), Domain(seed=1)
    for split in SPLITS:
        first = [domain.dialogue(split, i).as_record() for i in range(50)]
        assert first == [again.dialogue(split, i).as_record() for i in reversed(range(50))][::-1]
        assert first != [other.dialogue(split, i).as_record() for i in range(50)]


@pytest.mark.parametrize("wording", ["valid", "test"])
def test_held_out_wordings_never_occur_in_training(
    domain: Domain, drawn: dict[str, list[Dialogue]], wording: str
) -> None:
    training = _asked(domain, "train")
    for split in ("train", "conversation"):
        training |= set(map(spoken_form, _texts(drawn[split], "user")))
    held_out = _asked(domain, wording)
    assert len(held_out) > 1000
    assert not held_out & training


def test_validation_and_test_wordings_differ(domain: Domain) -> None:
    assert not _asked(domain, "valid") & _asked(domain, "test")


def test_every_intent_has_thirty_training_wordings_and_two_kinds_held_out(domain: Domain) -> None:
    turns = domain.spec["turns"].items()
    wordings = {n: i.wordings for n, i in domain.intents.items()}
    wordings |= {name: turn["wordings"] for name, turn in turns}
    assert len(wordings) > 140
    for name, parts in wordings.items():
        said = [spoken_form(wording) for part in PARTS for wording in parts[part]]
        assert len(set(map(spoken_form, parts["train"]))) >= 30, name
        assert list(parts["valid"]) and list(parts["test"]), name
        assert len(said) == len(set(said)), name


def test_a_question_has_one_answer_and_one_intent_answers_it(domain: Domain) -> None:
    answers = defaultdict(set)
    for intent in domain.intents.values():
        for part in PARTS:
            for wording in intent.wordings[part]:
                for row in intent.rows["train"][:ROWS]:
                    question = spoken_form(fill(wording, row))
                    answer = intent.tool or fill(intent.spec["answer"], row)
                    answers[question].add(answer)
    assert {q: a for q, a in answers.items() if len(a) > 1} == {}


@pytest.mark.parametrize(("split", "part"), [("valid_slot", "valid"), ("test_slot", "test")])
def test_held_out_answers_occur_nowhere_in_training(
    domain: Domain, drawn: dict[str, list[Dialogue]], split: str, part: str
) -> None:
    trained = set(domain.answers("train"))
    for name in TRAINING:
        trained |= _texts(drawn[name], "assistant")
    asked = _texts(drawn[split], "assistant")
    assert asked <= set(domain.answers(part))
    assert not asked & trained
    assert not set(domain.answers(part)) & trained


def test_answers_are_short_and_hold_their_keys(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    for split in SPLITS:
        for dialogue in drawn[split]:
            for message in dialogue.messages:
                assert holds_keys(message.text, message.keys), message
                if message.intent:
                    assert message.role == "user"
    for intent in domain.intents.values():
        if not intent.tool and not intent.name.startswith("read_"):
            answer = intent.answer(intent.rows["train"][0]).text
            assert 2 <= len(answer.split()) <= 15, answer
    assert holds_keys("It's Paris!", ["paris"]) and not holds_keys("Parish.", ["paris"])


def test_words_of_held_out_answers_are_known_from_training(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    known = {w for t in domain.answers("train") for w in normalized_words(t)}
    known |= {w for t in _texts(drawn["train"], "assistant") for w in normalized_words(t)}
    known |= {w for i in range(2500) for w in normalized_words(domain.read_aloud(i))}
    for part in ("valid", "test"):
        assert {w for t in domain.answers(part) for w in normalized_words(t)} <= known


def test_tool_replies_of_the_test_split_are_new_where_results_vary(
    drawn: dict[str, list[Dialogue]],
) -> None:
    training = _texts(drawn["train"] + drawn["conversation"], "assistant")
    varied = [d for d in drawn["test_tool"] if d.intent in ("weather", "clock", "battery")]
    assert len(varied) > 20
    assert not {d.messages[-1].text for d in varied} & training


def test_texts_are_grammatical_in_articles_capitals_and_slots(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    texts = {t for part in PARTS for t in domain.questions(part, "train", 2)}
    texts |= set(domain.answers("train")) | {domain.read_aloud(i) for i in range(500)}
    for split in SPLITS.keys() - {"scrambled"}:
        for role in ("user", "assistant"):
            whole = [d for d in drawn[split] if not any(m.cut for m in d.messages)]
            texts |= _texts(whole, role)
    for text in texts:
        assert not re.search(r"(\ba|^A) (?!us|um|uh|er,)[aeiou]", text), text
        assert not re.search(r"(\ba|^A)n [^aeiouhAEIOU]", text), text
        assert not re.search(r"[{}()|_\d]|  |,,|please, please", text), text
        assert text[0].isupper() and text[-1] in ".?!", text
        for sign in ".?!":
            assert f"{sign}," not in text and f"{sign}{sign}" not in text, text


def test_arithmetic_is_right(domain: Domain) -> None:
    numbers = {number_words(n): n for n in range(200)}
    signs = {
        "plus": int.__add__, "minus": int.__sub__, "times": int.__mul__,
        "divided by": int.__floordiv__,
    }  # fmt: skip
    checked = 0
    for text in domain.answers("train") + domain.answers("test"):
        sign = "plus|minus|times|divided by"
        found = re.fullmatch(rf"([a-z ]+) ({sign}) ([a-z ]+) is ([a-z ]+)\.", text.lower())
        if found:
            left, sign, right, result = found.groups()
            assert signs[sign](numbers[left], numbers[right]) == numbers[result], text
            checked += 1
    assert checked > 10_000


def test_a_second_turn_answers_about_the_row_it_names(drawn: dict[str, list[Dialogue]]) -> None:
    seen = set()
    for dialogue in drawn["train"]:
        questions = [m for m in dialogue.messages if m.role == "user"]
        if len(questions) == 1:
            continue
        base, _, kind = questions[1].intent.rpartition("+")
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


def test_conversations_have_two_to_eight_questions_and_some_interrupted_answers(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    lengths, kinds, cuts = set(), set(), []
    for dialogue in drawn["conversation"] + drawn["test_conversation"]:
        messages = dialogue.messages
        questions = [m.intent for m in messages if m.role == "user"]
        lengths.add(len(questions))
        kinds |= {name.rpartition("+")[2] for name in questions}
        assert (
            dialogue.intent.replace("+", " ").split()
            == " ".join(questions).replace("+", " ").split()
        )
        assert messages[-1].role == "assistant" and not messages[-1].cut
        for message, then in zip(messages, messages[1:], strict=False):
            if message.cut:
                cuts.append(message.text)
                assert message.role == "assistant" and then.role == "user"
            assert (message.role, then.role) != ("user", "user")
    assert lengths == set(range(CONVERSATION_TURNS[0], CONVERSATION_TURNS[1] + 1)) == {*range(2, 9)}
    assert {"repeat", "recall", "follow_up", "correction", "weather", "distress"} <= kinds
    assert len(cuts) > 100
    replies = [i.spec["reply"].split("{")[0] for i in domain.intents.values() if i.tool]
    starts = "\n".join(["", *domain.answers("train"), ""])
    for text in cuts[:60]:
        of_a_reply = any(text.startswith(r) or r.startswith(text) for r in replies)
        assert f"\n{text} " in starts or of_a_reply, text


def test_an_interrupted_answer_is_history_and_never_learned(
    drawn: dict[str, list[Dialogue]], tmp_path
) -> None:
    dialogue = next(d for d in drawn["conversation"] if any(m.cut for m in d.messages))
    cut = next(m.text for m in dialogue.messages if m.cut)
    rows = [row for _, row in typed_rows(dialogue.as_record(), {})]
    learned = [row["messages"][-1]["content"] for row in rows]
    history = [m["content"] for row in rows for m in row["messages"][:-1]]
    assert cut in history and cut not in learned


def test_training_questions_are_partly_hesitant_and_corrected(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    said = {spoken_form(d.messages[0].text): d for d in drawn["train"] if d.intent == "capital"}
    patterns = {re.compile(re.sub(r"\\{country(:s)?\\}", ".+", re.escape(spoken_form(w))))
                for w in domain.intents["capital"].wordings["train"]}  # fmt: skip
    odd = [text for text in said if not any(p.fullmatch(text) for p in patterns)]
    assert 0.1 < len(odd) / len(said) < 0.4
    countries = [row["country"] for row in domain.intents["capital"].rows["train"]]
    slips = 0
    for dialogue in said.values():
        question, answer = dialogue.messages[0].text, dialogue.messages[1].text
        named = sorted((question.rfind(c), c) for c in countries if c in question)
        slips += len(named) > 1
        assert named[-1][1] in answer, question
    assert slips


def test_scrambled_questions_are_pieces_of_training_questions(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    known = {
        word
        for intent in domain.intents.values()
        for wording in intent.wordings["train"]
        for word in spoken_form(re.sub(r"\{.*?\}", " ", wording)).split()
    }
    known |= {
        word
        for intent in domain.intents.values()
        for row in intent.rows["train"]
        for value in row.values()
        if not isinstance(value, dict)
        for word in spoken_form(number_words(value) if isinstance(value, int) else value).split()
    } | {"an", "hours"}
    assert {len(dialogue.messages) for dialogue in drawn["scrambled"]} == {1}
    texts = _texts(drawn["scrambled"], "user")
    assert len(texts) > 280
    for text in texts:
        assert text[0].isupper()
        assert {
            word.removesuffix("'s").rstrip("'") for word in spoken_form(text).split()
        } <= known | {word.removesuffix("'s").rstrip("'") for word in known}, text


def _call(dialogue: Dialogue) -> list[dict]:
    found = [re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", m.text) for m in dialogue.messages]
    return [json.loads(call[1]) for call in found if call]


def test_calls_are_valid_and_only_of_tools_that_are_offered(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    kinds = {"string": str, "integer": int}
    called, refused = set(), set()
    for split in SPLITS:
        for dialogue in drawn[split]:
            assert set(dialogue.tools) <= set(domain.spec["tools"])
            assert len(dialogue.tools) <= 3 and len(set(dialogue.tools)) == len(dialogue.tools)
            for call in _call(dialogue):
                assert call["name"] in dialogue.tools
                schema = json.loads(tool_definition(call["name"]))["parameters"]
                assert set(schema["required"]) <= set(call["arguments"]) <= {*schema["properties"]}
                for name, value in call["arguments"].items():
                    assert type(value) is kinds[schema["properties"][name]["type"]]
                called.add(call["name"])
            first = domain.intents.get(dialogue.messages[0].intent)
            if first and first.tool and first.tool not in dialogue.tools:
                answer = dialogue.messages[1]
                assert answer.cut or answer.text == first.spec["without"]
                refused.add(first.tool)
    assert called == refused == set(domain.spec["tools"])


def test_questions_outside_the_domain_are_refused_and_call_nothing(
    domain: Domain, drawn: dict[str, list[Dialogue]], tmp_path
) -> None:
    outside = [i for n, i in domain.intents.items() if n.startswith("outside_")]
    questions = {spoken_form(q) for i in outside for q in i.wordings["train"]}
    refusals = {i.spec["answer"] for i in outside}
    assert len(outside) > 25 and len(questions) > 1000 and len(refusals) > 8
    offered = 0
    for dialogue in drawn["train"]:
        if dialogue.messages[0].intent.startswith("outside_"):
            assert dialogue.messages[1].text in refusals and not _call(dialogue)
            offered += bool(dialogue.tools)
    assert offered > 50  # not even if there are tools
    for dialogue in drawn["test_no_tool"]:
        assert not _call(dialogue) and dialogue.messages[-1].keys == ["cannot"]
        rows = [row for _, row in typed_rows(dialogue.as_record(), {})]
        assert not any("<tools>" in row["system"] and dialogue.intent == "" for row in rows)
        assert all("<tool_call>" not in m["content"] for row in rows for m in row["messages"])


def test_tool_dialogues_call_then_speak_the_result(drawn: dict[str, list[Dialogue]]) -> None:
    for dialogue in drawn["test_tool"]:
        _, call, result, reply = dialogue.messages
        assert _call(dialogue) and not call.spoken
        assert dialogue.tools and json.loads(result.text) and reply.spoken


def test_some_calls_in_training_fail_and_the_reply_says_so(
    domain: Domain, drawn: dict[str, list[Dialogue]]
) -> None:
    failure = domain.spec["tool_failure"]
    called = [d.messages for d in drawn["train"] if len(d.messages) == 4 and _call(d)]
    failed = [m for m in called if json.loads(m[2].text) in failure["results"]]
    assert 0.04 < len(failed) / len(called) < 0.12
    assert all((m in failed) == (m[3].text == failure["reply"]) for m in called)
    tested = _texts(drawn["test_tool"] + drawn["test_conversation"], "assistant")
    assert failure["reply"] not in tested


def test_coffee_orders_have_the_slots_of_their_words(drawn: dict[str, list[Dialogue]]) -> None:
    orders = [d for d in drawn["train"] if d.intent == "order_coffee" and _call(d)]
    assert len(orders) > 50
    for dialogue in orders:
        (call,) = _call(dialogue)
        text = re.sub(r" (um|uh|er|hmm),", "", dialogue.messages[0].text).lower()
        assert call["name"] == "order_coffee" and "coffeeDrink" in call["arguments"]
        assert all(value in text for value in call["arguments"].values()), text


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


def test_open_text_is_read_aloud_and_its_held_out_sentences_are_not_trained_on(
    domain: Domain, tmp_path: Path
) -> None:
    path = tmp_path / "open.txt"
    path.write_text(
        "".join(f"The {a} {b} saw it.\n" for a in ascii_lowercase for b in ascii_lowercase)
    )
    counts = dict.fromkeys(SPLITS, 2)
    parts = answer_parts(domain, counts, 0, [path])
    read = {part: {t for t, p in parts.items() if p == part} for part in set(parts.values())}
    held_out = set(open_text([path], held_out=True))
    assert read["open_test"] == held_out and len(held_out) > 2
    assert set(open_text([path])) <= read["train"]
    assert answer_parts(domain, counts, 0).keys() == parts.keys() - held_out - set(
        open_text([path])
    )
