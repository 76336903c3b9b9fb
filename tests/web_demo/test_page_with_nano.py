# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The page in Chromium with the shipped weights: answers are correct, as text and as played."""

import numpy as np
import pytest

from funaudiochat import hub
from tests.helpers import browser as browsers
from tests.helpers import recordings
from tests.helpers.page_actions import speak, type_in, visit, wait_s
from tests.helpers.web_clients import running
from training.nano.judge import hear, judge_available
from web_demo.server.engine import Models

pytestmark = [
    *browsers.MARKS,
    pytest.mark.skipif(not judge_available(), reason="no recogniser (make judge-setup)"),
]
FOLLOW_UP = recordings.QUESTION.with_name("follow_up.wav")  # "And of Germany?"


@pytest.fixture(scope="module")
def nano():
    models = Models.load(hub.NANO_MODEL, hub.NANO_TTS, "cpu", "cpu", None)
    with running(models) as found:
        yield found


def said(page: browsers.Page, before: int = 0) -> str:
    """What a recogniser understands of what the loudspeaker got from that sample on."""
    heard, rate_hz = page.heard()
    assert np.abs(heard[before:]).max() > 0.05
    return hear(recordings.without_pauses(heard[before:], rate_hz), rate_hz).lower()


def test_two_spoken_turns_are_answered_correctly_in_text_and_audio(browser, nano, tmp_path):
    spoken = recordings.question(recordings.MICROPHONE_HZ)  # "What is the capital of France?"
    microphone = recordings.microphone(tmp_path / "said.wav", spoken, silence_s=30)
    page = visit(browser, nano.url, microphone, maxNewTokens=None, seed=1)
    speak(page)
    wait_s(page, 3)
    page.press("Done, send it")
    page.see("role=button[name='Speak']", 120)
    assert "paris" in page.captions()[0][1].lower()
    assert "paris" in said(page)
    before = page.heard()[0].size
    page.call("setInputFiles", "input[type=file]", str(FOLLOW_UP))
    page.wait_until("document.querySelectorAll('.turn').length == 2")
    page.see("role=button[name='Speak']", 120)
    assert "berlin" in page.captions()[1][1].lower()
    assert "berlin" in said(page, before)


def test_two_pages_at_once_get_the_answer_to_their_own_question(browser, nano):
    capitals = {"Japan": "tokyo", "Spain": "madrid"}
    pages = {country: visit(browser, nano.url, maxNewTokens=None, seed=1) for country in capitals}
    for country, page in pages.items():
        type_in(page, f"What is the capital of {country}?")
    for country, page in pages.items():
        page.see("role=button[name='Speak']", 120)
        assert capitals[country] in page.captions()[0][1].lower()
        assert capitals[country] in said(page)
