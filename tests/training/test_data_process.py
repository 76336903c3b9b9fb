# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A manifest becomes training rows that pass the validator."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from funaudiochat.audio import load_audio, save_wav
from funaudiochat.constants import DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT
from funaudiochat.cosyvoice3.speech_tokenizer import SpeechTokenizer
from tests.helpers import ROOT
from tests.helpers.commands import CLI
from training.check_data import check_file
from training.process.hub_data import export

TTS = ROOT / "pretrained_models" / "Fun-CosyVoice3-Nano"


@pytest.fixture
def manifest(tmp_path) -> Path:
    save_wav(tmp_path / "q.wav", 0.1 * np.sin(np.arange(24720) / 9), 24000)  # 1.03 s
    save_wav(tmp_path / "a.wav", 0.1 * np.sin(np.arange(16000) / 5), 16000)
    rows = [
        {"question_audio": "q.wav", "question_text": "hé", "answer_audio": "a.wav",
         "answer_text": "yes"},
        {"question_audio": "q.wav", "answer_text": "heard", "instruction": "Transcribe."},
        {"question_audio": "nowhere.wav", "answer_text": "lost"},
        {"question_text": "typed", "answer_text": "written", "system": "Be brief.",
         "history": [{"question_audio": "q.wav", "answer_text": "earlier"}]},
        {"question_text": "no answer"},
        {"question": "unknown field"},
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows] + ["{broken"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.jsonl"


def run(manifest: Path, *options: str) -> tuple[list[dict], str]:
    output = manifest.with_name("train.jsonl")
    command = [sys.executable, ROOT / "training/process/data_process.py", "--manifest", manifest]
    command += ["--output", output, "--tts-path", TTS, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in output.read_text().splitlines()], done.stderr


def test_rows_have_the_layout_of_the_reference_and_bad_ones_are_reported(manifest):
    (spoken, written, turns), log = run(manifest, "--workers", "2")
    assert "3 rows" in log and "4 skipped" in log
    errors = manifest.with_name("train.jsonl.errors.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["error"] for line in errors]
    causes = ("nowhere.wav", "answer_text", "object", "Expecting")
    assert all(cause in reason for cause, reason in zip(causes, reasons, strict=True))
    assert spoken["system"] == DEFAULT_S2M_PROMPT and written["system"] == DEFAULT_S2T_PROMPT
    question, answer = map(json.loads, spoken["audio"])
    assert list(question) == ["path", "ref_path", "ref_text", "text", "token"]
    assert question["token"] == "<|audio_pad|>" * 25 and "hé" in spoken["audio"][0]
    assert question["text"] == "" and question["ref_text"] == "hé"
    waveform = load_audio(manifest.with_name("a.wav"), 16000)
    codes = SpeechTokenizer.from_pretrained(TTS).encode(waveform).tolist()
    spelled = "".join(f"[AU{code:04d}]" for code in codes)
    assert answer["token"] == "<|audio_bos|>" * 10 + spelled
    assert len(codes) == 25 and answer["text"] == "yes"
    blank = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    assert written["messages"][0]["content"] == f"{blank}\nTranscribe."
    assert turns["system"] == "Be brief."
    assert [m["content"] for m in turns["messages"]] == [blank, "earlier", "typed", "written"]
    assert check_file(manifest.with_name("train.jsonl")).problems == []


def test_spoken_answers_are_whole_groups(tmp_path):
    loud = (0.1 * np.sin(np.arange(17_600) / 5)).astype(np.float32)  # 27.5 tokens
    quiet = np.concatenate([loud[:16_000], np.zeros(1600, np.float32)])
    brief = loud[:1600]
    rows = []
    for name, waveform in {"loud": loud, "quiet": quiet, "brief": brief}.items():
        save_wav(tmp_path / f"{name}.wav", waveform, 16000)
        rows.append({"question_text": "?", "answer_text": "yes", "answer_audio": f"{name}.wav"})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written, _ = run(tmp_path / "pairs.jsonl")
    tokenizer = SpeechTokenizer.from_pretrained(TTS)
    tokens = {
        name: tokenizer.encode(load_audio(tmp_path / f"{name}.wav")).tolist()
        for name in ("loud", "quiet", "brief")
    }
    assert [len(made) % 5 for made in tokens.values()] != [0, 0, 0]
    (silence,) = set(tokenizer.encode(np.zeros(16000, np.float32)).tolist())
    expected = {
        "loud": tokens["loud"] + [silence] * (30 - len(tokens["loud"])),  # filled
        "quiet": tokens["quiet"][:25],  # cut
        "brief": tokens["brief"] + [silence] * (5 - len(tokens["brief"])),  # nothing to cut to
    }
    for row, codes in zip(written, expected.values(), strict=True):
        token = json.loads(row["audio"][0])["token"].removeprefix("<|audio_bos|>" * 10)
        assert token == "".join(f"[AU{code:04d}]" for code in codes)
    summary = check_file(tmp_path / "train.jsonl")
    assert summary.problems == [] and summary.partial_groups == 0


@pytest.mark.slow
def test_a_stopped_run_resumes_and_ends_like_an_uninterrupted_one(manifest):
    whole, _ = run(manifest)
    output = manifest.with_name("train.jsonl")
    errors = output.with_name("train.jsonl.errors.jsonl")
    kept = errors.read_text()
    lines = output.read_text().splitlines(keepends=True)
    output.write_text(lines[0] + lines[1][:40])  # torn while writing the second row
    errors.write_text("")
    assert run(manifest)[0] == whole and errors.read_text() == kept
    assert run(manifest)[0] == whole  # nothing is left to do


@pytest.mark.slow
def test_shards_hold_the_same_rows_and_a_stopped_run_resumes(manifest):
    whole, _ = run(manifest)
    out = manifest.with_name("shards")
    command = [
        sys.executable,
        *CLI,
        "train",
        "prepare",
        manifest,
        out,
        "--tts-path",
        TTS,
        "--shard-rows",
        "2",
    ]

    def prepare() -> list[list[dict]]:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "3 rows" in done.stdout and "4 skipped" in done.stdout
        files = sorted(out.iterdir())
        return [[json.loads(line) for line in path.open()] for path in files]

    assert prepare() == [whole[:2], whole[2:]]
    second = out / "rows-00001.jsonl"
    second.write_text(second.read_text()[:40])  # torn, before the rows after it were read
    errors = manifest.with_name("shards.errors.jsonl")
    errors.write_text(errors.read_text().splitlines(keepends=True)[0])
    assert prepare() == [whole[:2], whole[2:]]


def process_dataset(output: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "training/process/data_process.py", "--output", output]
    command += ["--tts-path", TTS, *options]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture
def dataset_folder(tmp_path) -> Path:
    """Write Parquet with the bytes of audio files, the layout of data sets on the hub."""
    datasets = pytest.importorskip("datasets", reason="needs datasets: `make train-setup`")
    waveforms = []
    for index in range(3):
        save_wav(tmp_path / "one.wav", 0.1 * np.sin(np.arange(16000) / (5 + index)), 16000)
        waveforms.append({"bytes": (tmp_path / "one.wav").read_bytes(), "path": f"{index}.wav"})
    audio = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({
        "instruction": datasets.Value("string"), "instruction_audio": audio,
        "output": datasets.Value("string"), "output_audio": audio,
    })  # fmt: skip
    table = datasets.Dataset.from_dict(
        {"instruction": ["a", "b", "c"], "instruction_audio": waveforms,
         "output": ["x", "y", "z"], "output_audio": waveforms[::-1]}, features=features,
    )  # fmt: skip
    for column in ("instruction_audio", "output_audio"):
        table = table.cast_column(column, datasets.Audio(decode=False))
    (tmp_path / "spoken").mkdir()
    table.to_parquet(tmp_path / "spoken" / "train-00000-of-00001.parquet")
    return tmp_path / "spoken"


@pytest.mark.slow
def test_a_data_set_of_the_hub_becomes_rows(dataset_folder, tmp_path):
    output = tmp_path / "data" / "train_1k.jsonl"
    done = process_dataset(
        output,
        "--debug",
        "--datapath",
        str(dataset_folder),
        "--num_samples",
        "2",
        "--delay_token_nums",
        "5",
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in output.read_text().splitlines())
    question, answer = map(json.loads, first["audio"])
    assert question["ref_text"] == "a" and question["token"] == "<|audio_pad|>" * 25
    assert Path(question["path"]) == tmp_path / "data" / "spoken" / "0000000_question.wav"
    assert answer["text"] == "x" and answer["token"].count("<|audio_bos|>") == 5
    assert answer["token"] != json.loads(second["audio"][1])["token"]
    # The rest is read when more is asked for; what is there is not made again.
    audio = Path(question["path"])
    made = audio.stat().st_mtime_ns
    done = process_dataset(output, "--datapath", str(dataset_folder), "--num_samples", "3")
    assert done.returncode == 0 and "3 rows" in done.stderr
    assert audio.stat().st_mtime_ns == made and len(output.read_text().splitlines()) == 3


def test_a_saved_data_set_whose_input_is_spoken_is_read(dataset_folder, tmp_path):
    import datasets

    table = datasets.load_dataset(str(dataset_folder), split="train").rename_columns(
        {"instruction_audio": "speech_input", "output_audio": "speech_output"}
    )
    table = table.add_column("input", ["heard a", "heard b", "heard c"])
    for name, saved in {"one": table, "splits": datasets.DatasetDict(train=table)}.items():
        saved.save_to_disk(tmp_path / name)
        manifest = export(str(tmp_path / name), tmp_path / "data" / name, limit=2)
        rows = [json.loads(line) for line in manifest.read_text().splitlines()]
        assert [row["question_text"] for row in rows] == ["heard a", "heard b"]
        assert [row["answer_text"] for row in rows] == ["x", "y"]
        assert all((manifest.parent / row["question_audio"]).is_file() for row in rows)


def test_what_keeps_a_data_set_from_being_read_is_said(dataset_folder, tmp_path):
    unknown = process_dataset(
        tmp_path / "out.jsonl",
        "--datapath",
        str(dataset_folder),
        "--columns",
        "answer_text=nowhere",
    )
    assert unknown.returncode == 1
    assert "has the columns instruction, instruction_audio, output" in unknown.stderr
    offline = process_dataset(
        tmp_path / "out.jsonl",
        "--debug",
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path),
    )
    assert offline.returncode == 1 and "Traceback" not in offline.stderr
    assert "GSQA/spoken-alpaca-gpt4 cannot be read" in offline.stderr
    assert "parquet" in offline.stderr
