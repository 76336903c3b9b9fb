# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Pairs on their way into preference training: what is wrong with one is named."""

import json

import pytest

from funaudiochat.constants import AUDIO_TEMPLATE
from funaudiochat.errors import FunAudioChatError
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers.golden import TINY_A
from tests.helpers.pairs import pair, rows_of_every_kind, spoken, write_pairs, write_wav
from tests.helpers.tiny_runs import needs_llamafactory
from training.check_data import check_file

KINDS = list(rows_of_every_kind(None))


@pytest.fixture(scope="module")
def processor():
    return FunAudioChatProcessor.from_pretrained(TINY_A)


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    return write_wav(tmp_path_factory.mktemp("pairs") / "q.wav")


def test_pairs_of_every_kind_pass_the_check(tmp_path, wav, processor):
    rows = rows_of_every_kind(wav)
    summary = check_file(write_pairs(tmp_path, list(rows.values())), processor.tokenizer)
    assert summary.problems == [] and summary.rows == len(rows)
    assert summary.turns == [1, 1, 1, 1, 2, 2, 1]
    assert len(summary.question_seconds) == 3 and len(summary.answer_seconds) == 7
    (told,) = summary.warnings
    assert told.row == 1 + KINDS.index("one spoken answer") and "orpo" in told.text


def damaged(wav, **changes):
    return pair(wav, spoken("warm", 3), spoken("cold", 60)) | changes


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"chosen": None}, "chosen", "needs role and content"),
        ({"rejected": "no"}, "rejected", "needs role and content"),
        ({"chosen": {"role": "user", "content": "no"}}, "chosen.role", "'user', not assistant"),
        ({"chosen_audio": []}, "chosen_audio", "0 entries for 1 placeholders"),
        ({"rejected_audio": [json.dumps(spoken("a", 1))] * 2}, "rejected_audio", "2 entries for 1"),
        ({"chosen_audio": "x"}, "chosen_audio", "is not a list"),
        ({"chosen_audio": ["{"]}, "chosen_audio[0]", "JSON"),
        ({"rejected_audio": ['{"token": "[AU0001]", "text": "a"}']}, "rejected_audio[0].token",
         "10 times"),
        ({"chosen_audio": [json.dumps(spoken("", 3))]}, "chosen_audio[0].text", "empty"),
        ({"audio": ['{"path": "nowhere.wav"}']}, "audio[0].path", "file not found"),
        ({"audio": []}, "audio", "0 entries for 1 placeholders"),
        ({"messages": []}, "messages", "not a list of messages"),
        ({"messages": [{"role": r, "content": AUDIO_TEMPLATE} for r in ("user", "assistant")],
          "audio": ["{}", json.dumps(spoken("a", 1))]}, "messages", "chosen and rejected"),
        ({"messages": [{"role": "tool", "content": AUDIO_TEMPLATE}]}, "messages[0].role",
         "'user' or 'observation'"),
        ({"system": 3}, "system", "not a string"),
        ({"rejected_audio": [json.dumps(spoken("warm", 3))]}, "rejected", "nothing to prefer"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_pair_is_named(tmp_path, wav, changes, field, says):
    summary = check_file(write_pairs(tmp_path, [damaged(wav, **changes)]))
    found = [problem for problem in summary.problems if problem.field == field]
    assert found and says in found[0].text and found[0].row == 1


def test_a_side_that_is_too_long_is_named(tmp_path, wav, processor):
    path = write_pairs(tmp_path, [pair("hi", "left " * 90, "right")])
    (problem,) = check_file(path, processor.tokenizer, cutoff_len=60).problems
    assert problem.field == "chosen" and "cutoff_len is 60" in problem.text


def encode(processor, *rows, skip=False, cutoff_len=4096):
    """Encode pairs as LLaMA-Factory does, from the rows of a file to model inputs."""
    from types import SimpleNamespace

    from training.launch import prepare_llamafactory

    prepare_llamafactory(skip)
    from llamafactory.data import converter, loader
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.template import TEMPLATES

    from tests.helpers.tiny_recipe import DATASET_INFO

    attributes = DatasetAttr("file", dataset_name="pairs")
    attributes.join(json.loads(DATASET_INFO.read_text())["pairs"])
    arguments = SimpleNamespace(cutoff_len=cutoff_len, streaming=False, media_dir="")
    convert = converter.get_dataset_converter("sharegpt", attributes, arguments)
    rows = [convert({**row, "_row": f"pairs.jsonl, row {n}"}) for n, row in enumerate(rows, 1)]
    encoder = loader._get_dataset_processor(
        arguments, "rm", TEMPLATES["funaudiochat"], processor.tokenizer, processor
    )
    return encoder.preprocess_dataset({key: [row[key] for row in rows] for key in rows[0]})


@needs_llamafactory
@pytest.mark.parametrize("kind", KINDS)
def test_each_side_is_encoded_as_the_row_of_its_answer(processor, wav, kind):
    from tests.training.test_rows import encode as encode_row

    row = rows_of_every_kind(wav)[kind]
    encoded = encode(processor, row)
    for side in ("chosen", "rejected"):
        ids, labels = (encoded[f"{side}_{name}"][0] for name in ("input_ids", "labels"))
        learned = [i for i, label in zip(ids, labels, strict=True) if label != -100]
        assert learned == ids[-len(learned) :] == labels[-len(learned) :]
        audios = [*row["audio"], *row[f"{side}_audio"]]
        if "tools" not in row:
            whole = {**row, "messages": [*row["messages"], row[side]], "audio": audios}
            assert encode_row(processor, whole)["input_ids"][0] == ids
        carried = [encoded[name][0] or [] for name in ("audios", f"{side}_audios")]
        kept = [json.loads(entry) for entries in carried for entry in entries]
        named = [{**json.loads(entry), "row": "pairs.jsonl, row 1"} for entry in audios]
        assert kept == named
    if kind == "a call":
        assert "<tool_call>" in processor.tokenizer.decode(encoded["chosen_input_ids"][0])


@needs_llamafactory
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"chosen_audio": []}, "chosen_audio: has 0 audio entries for 1"),
        ({"audio": []}, "audio: has 0 audio entries for 1"),
        ({"rejected_audio": ["{"]}, "rejected_audio: an audio entry must be a JSON text"),
        ({"chosen": None}, "one of chosen and rejected is missing"),
        ({"messages": []}, "do not alternate"),
        ({"rejected_audio": [json.dumps(spoken("warm", 3))]}, "nothing to prefer"),
        ({"chosen": {"role": "assistant", "content": "a " * 500}, "chosen_audio": []},
         "cutoff_len is 300"),
    ],
)  # fmt: skip
def test_training_names_or_skips_a_damaged_pair(processor, wav, changes, says):
    good, bad = damaged(wav), damaged(wav, **changes)
    with pytest.raises(FunAudioChatError, match=r"pairs\.jsonl, row 2: ") as raised:
        encode(processor, good, bad, cutoff_len=300)
    assert says in str(raised.value) and "check-data" in str(raised.value)
    kept = encode(processor, good, bad, good, skip=True, cutoff_len=300)
    assert {len(column) for column in kept.values()} == {2}
    nothing = encode(processor, bad, skip=True, cutoff_len=300)
    assert nothing.keys() == kept.keys() and not any(nothing.values())
