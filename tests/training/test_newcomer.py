# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The first example of training/README.md: ten questions of one's own, learned by Nano."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from funaudiochat.errors import FunAudioChatError
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT
from tests.helpers.tiny_runs import log_of, needs_llamafactory
from training.nano.voices import available
from training.process.speak_manifest import read_texts

TRAINING = ROOT / "training"


def block() -> str:
    """Return the commands of the README."""
    section = (TRAINING / "README.md").read_text().split("## Ten questions of your own")[1]
    return section.split("```")[1]


def test_every_line_of_texts_is_checked_and_named(tmp_path):
    path = tmp_path / "texts.jsonl"
    good = json.dumps({"question_text": " Who? ", "answer_text": "Anna."})
    path.write_text(f"\n{good}\n")
    assert read_texts(path) == [{"question": "Who?", "answer": "Anna."}]
    for bad in ("{", "[]", '"text"', '{"question_text": "Who?"}',
                '{"question_text": 1, "answer_text": "a"}',
                '{"question_text": " ", "answer_text": "a"}'):  # fmt: skip
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(FunAudioChatError, match=r"texts\.jsonl, row 2: "):
            read_texts(path)
    path.write_text("\n")
    with pytest.raises(FunAudioChatError, match="has no rows"):
        read_texts(path)
    path.write_bytes(b"\xff\xfe")
    for unreadable in (path, tmp_path / "gone"):
        with pytest.raises(FunAudioChatError, match="cannot be read"):
            read_texts(unreadable)


@needs_llamafactory
@pytest.mark.slow
@pytest.mark.skipif(not available("heart"), reason="install hibari-tts==0.2.1")
def test_the_block_of_the_readme_teaches_nano_ten_texts_and_serves_it(tmp_path):
    shutil.copytree(TRAINING, tmp_path / "training",
                    ignore=shutil.ignore_patterns("saves", "logs", "work", "*.pyc"))  # fmt: skip
    (tmp_path / "pretrained_models").symlink_to(ROOT / "pretrained_models")
    commands = block()
    texts = re.search(r"<<'END'\n(.*?)END", commands, re.DOTALL)[1].splitlines()
    assert len(texts) == 10
    commands = "\n".join(
        line for line in commands.splitlines() if not line.startswith(("make ", "source ", "pip "))
    )
    commands = commands.replace("serve --", "serve --port 0 --")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    served = subprocess.Popen(
        ["bash", "-ec", commands], cwd=tmp_path, env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    output = []
    try:
        for line in served.stdout:
            output.append(line)
            if "http://localhost:" in line:
                break
        else:
            pytest.fail("".join(output[-60:]))
    finally:
        os.killpg(served.pid, 15)
        served.wait()
    training = tmp_path / "training"
    assert log_of(training / "saves" / "lora_nano")
    assert "20 rows, 0 with problems" in "".join(output)
    chat = VoiceChat.from_pretrained(training / "saves" / "own", device="cpu")
    sampling = Sampling(greedy=True, max_new_tokens=40)
    for spoken in (True, False):
        right = 0
        for index, row in enumerate(map(json.loads, texts)):
            chat.reset()
            wav = training / "data" / "own" / f"{index}_question.wav"
            asked = {"audio": wav} if spoken else {"text": row["question_text"]}
            right += chat.ask(**asked, sampling=sampling).text == row["answer_text"]
        assert right >= 9, (spoken, right)
