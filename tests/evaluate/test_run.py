# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Interrupted, sharded and resumed runs; batches; items that cannot be run."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import soundfile

from evaluate.benchmarks import BENCHMARKS, select
from evaluate.core import LayoutError
from evaluate.data import RowError, find_file
from evaluate.local_model import LocalModel
from evaluate.records import appending, subset_folder
from evaluate.run import inspect_subset, parse_shard
from funaudiochat.errors import FunAudioChatError
from tests.helpers import ROOT
from tests.helpers.runs import ask, rows


class Stops:
    """A model that is interrupted after some batches."""

    def __init__(self, model, batches):
        self.model, self.left = model, batches
        self.description, self.speech_description = model.description, model.speech_description

    def answer(self, prompts):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.model.answer(prompts)


@pytest.mark.parametrize("name", ["voicebench/commoneval", "ultraeval-audio/trivia_qa"])
def test_a_resumed_run_equals_an_uninterrupted_one(name, model, mini, tmp_path):
    ask(name, model, mini, tmp_path / "whole", batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        ask(name, Stops(model, 1), mini, tmp_path / "stopped", batch_size=1)
    ((benchmark, subset),) = select(name)
    file = subset_folder(tmp_path / "stopped", benchmark.name, subset.name) / "predictions.jsonl"
    with file.open("a") as torn:
        torn.write('{"id": "1", "text": "ha')
    outcome = ask(name, model, mini, tmp_path / "stopped", batch_size=1)
    assert (outcome.attempted, outcome.skipped, outcome.failed) == (2, 1, 0)
    assert rows(tmp_path / "stopped", name) == rows(tmp_path / "whole", name)
    assert len(file.read_text().splitlines()) == 3
    assert ask(name, model, mini, tmp_path / "stopped").attempted == 0


@pytest.mark.slow
def test_a_killed_process_loses_no_item_and_runs_none_twice(model, folders, mini, tmp_path):
    command = [
        sys.executable,
        "-m",
        "funaudiochat.cli",
        "eval",
        "infer",
        "--benchmark",
        "vstyle/en",
        "--data",
        mini,
        "--out",
        tmp_path / "run",
        "--model-path",
        folders[0],
        "--tts-path",
        folders[1],
        "--device",
        "cpu",
        "--max-new-tokens",
        "6",
        "--batch-size",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([str(word) for word in command], env=environment)
    file = tmp_path / "run" / "vstyle" / "en" / "predictions.jsonl"
    deadline = time.monotonic() + 300
    while not file.exists() or file.read_bytes().count(b"\n") < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([str(word) for word in command], env=environment, check=True)
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert sorted(ids) == sorted(set(ids)) and len(ids) == 16
    ask("vstyle/en", model, mini, tmp_path / "whole", batch_size=8)
    assert rows(tmp_path / "run", "vstyle/en") == rows(tmp_path / "whole", "vstyle/en")


def test_shards_make_up_the_whole(model, mini, tmp_path):
    ask("voicebench/advbench", model, mini, tmp_path / "whole")
    for share in ("2/2", "1/2"):
        ask("voicebench/advbench", model, mini, tmp_path / "shares", shard=parse_shard(share))
    assert rows(tmp_path / "shares", "voicebench/advbench") == rows(
        tmp_path / "whole", "voicebench/advbench"
    )
    assert ask("voicebench/advbench", model, mini, tmp_path / "shares").attempted == 0
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(FunAudioChatError, match="--shard"):
            parse_shard(wrong)


@pytest.mark.parametrize(
    "name", ["openaudiobench/llama_questions", "ultraeval-audio/web_questions"]
)
def test_a_batch_of_mixed_lengths_gives_what_single_runs_give(name, model, mini, tmp_path):
    ask(name, model, mini, tmp_path / "batch", batch_size=3)
    ask(name, model, mini, tmp_path / "single", batch_size=1)
    assert rows(tmp_path / "batch", name) == rows(tmp_path / "single", name)
    ((benchmark, subset),) = select(name)
    for row in rows(tmp_path / "batch", name):
        assert row["text"] is not None and row["n_text_tokens"]
        if not benchmark.speech:
            continue
        audio = [
            soundfile.read(
                subset_folder(tmp_path / run, benchmark.name, subset.name) / row["audio_out"]
            )[0]
            for run in ("batch", "single")
        ]
        assert len(audio[0]) == 960 * row["n_speech_codes"]
        assert abs(audio[0] - audio[1]).max() < 1e-3


def test_bad_items_are_recorded_with_their_reason_and_can_be_asked_again(model, mini, tmp_path):
    data = tmp_path / "data"
    folder = data / "SpeechFCEval" / "SpeechFC_BFCL_Single"
    shutil.copytree(mini / "SpeechFCEval" / "SpeechFC_BFCL_Single", folder)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    broken = [
        "{no json",
        '{"utterance": "x"}',
        json.dumps({**json.loads(lines[0]), "ground_truth": "[", "file_name": "wav/0.wav"}),
        '["a list"]',
    ]
    (folder / "metadata.jsonl").write_text("\n".join([*lines, *broken]))
    hidden = (folder / "wav" / "1.wav").rename(tmp_path / "1.wav")
    (folder / "wav" / "0.wav").write_bytes(b"RIFF no audio")
    name = "speech-fc/SpeechFC_BFCL_Single"
    found = inspect_subset(*select(name)[0], data)
    assert (found["items"], found["broken_rows"], found["missing_sounds"]) == (6, 4, 1)
    assert "metadata.jsonl, line 3: not valid JSON" in found["first_problem"]
    outcome = ask(name, model, data, tmp_path / "run")
    assert (outcome.attempted, outcome.failed) == (6, 6)
    reasons = [row["error"] for row in rows(tmp_path / "run", name)]
    for reason, word in zip(
        reasons,
        (
            "not an audio file",
            "audio file not found",
            "not valid JSON",
            "'file_name'",
            "line 5",
            "not a JSON object",
        ),
        strict=True,
    ):
        assert word in reason
    hidden.rename(folder / "wav" / "1.wav")
    # An item whose audio changed, here from none, is a new item; the others are not run again.
    assert ask(name, model, data, tmp_path / "run").attempted == 1
    assert ask(name, model, data, tmp_path / "run").attempted == 0
    again = ask(name, model, data, tmp_path / "run", retry_errors=True)
    assert (again.attempted, again.failed) == (5, 5)
    assert rows(tmp_path / "run", name)[1]["error"] is None


def test_other_settings_ask_again(model, mini, tmp_path):
    ask("mmsu", model, mini, tmp_path)
    assert ask("mmsu", model, mini, tmp_path, seed=1).attempted == 2
    assert len(rows(tmp_path, "mmsu")) == 2


def test_written_answers_do_not_depend_on_the_voice_of_spoken_ones(model, folders, mini, tmp_path):
    """`--benchmark all` loads a detokenizer; a text benchmark does not."""
    for name in ("voicebench/commoneval", "ultraeval-audio/trivia_qa"):
        ask(name, model, mini, tmp_path, limit=1)
    mute = LocalModel(folders[0], None, device="cpu", max_new_tokens=6)
    assert ask("voicebench/commoneval", mute, mini, tmp_path, limit=1).attempted == 0
    assert ask("ultraeval-audio/trivia_qa", mute, mini, tmp_path, limit=1).attempted == 1


def test_the_last_settings_count_whatever_file_their_rows_are_in(model, mini, tmp_path):
    """Shards sort before whole files by name, and a failure does not revive an old answer."""
    name = "voicebench/commoneval"
    ask(name, model, mini, tmp_path)
    old = {row["settings_hash"] for row in rows(tmp_path, name)}
    shares = {"seed": 1, "shard": parse_shard("1/1")}
    for share in ("1/2", "2/2"):
        shares["shard"] = parse_shard(share)
        assert ask(name, model, mini, tmp_path, **shares).attempted > 0
        assert ask(name, model, mini, tmp_path, **shares).attempted == 0
    assert not old & {row["settings_hash"] for row in rows(tmp_path, name)}
    broken = Stops(model, 1)
    broken.answer = lambda prompts: ["out of memory" for _ in prompts]
    assert ask(name, broken, mini, tmp_path, seed=2).failed == 3
    assert {row["error"] for row in rows(tmp_path, name)} == {"out of memory"}


def test_data_files_are_noted_by_their_hash(mini):
    found = inspect_subset(*select("mmau")[0], mini)
    path = mini / "MMAU" / "mmau-test-mini.json"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["files_sha256"] == {str(path): digest}


@pytest.mark.parametrize(
    ("name", "file", "change", "word"),
    [
        ("mmau", "MMAU/mmau-test-mini.json", {"choices": []}, "entry 1.*needs choices"),
        ("mmsu", "MMSU/mmsu.jsonl", {"choice_a": None}, "line 1.*needs choices"),
        ("vstyle/en", "VStyle/en/metadata.jsonl", {"ability": "x/y"}, "line 1: ability 'x/y'"),
        (
            "duplex/trivia_qa",
            "duplex/trivia_qa/metadata.jsonl",
            {"answer": None},
            "line 1: column 'answer' is missing",
        ),
        (
            "duplex/trivia_qa",
            "duplex/trivia_qa/metadata.jsonl",
            {"file_name": "../a.flac"},
            "line 1: .*below the data folder",
        ),
        (
            "speech-fc/SpeechFC_BFCL_Parallel",
            "SpeechFCEval/SpeechFC_BFCL_Parallel/metadata.jsonl",
            {"function": "{}"},
            "line 1: .*not a list",
        ),
    ],
)
def test_the_first_wrong_row_is_named(name, file, change, word, mini, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(mini / file.split("/")[0], data / file.split("/")[0])
    path = data / file
    given = path.read_text(encoding="utf-8")
    many = json.loads(given) if file.endswith(".json") else [json.loads(given.splitlines()[0])]
    many[0] |= change
    path.write_text(json.dumps(many) if file.endswith(".json") else json.dumps(many[0]))
    assert re.search(word, inspect_subset(*select(name)[0], data)["first_problem"])


def test_the_time_joins_the_prompt_of_a_function_call_on_demand(model, mini, tmp_path):
    name = "speech-fc/SpeechFC_ACEBench_Single"
    data = tmp_path / "data"
    folder = data / "SpeechFCEval" / "SpeechFC_ACEBench_Single"
    shutil.copytree(mini / "SpeechFCEval" / "SpeechFC_ACEBench_Single", folder)
    path = folder / "metadata.jsonl"
    path.write_text(path.read_text().replace('"time": ""', '"time": "noon on Monday"'))
    ask(name, model, data, tmp_path / "without")
    ask(name, model, data, tmp_path / "with", system_extra=True)
    without, added = (rows(tmp_path / run, name)[0] for run in ("without", "with"))
    assert added["system"] == f"{without['system']}\nnoon on Monday"
    assert added["settings_hash"] != without["settings_hash"]


def test_kimi_audio_evalkits_files_are_read_as_the_hubs(mini, tmp_path):
    folder = tmp_path / "voicebench"
    (folder / "sounds").mkdir(parents=True)
    shutil.copy(mini / "MMSU" / "audio" / "mini_0.wav", folder / "sounds" / "0.wav")
    common = {"index": 0, "audio_path": "sounds/0.wav", "question": ""}
    asked = "What is two plus two? A: three. B: four. C: five. D: six."
    written = {
        "openbookqa": {**common, "audio_content": asked, "answer": "B"},
        "ifeval": {
            **common,
            "audio_content": "Name three colours without a comma.",
            "index": 1,
            "instruction": ["punctuation:no_comma", "length_constraints:number_words"],
            "instruction_kwargs": [
                {"num_words": None, "relation": None, "keywords": None},
                {"num_words": 3, "relation": "at least", "keywords": None},
            ],
        },
    }
    for name, row in written.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(row))
        ((_, subset),) = select(f"voicebench/{name}")
        kimis, hubs = (next(iter(subset.load(root))) for root in (folder, mini / "voicebench"))
        assert kimis.fields == hubs.fields and kimis.problem is None
        assert kimis.audio == folder / "sounds" / "0.wav"


def test_folders_of_function_calls_may_have_dashes(mini, tmp_path):
    for subset in BENCHMARKS["speech-fc"].subsets:
        shutil.copytree(
            mini / "SpeechFCEval" / subset.name,
            tmp_path / "SpeechFCEval" / subset.name.replace("_", "-"),
        )
        found = inspect_subset(BENCHMARKS["speech-fc"], subset, tmp_path)
        assert (found["items"], found["first_problem"]) == (2, None)


def test_files_are_found_below_the_data_folder_only(tmp_path):
    (tmp_path / "a.wav").touch()
    assert find_file("a.wav", tmp_path / "x", tmp_path) == tmp_path / "a.wav"
    assert find_file(str(tmp_path / "a.wav"), tmp_path) == tmp_path / "a.wav"
    assert find_file("b.wav", tmp_path / "x", tmp_path) == tmp_path / "x" / "b.wav"
    for name in ("/a.wav", "../a.wav", f"{tmp_path}/../a.wav"):
        with pytest.raises(RowError, match="below the data folder"):
            find_file(name, tmp_path)


def test_a_limit_takes_the_first_items(model, mini, tmp_path):
    outcome = ask("voicebench/commoneval", model, mini, tmp_path, limit=2)
    assert outcome.attempted == 2
    assert [row["index"] for row in rows(tmp_path, "voicebench/commoneval")] == [0, 1]


def test_missing_data_says_what_is_to_be_there(mini, model, tmp_path):
    with pytest.raises(LayoutError, match="no folder"):
        ask("mmau", model, tmp_path / "nowhere", tmp_path / "run")
    for benchmark in BENCHMARKS.values():
        for subset in benchmark.subsets:
            with pytest.raises(LayoutError):
                inspect_subset(benchmark, subset, tmp_path)
    with pytest.raises(FunAudioChatError, match="known benchmarks: .*voicebench"):
        select("voicebank")
    with pytest.raises(FunAudioChatError, match="voicebench/ifeval"):
        select("voicebench/if")
    with pytest.raises(FunAudioChatError, match="--predictions"):
        ask("duplex/trivia_qa", model, mini, tmp_path / "run")


def test_two_writers_of_one_file_are_told_apart(tmp_path):
    with appending(tmp_path / "a.jsonl"):
        with pytest.raises(FunAudioChatError, match="--shard"):
            with appending(tmp_path / "a.jsonl"):
                pass


def test_prompts_are_those_of_the_paper(mini):
    from evaluate.run import prompt_of

    def first(name):
        benchmark, subset = select(name)[0]
        item = next(iter(subset.load(benchmark.data_folder(mini))))
        prompt = prompt_of(benchmark, subset, item, 0)
        return prompt.system, prompt.user, prompt.speech

    slot = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    text = "You are asked to generate text tokens."
    both = "You are asked to generate both text and speech tokens at the same time."
    assert first("voicebench/ifeval") == (text, slot, False)
    assert first("librispeech") == (text, f"{slot}\nPlease help me transcribe the audio.", False)
    assert first("mmau")[1] == (
        f"{slot}\nWhat is heard? Choose the correct option from the following options:\n"
        "(A)A dog\n(B)A person\n(C)A car"
    )
    assert first("ultraeval-audio") == (both, slot, True)
    assert first("vstyle")[0].startswith(f"{both} 你的名字是小云。")
    system, user, _ = first("speech-fc")
    assert system.startswith(f"{text}\n# Tools\n") and user == slot
    assert '<tools>\n{"type": "function", "function": {"name": "get_weather"' in system
