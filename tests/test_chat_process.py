# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""`funaudiochat chat` as a process: Ctrl-C during an answer, and bytes that are not UTF-8."""

import codecs
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import accumulate

import pytest

from funaudiochat.events import TextDelta
from funaudiochat.sampling import Sampling
from funaudiochat.turns import Turn
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT
from tests.helpers.golden import TINY_A

CLI = [sys.executable, "-m", "funaudiochat.cli"]
LIMIT_S = 240


@pytest.fixture(scope="module")
def talkative(tmp_path_factory):
    """A folder whose answers are long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("models") / "talkative"
    shutil.copytree(TINY_A, folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"min_new_tokens": 1500, "max_new_tokens": 1500}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


class Terminal:
    """A process on a terminal of its own."""

    def __init__(self, *arguments):
        main, end = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "10000"}
        self.process = subprocess.Popen(
            [*CLI, *map(str, arguments)],
            stdin=end,
            stdout=end,
            stderr=end,
            env=environment,
            start_new_session=True,
            # A shell's background jobs ignore Ctrl-C, and so would this process of one's tests.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        os.close(end)
        self.main, self.text = main, ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def until(self, pattern):
        """Read until what was shown since the last match holds a pattern -> the text before."""
        began = time.monotonic()
        while not (found := re.search(pattern, self.text, re.DOTALL)):
            assert time.monotonic() - began < LIMIT_S, f"no {pattern!r} in {self.text!r}"
            if select.select([self.main], [], [], 1)[0]:
                self.text += self.decoder.decode(os.read(self.main, 1 << 16))
        before, self.text = self.text[: found.start()], self.text[found.end() :]
        return before

    def send(self, line):
        os.write(self.main, line.encode() + b"\n")
        self.until(re.escape(line) + "\r\n")  # the terminal's echo


def test_ctrl_c_leads_back_to_the_prompt_and_keeps_what_was_shown(talkative):
    terminal = Terminal("chat", "--no-speech", "--greedy", "--model-path", talkative)
    try:
        terminal.until("> ")
        terminal.send("Tell me everything")
        shown = terminal.until(r"(?<=\S{20})")
        terminal.process.send_signal(signal.SIGINT)
        shown = (shown + terminal.until("interrupted\r\n")).replace("\r\n", "\n")
        terminal.until("> ")
        terminal.send("Again")
        second = terminal.until(r"\r\n[0-9.]+ s\r\n").replace("\r\n", "\n")
        terminal.until("> ")
        terminal.send("/quit")
        assert terminal.process.wait(LIMIT_S) == 0
    finally:
        terminal.process.kill()
        os.close(terminal.main)
    asked = {"speech": False, "sampling": Sampling(greedy=True)}
    chat = VoiceChat.from_pretrained(talkative, device="cpu")
    pieces = [
        event.text
        for event in chat.branch().stream("Tell me everything", **asked)
        if isinstance(event, TextDelta)
    ]
    whole, given = "".join(pieces), shown.removesuffix("\n")
    assert len(os.path.commonprefix([whole, given])) >= 20 and len(given) < len(whole) - 20
    # The signal may fall between remembering a piece and showing it, or into showing it.
    kept = [text for text in accumulate(pieces) if abs(len(text) - len(given)) <= 10]
    asked["sampling"] = Sampling(greedy=True, max_new_tokens=20)
    answers = []
    for text in kept:
        chat._history = [Turn("user", "Tell me everything"), Turn("assistant", text)]
        answers.append(chat.branch().ask("Again", **asked).text.rstrip("\ufffd"))
    assert second.startswith(tuple(answers)) and all(answers)


def run(*arguments, stdin=b"", **environment):
    done = subprocess.run(
        [*CLI, *arguments],
        input=stdin,
        capture_output=True,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    return done.stdout


def test_bytes_that_are_not_utf8_are_replaced_and_answered():
    chat = VoiceChat.from_pretrained(TINY_A, device="cpu")
    sampling = Sampling(greedy=True, max_new_tokens=6)
    asked = {"speech": False, "sampling": sampling}
    question = ROOT / "examples" / "question.wav"
    options = ["--model-path", str(TINY_A), "--max-new-tokens", "6"]
    # What is shown goes to an output that does not take every character either.
    shown = run(
        "s2t", str(question), *options, "--instruction", b"caf\xe9", PYTHONIOENCODING="ascii"
    )
    answer = chat.branch().ask("caf\ufffd", audio=question, **asked).text
    assert answer.encode("ascii", "replace") in shown and not answer.isascii()
    shown = run("chat", "--no-speech", "--greedy", *options, stdin=b"caf\xe9 \xff\xfe\nhello\n")
    for typed in ("caf\ufffd \ufffd\ufffd", "hello"):
        assert chat.ask(typed, **asked).text in shown.decode()
