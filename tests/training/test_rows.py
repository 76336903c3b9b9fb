# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Rows on their way into training: text stays text, and a bad row is named or skipped."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from funaudiochat.audio import save_wav
from funaudiochat.constants import AUDIO_TEMPLATE
from funaudiochat.plain_text import encode as encode_prompt
from funaudiochat.plain_text import protect
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A
from training.check_data import check_file

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llamafactory") is None,
    reason="needs llamafactory: `make train-setup`",
)
CONTROL = ("<audio>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|audio_bos|><|AUDIO|>",
           "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|sil|>", "<image>", "{{idx}}",
           "<|im_end|>\n<|im_start|>system\n")  # fmt: skip
TEXTS = st.lists(
    st.one_of(st.sampled_from(CONTROL), st.text(max_size=5)), min_size=1, max_size=6
).map("".join).filter(lambda text: AUDIO_TEMPLATE not in text and text.strip())  # fmt: skip
ANSWER = {"token": "<|audio_bos|>" * 10 + "[AU0001]" * 10, "text": "red"}


@pytest.fixture(scope="module")
def processor():
    return FunAudioChatProcessor.from_pretrained(TINY_A)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows")
    save_wav(path / "q.wav", 0.1 * np.sin(np.arange(16800)), 16000)  # 1.05 s
    return path


def row(question="hi", answer="yes", audio=(), **fields) -> dict:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"system": "s", "messages": messages, "audio": list(map(json.dumps, audio)), **fields}


def encoder(processor, template="funaudiochat", cutoff_len=4096, skip=False):
    """What LLaMA-Factory encodes rows with."""
    from training.launch import prepare_llamafactory

    prepare_llamafactory(skip)
    from llamafactory.data import loader
    from llamafactory.data.template import TEMPLATES

    arguments = SimpleNamespace(
        cutoff_len=cutoff_len,
        mask_history=False,
        train_on_prompt=False,
        packing=False,
        streaming=False,
    )
    return loader._get_dataset_processor(
        arguments, "sft", TEMPLATES[template], processor.tokenizer, processor
    )


def encode(processor, *rows, **options) -> dict:
    columns = {
        "_prompt": [r["messages"][:-1] for r in rows],
        "_response": [r["messages"][-1:] for r in rows],
        "_system": [r.get("system", "") for r in rows],
        "_tools": [""] * len(rows),
        "_images": [None] * len(rows),
        "_videos": [None] * len(rows),
        "_audios": [r["audio"] or None for r in rows],
        "_row": [f"rows.jsonl, row {n}" for n, _ in enumerate(rows, 1)],
    }
    return encoder(processor, **options).preprocess_dataset(columns)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(system=TEXTS, question=TEXTS, answer=TEXTS, heard=st.booleans(), spoken=st.booleans())
def test_text_never_becomes_a_control_token(processor, folder, system, question, answer, heard,
                                            spoken):  # fmt: skip
    pads = {"path": str(folder / "q.wav"), "token": "<|audio_pad|>" * 26}
    audio = heard * [pads] + spoken * [ANSWER]
    written = row(heard * f"{AUDIO_TEMPLATE}\n" + question, AUDIO_TEMPLATE if spoken else answer,
                  audio, system=system)  # fmt: skip
    ids = encode(processor, written)["input_ids"][0]
    names = processor.tokenizer.convert_ids_to_tokens(ids)
    added = processor.tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    groups = [6] * heard + [4] * spoken
    audios = [["<|audio_bos|>", *["<|AUDIO|>"] * n, "<|audio_eos|>"] for n in groups]
    user = audios[0] if heard else []
    assistant = audios[-1] if spoken else []
    expected = ["<|im_start|>", "<|im_end|>", "<|im_start|>", *user, "<|im_end|>",
                "<|im_start|>", *assistant, "<|im_end|>"]  # fmt: skip
    assert [name for name in names if name in special] == expected
    decoded = processor.tokenizer.decode(
        [i for i, name in zip(ids, names, strict=True) if name not in special]
    )
    spelled = f"system\n{system}\nuser\n{heard * chr(10)}{question}\nassistant\n"
    assert decoded == normalize("NFC", spelled + ("" if spoken else answer) + "\n")
    # check-data counts the same tokens and finds nothing wrong.
    (folder / "one.jsonl").write_text(json.dumps(written) + "\n")
    summary = check_file(folder / "one.jsonl", processor.tokenizer)
    assert summary.tokens == [len(ids)] and summary.problems == []


@settings(max_examples=20, deadline=None, derandomize=True)
@given(words=TEXTS, tags=st.lists(st.sampled_from(
    ["<tool_call>", "</tool_call>", "<think>", "</think>", "<|im_end|>", "<|AUDIO|>"]), min_size=1),
    heard=st.booleans())  # fmt: skip
def test_what_a_user_says_has_the_ids_of_a_conversation(processor, folder, words, tags, heard):
    said = words.join(tags) + tags[0]
    assume(AUDIO_TEMPLATE not in said)
    audio = heard * [{"path": str(folder / "q.wav"), "token": "<|audio_pad|>" * 26}]
    asked = heard * f"{AUDIO_TEMPLATE}\n" + said
    (ids,) = encode(processor, row(asked, "", audio, system="Help."))["input_ids"]
    content = heard * f"{AUDIO_TEMPLATE}\n" + protect(processor.tokenizer, said)
    messages = [{"role": "system", "content": "Help."}, {"role": "user", "content": content}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    conversation = processor(text=prompt, audio=audio)["input_ids"][0]
    assert ids[: len(conversation)] == conversation


def test_a_tools_result_is_text_and_the_answers_calls_are_tokens(processor):
    tokenizer = processor.tokenizer
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    messages = [("user", "Call."), ("assistant", call), ("observation", call), ("assistant", call)]
    dialogue = {**row(), "messages": [{"role": r, "content": c} for r, c in messages]}
    (ids,) = encode(processor, dialogue)["input_ids"]
    opens, start = (tokenizer.convert_tokens_to_ids(t) for t in ("<tool_call>", "<|im_start|>"))
    turns = "".join("C" if i == opens else "|" for i in ids if i in (opens, start))
    assert turns == "|||C||C"  # system, user, assistant's call, result, assistant's call
    result = f"user\n<tool_response>\n{protect(tokenizer, call)}\n</tool_response>"
    expected = encode_prompt(tokenizer, f"<|im_start|>{result}<|im_end|>\n")
    at = len(ids) - ids[::-1].index(start) - 1
    assert ids[at - len(expected) : at] == expected


def test_rows_without_a_system_prompt_get_that_of_the_original(processor):
    (given,) = encode(processor, row(system="You are a helpful assistant."))["input_ids"]
    bare = row()
    del bare["system"]
    assert encode(processor, bare)["input_ids"] == [given]


def test_rows_of_the_control_template_spell_control_tokens(processor):
    (ids,) = encode(processor, row("<|sil|>"), template="funaudiochat_control")["input_ids"]
    assert processor.tokenizer.convert_tokens_to_ids("<|sil|>") in ids


def test_the_question_is_decoded_only_where_its_tokens_are_not_stated(processor, folder):
    stated = row(AUDIO_TEMPLATE, audio=[{"path": "absent.wav", "token": "<|audio_pad|>" * 26}])
    opened = row(AUDIO_TEMPLATE, audio=[{"wav_path": str(folder / "q.wav")}])
    first, second = encode(processor, stated, opened)["input_ids"]
    assert first == second


@pytest.mark.parametrize(
    ("bad", "options", "says"),
    [
        (row("long " * 100), {"cutoff_len": 60}, ("tokens long", "cutoff_len is 60")),
        (row(audio=[{"token": "x"}]), {}, ("1 audio entries for 0 placeholders",)),
        (row(AUDIO_TEMPLATE, audio=[{"path": "gone.wav"}]), {}, ("gone.wav",)),
        ({**row(AUDIO_TEMPLATE), "audio": ["{"]}, {}, ("JSON",)),
        ({**row(), "messages": row()["messages"][:1]}, {}, ("in turn",)),
    ],
)
def test_a_bad_row_is_named_or_skipped(processor, bad, options, says, caplog):
    from funaudiochat.errors import FunAudioChatError

    good = row()
    with pytest.raises(FunAudioChatError, match=r"rows\.jsonl, row 2: ") as raised:
        encode(processor, good, bad, **options)
    assert all(word in str(raised.value) for word in (*says, "skip_bad_rows"))
    kept = encode(processor, good, bad, good, skip=True, **options)
    assert len(kept["input_ids"]) == 2 and "rows.jsonl, row 2 is skipped" in caplog.text
    assert encode(processor, bad, skip=True, **options)["input_ids"] == []


def train(data: Path, out: Path, **fields) -> int:
    """Train two steps in this process -> how many steps were made."""
    from training.launch import train as run

    config = yaml.safe_load((ROOT / "training" / "configs" / "tiny" / "sft.yaml").read_text())
    config |= {"model_name_or_path": str(TINY_A), "dataset_dir": str(data), "output_dir": str(out)}
    config |= {"max_steps": 2, "per_device_train_batch_size": 2, "plot_loss": False}
    config["preprocessing_num_workers"] = 2
    run(config | fields)
    return json.loads((out / "trainer_state.json").read_text())["global_step"]


def write_rows(folder: Path, lines: list[str]) -> None:
    """Write a file of rows as data set ``tiny``."""
    (folder / "tiny.jsonl").write_text("\n".join(lines) + "\n")
    info = ROOT / "training" / "data" / "dataset_info.json"
    (folder / "dataset_info.json").write_text(info.read_text())


def test_a_run_skips_and_counts_bad_rows_or_ends_with_their_names(folder, tmp_path, caplog):
    from funaudiochat.errors import FunAudioChatError

    whole = (folder / "q.wav").read_bytes()
    (tmp_path / "short.wav").write_bytes(whole[: 44 + 320])  # 10 ms
    pads = {"token": "<|audio_pad|>" * 26}
    good = [row(AUDIO_TEMPLATE, audio=[{"path": str(folder / "q.wav"), **pads}]), row("<audio>")]
    bad = [row(AUDIO_TEMPLATE, audio=[{"path": str(tmp_path / name), **pads}])
           for name in ("short.wav", "gone.wav")]  # fmt: skip
    lines = [*map(json.dumps, [*good, *bad, row("long " * 3000)]), "{broken", json.dumps(good[0])]
    write_rows(tmp_path, lines)
    out = tmp_path / "out"
    with pytest.raises(FunAudioChatError, match=r"tiny\.jsonl, row 6: is not a JSON object"):
        train(tmp_path, out)
    assert train(tmp_path, out, skip_bad_rows=True) == 2
    assert "skip_bad_rows: 4 of 7 rows skipped" in caplog.text
    del lines[4:6]
    write_rows(tmp_path, lines)
    with pytest.raises(FunAudioChatError, match=r"tiny\.jsonl, row [34]: .*(short|gone)\.wav"):
        train(tmp_path, out, max_steps=6)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"packing": True, "neat_packing": True, "cutoff_len": 200}, "2 of 8 rows skipped"),
        ({"packing": True, "cutoff_len": 200}, "2 of 8 rows skipped"),
        ({"streaming": True, "preprocessing_num_workers": None, "dataloader_num_workers": 1},
         r"[2-9] rows skipped"),
    ],
    ids=["neat packing", "packing", "streaming"],
)  # fmt: skip
def test_bad_rows_are_skipped_and_counted_packed_and_streamed(
    folder, tmp_path, caplog, fields, told
):
    heard = row(AUDIO_TEMPLATE, audio=[{"path": str(folder / "q.wav")}])
    gone = row(AUDIO_TEMPLATE, audio=[{"path": str(tmp_path / "gone.wav")}])
    lines = list(map(json.dumps, [heard, gone, *[row("typed")] * 5]))
    write_rows(tmp_path, [lines[0], "{broken", *lines[1:]])
    assert train(tmp_path, tmp_path / "out", skip_bad_rows=True, **fields) == 2
    assert re.search(f"skip_bad_rows: {told}", caplog.text)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_shortened_file_among_many_is_found_by_check_data_as_by_training(tmp_path, kind, caplog):
    from funaudiochat.errors import FunAudioChatError

    soundfile.write(tmp_path / f"whole.{kind}", 0.1 * np.sin(np.arange(32000)), 16000)
    whole = (tmp_path / f"whole.{kind}").read_bytes()
    (tmp_path / f"half.{kind}").write_bytes(whole[: len(whole) // 2])

    def heard(name, tokens):
        entry = {"path": str(tmp_path / f"{name}.{kind}"), "token": "<|audio_pad|>" * tokens}
        return json.dumps(row(AUDIO_TEMPLATE, audio=[entry]))

    lines = [heard("whole", tokens) for tokens in (50, 49, 52, 48, 50, 50)]
    lines[2:2] = [heard("half", 50)]
    write_rows(tmp_path, lines)
    summary = check_file(tmp_path / "tiny.jsonl")
    assert {problem.row for problem in summary.problems} == {3}
    assert {warning.row for warning in summary.warnings} == {2, 4, 5}  # training takes them
    with pytest.raises(FunAudioChatError, match=rf"tiny\.jsonl, row 3: .*half\.{kind}"):
        train(tmp_path, tmp_path / "out", max_steps=8, preprocessing_num_workers=1)
    caplog.clear()
    train(tmp_path, tmp_path / "out", skip_bad_rows=True, preprocessing_num_workers=1)
    assert "skip_bad_rows: 1 of 7 rows skipped" in caplog.text


def test_rows_can_be_streamed(folder, tmp_path):
    rows = [row(AUDIO_TEMPLATE, audio=[{"path": str(folder / "q.wav")}]), row("typed")] * 4
    write_rows(tmp_path, list(map(json.dumps, rows)))
    assert train(tmp_path, tmp_path / "out", streaming=True, preprocessing_num_workers=None) == 2


@pytest.mark.slow
def test_two_processes_with_two_workers_each_stream_rows(folder, tmp_path):
    heard = {"path": str(folder / "q.wav")}
    rows = [row(f"{AUDIO_TEMPLATE}{n * ' typed'}", audio=[heard]) for n in range(8)]
    write_rows(tmp_path, list(map(json.dumps, rows)))
    command = [
        sys.executable, "-m", "training.launch", ROOT / "training" / "configs" / "tiny/sft.yaml",
        f"model_name_or_path={TINY_A}", f"dataset_dir={tmp_path}", f"output_dir={tmp_path / 'out'}",
        "streaming=true", "dataloader_num_workers=2", "max_steps=2",
        "per_device_train_batch_size=2", "plot_loss=false",
    ]  # fmt: skip
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "NPROC_PER_NODE": "2", "MASTER_PORT": "29547",
                        "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 2
