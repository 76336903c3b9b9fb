# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The page in Chromium, talking with a server that behaves as the reference's (and echoes)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import browser as browsers
from tests.helpers import recordings
from tests.helpers.reference_server import RATE_HZ, ReferenceServer
from tests.helpers.web_clients import tone

pytestmark = browsers.MARKS

# Chromium's fake microphone drops audio on a busy machine, before the page sees any of it; what
# the page records must be whole in one of so many questions.
QUESTIONS = 4


@pytest.fixture
def server() -> ReferenceServer:
    return ReferenceServer(browsers.CLIENT / "dist")


@pytest.fixture
def url(server: ReferenceServer) -> Iterator[str]:
    with server.running() as address:
        yield address


@pytest.fixture
def speaking(tmp_path: Path) -> Path:
    said = recordings.question(recordings.MICROPHONE_HZ)
    return recordings.microphone(tmp_path / "said.wav", said, silence_s=0.5)


def start(browser: browsers.Browser, url: str, **options: object) -> browsers.Page:
    page = browser.open(url, **options)
    page.press("Start talking")
    page.see("text=Press to speak")
    return page


def ask_file(page: browsers.Page, path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, RATE_HZ)
    page.call("setInputFiles", "input[type=file]", str(path))


def test_a_spoken_question_is_answered_in_audio_and_text(browser, server, url, speaking):
    page = browser.open(url, speaking)
    page.see("text=The server is ready")
    page.call("check", "role=radio[name=/Brief/]")
    page.press("Start talking")
    page.see("text=Press to speak")  # the page's audio runs only then
    for _ in range(QUESTIONS):
        before = page.heard()[0].size
        page.press("Speak")
        page.see("text=Speak, then press to send")
        page.wait_until(f"performance.now() > {page.evaluate('performance.now()')} + 3500")
        page.press("Done, send it")
        page.see("text=Press to interrupt")
        page.see("role=button[name='Speak']")
        asked = server.questions[-1]
        if recordings.likeness(asked, recordings.question(RATE_HZ)) > 0.8:
            break
    assert recordings.likeness(asked, recordings.question(RATE_HZ)) > 0.8
    assert 3.0 < asked.size / RATE_HZ < 8
    heard, rate = page.heard()
    heard = heard[before:]
    assert rate == RATE_HZ
    assert recordings.sounding_s(heard, rate) == pytest.approx(
        recordings.sounding_s(asked, rate), abs=0.3
    )
    assert np.abs(heard).max() == pytest.approx(np.abs(asked).max(), rel=0.25)
    assert recordings.likeness(heard, asked) > 0.85
    captions = page.captions()
    assert len(captions) == len(server.questions)
    assert captions[-1] == ("", f"I heard {asked.size / RATE_HZ:.1f} seconds, 你好.")
    assert "from the end of the question to the first audio" in page.see(".latency")
    assert '"system_prompt"' in server.metadata[0] and "short sentences" in server.metadata[0]


def test_a_file_is_said_and_even_the_shortest_reply_plays(browser, server, url, tmp_path):
    page = start(browser, url)
    ask_file(page, tmp_path / "short.wav", tone(0.2, 880))
    page.see("text=Press to interrupt")
    page.see("role=button[name='Speak']")
    [asked] = server.questions
    assert asked.size / RATE_HZ == pytest.approx(0.2, abs=0.09)
    heard, rate = page.heard()
    assert recordings.sounding_s(heard, rate, 0.02) == pytest.approx(0.2, abs=0.06)
    assert recordings.pitch(heard, rate) == pytest.approx(880, abs=10)


def test_two_pages_at_once_hear_their_own_answers(browser, server, url, tmp_path):
    pages = [start(browser, url), start(browser, url)]
    for page, pitch_hz in zip(pages, (500, 1100), strict=True):
        ask_file(page, tmp_path / f"{pitch_hz}.wav", tone(2.0, pitch_hz))
    for page, pitch_hz in zip(pages, (500, 1100), strict=True):
        page.see("text=I heard 2")
        page.see("role=button[name='Speak']")
        heard, rate = page.heard()
        assert recordings.pitch(heard, rate) == pytest.approx(pitch_hz, abs=10)
        assert recordings.sounding_s(heard, rate, 0.02) == pytest.approx(2.0, abs=0.15)


def test_an_interruption_is_silent_at_once_though_the_server_continues(
    browser, server, url, tmp_path
):
    page = start(browser, url)
    ask_file(page, tmp_path / "long.wav", tone(6.0, 700))
    page.see("text=Press to interrupt")
    page.wait_until("heard.loudUntilS > 0")
    late_s = page.silence_s("Interrupt")
    assert late_s < 1  # of six; the 250 ms are measured in test_page.py, more than once
    assert "interrupted" in page.see(".turn .bot h3")

    # The next question is answered as ever.
    before = page.heard()[0].size
    ask_file(page, tmp_path / "next.wav", tone(1.0, 1200))
    page.see("role=button[name='Speak']")
    heard, rate = page.heard()
    assert recordings.pitch(heard[before:], rate) == pytest.approx(1200, abs=10)


def test_a_denied_microphone_is_explained_and_not_needed(browser, server, url, tmp_path):
    page = browser.open(url, deny=True)
    page.press("Start talking")
    page.press("Speak")
    assert "Set “Microphone” to “Allow”" in page.see("role=alert")
    page.press("Continue without a microphone")
    page.wait_until("document.querySelector('.composer button')?.disabled === false")
    ask_file(page, tmp_path / "tone.wav", tone(1.0, 600))
    page.see(".turn .bot >> text=I heard 1.0 seconds")
