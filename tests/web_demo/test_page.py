# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The page in Chromium, talking with the real server on tiny weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from tests.helpers import browser as browsers
from tests.helpers import recordings
from tests.helpers.page_actions import (
    NOTE_MICROPHONES,
    TOKENS,
    prefer,
    speak,
    type_in,
    visit,
    wait_s,
)
from tests.helpers.server_process import started
from tests.helpers.web_clients import running

pytestmark = browsers.MARKS


def test_two_spoken_turns_are_heard_and_read(browser, server, speaking):
    page = visit(browser, server.url, speaking, seed=1)
    for turn in (1, 2):
        before = page.heard()[0].size
        speak(page)
        wait_s(page, 3)
        page.press("Done, send it")
        page.wait_until("document.querySelector('.is-speaking, .is-idle')")
        page.see("role=button[name='Speak']")
        heard, rate = page.heard()
        assert recordings.sounding_s(heard[before:], rate) == pytest.approx(TOKENS / 5, abs=0.7)
        captions = page.captions()
        assert len(captions) == turn
        assert captions[-1][1].strip()
    assert "synthesis" in page.see(".latency")
    assert "delivery" in page.see(".latency")
    assert set(
        page.evaluate(
            "[...document.querySelectorAll('.swatch')].flatMap("
            "swatch => [swatch.getBoundingClientRect()].flatMap(box => [box.width, box.height]))"
        )
    ) == {10}  # squares, however long the words beside them are
    assert page.call("problems") == []


def test_typed_words_and_a_file_are_questions_and_all_of_it_is_saved(
    browser, server, asked, tmp_path
):
    page = visit(browser, server.url, transcribe=False, seed=3)
    type_in(page, "Where is 北京?")
    page.see("role=button[name='Speak']")
    page.call("setInputFiles", "input[type=file]", str(recordings.QUESTION))
    page.wait_until("document.querySelectorAll('.turn').length == 2")
    page.see("role=button[name='Speak']")
    captions = page.captions()
    assert [question for question, _ in captions] == ["Where is 北京?", "question.wav"]
    assert "audio file" in page.see(".turn:last-child .you h3")

    page.call("click", "summary[aria-label=Download]")
    page.call("download", "text=Data (JSON)", str(tmp_path / "talk.json"))
    turns = json.loads((tmp_path / "talk.json").read_text())["turns"]
    assert [(turn["source"], turn["end"]) for turn in turns] == [("text", "done"), ("file", "done")]
    page.call("click", "summary[aria-label=Download]")
    page.call("download", "text=Audio (WAV", str(tmp_path / "talk.wav"))
    saved, rate = soundfile.read(tmp_path / "talk.wav", dtype="float32")
    heard, _ = page.heard()
    assert rate == 24000 and saved.shape[1] == 2
    assert recordings.sounding_s(saved[:, 1], rate) == pytest.approx(
        recordings.sounding_s(heard, rate), abs=0.5
    )


def test_an_interruption_is_silent_within_250_ms_and_keeps_what_was_heard(browser, server):
    page = visit(browser, server.url, maxNewTokens=400, seed=3)  # with which it speaks for long
    late_s = []
    for _ in range(3):
        before_s = page.evaluate("heard.context.currentTime")
        type_in(page, "Tell me everything.")
        page.wait_until(f"heard.loudUntilS > {before_s} + 1")
        late_s.append(page.silence_s("Interrupt"))
        page.see(".is-listening")
        page.see(".turn .bot h3 >> text=interrupted")
        if late_s[-1] < 0.25:
            return
        page.press("Clear this conversation")
    raise AssertionError(f"never silent in time, even if a loaded machine may be late: {late_s} s")


BLOCK_MICROPHONE = """navigator.mediaDevices.getUserMedia =
() => Promise.reject(new DOMException('', 'NotAllowedError'))"""


def test_a_microphone_is_opened_when_the_user_presses_to_speak_and_closed_when_the_turn_is_over(
    browser, server, speaking
):
    page = browser.open(server.url, speaking)
    prefer(page, seed=1)
    page.evaluate(NOTE_MICROPHONES)
    page.see("text=is ready")
    page.press("Start talking")
    page.see(".is-idle")
    type_in(page, "Hello")
    page.see(".is-thinking, .is-speaking")
    page.see("role=button[name='Speak']")
    assert page.evaluate("tracks.length") == 0
    speak(page)
    assert page.evaluate("tracks.map(track => track.readyState)") == ["live"]
    wait_s(page, 3)
    page.press("Done, send it")
    page.see(".turn .you h3 >> text=spoken")
    page.see("role=button[name='Speak']")
    assert page.evaluate("tracks.map(track => track.readyState)") == ["ended"]
    page.press("Speak")
    page.wait_until("tracks.length == 2 && document.querySelector('.is-listening')")
    page.press("End")
    page.wait_until("tracks[1].readyState == 'ended'")


def test_nothing_said_is_told_and_asks_nothing(browser, server, asked, tmp_path):
    silence = recordings.microphone(tmp_path / "nothing.wav", np.zeros(0, np.float32), silence_s=5)
    page = visit(browser, server.url, silence)
    for seconds in (1, 5):
        speak(page)
        wait_s(page, seconds)
        page.press("Done, send it")
        assert "No speech was detected" in page.see(".banner[role=alert]")
        page.see(".is-idle")
        page.press("Dismiss")
    assert page.captions() == [] and asked == []


def test_a_blocked_microphone_is_told_when_it_is_asked_for(browser, server):
    page = visit(browser, server.url)
    page.evaluate(BLOCK_MICROPHONE)
    page.press("Speak")
    page.see("text=The microphone is blocked")
    page.press("Continue without a microphone")
    assert "Type a message" in page.see("#stage-hint")
    assert page.see("#main-button") == "No microphone"
    type_in(page, "Hello")
    page.see(".turn .bot p:not(.dots)")


def test_talking_again_hands_free_with_a_blocked_microphone_is_helped(browser, server):
    page = visit(browser, server.url, handsFree=True)
    type_in(page, "Hello")
    page.see(".turn .bot p:not(.dots)")
    page.press("End")
    page.evaluate(BLOCK_MICROPHONE)
    page.press("Start again")
    page.see("text=The microphone is blocked")
    assert len(page.captions()) == 1  # what was said is still there to be saved
    page.press("Continue without a microphone")
    page.see(".is-idle")


def test_hands_free_hears_where_a_question_ends(browser, server, speaking):
    page = visit(browser, server.url, speaking, handsFree=True)
    page.see(".turn .you h3 >> text=spoken", 60)


def test_settings_act_from_the_next_turn(browser, server):
    page = visit(browser, server.url)
    page.press("Settings")
    page.call("selectOption", "dialog >> role=combobox[name='Answer in']", "text")
    page.press("Close")
    type_in(page, "Only write, please.")
    page.wait_until("document.querySelector('.turn .bot p:not(.dots)')?.innerText.trim()")
    page.see("role=button[name='Speak']")
    heard, rate = page.heard()
    assert recordings.sounding_s(heard, rate) == 0
    assert "to the first text" in page.see(".latency")


def test_all_places_taken_means_a_place_in_the_queue(browser, models):
    with running(models, max_sessions=1) as small:
        first = visit(browser, small.url)
        second = browser.open(small.url)
        second.see("text=All sessions are in use")
        second.press("Start talking")
        assert "You are next" in second.see(".banner")
        assert "No estimate of the waiting time yet." in second.see(".banner")
        assert second.evaluate("document.querySelectorAll('.banner').length") == 1
        assert second.see(".phase") == "In the queue"
        third = browser.open(small.url)
        third.press("Start talking")
        assert "You are number 2 of 2 in the queue" in third.see(".banner")
        first.press("End")
        first.see("text=The conversation is over.")
        second.see(".is-idle")
        third.see(".banner >> text=You are next")


def test_a_server_that_wants_a_token_is_told_it(browser, models):
    with running(models, token="open sesame") as guarded:
        page = browser.open(guarded.url)
        page.see("text=This server requires an access token.")
        page.call("fill", "input[type=password]", "open sesame")
        page.see("text=is ready")
        page.press("Start talking")
        page.see(".is-idle")


def test_a_token_in_the_address_is_taken_out_of_it_and_a_reload_keeps_it(browser, models):
    with running(models, token="open sesame") as guarded:
        page = browser.open(f"{guarded.url}/?token=open+sesame&lang=x")
        page.see("text=is ready")
        assert page.evaluate("location.href") == f"{guarded.url}/?lang=x"
        page.call("reload")
        page.see("text=is ready")
        page.press("Start talking")
        page.see(".is-idle")


def test_a_refusal_during_a_conversation_is_reported_instead_of_reconnecting_for_ever(
    browser, models
):
    with running(models, token="open sesame") as guarded:
        page = browser.open(f"{guarded.url}/?token=open+sesame")
        page.see("text=is ready")
        page.press("Start talking")
        page.see(".is-idle")
        guarded.context.options = replace(guarded.context.options, token="another")
        for session in list(guarded.sessions.connections):
            guarded.call(session.close(1001, "gone"))
        page.see("text=The server did not accept the access token.")
        assert page.evaluate("document.querySelectorAll('.banner').length") == 0


def test_a_machine_without_an_audio_device_is_told_and_talks_in_text(browser, server):
    """Firefox leaves the promise of such a context open for ever."""
    page = browser.open(server.url)
    prefer(page)
    page.see("text=is ready")
    page.evaluate(
        "AudioContext.prototype.resume = () => new Promise(() => {});"
        "Object.defineProperty(AudioContext.prototype, 'state', { get: () => 'suspended' })"
    )
    page.press("Start talking")
    assert "no speaker was found" in page.see(".banner[role=alert]")
    page.see(".is-idle")
    type_in(page, "Hello")
    page.see(".turn .bot p:not(.dots)")


def test_a_lost_server_is_told_and_found_again(browser, folders):
    with started(folders) as first:
        page = browser.open(first.url)
        prefer(page)
        page.press("Start talking")
        page.see(".is-idle", 60)
        type_in(page, "Are you there?")
        page.see("role=button[name='Speak']", 60)
        first.process.kill()
        assert "The connection was lost" in page.see(".banner")
    with started(folders, "--port", first.url.rpartition(":")[2]):
        page.see(".is-idle", 120)
        assert "no longer has the earlier conversation" in page.see(".banner")
        type_in(page, "Are you there again?")
        page.see("role=button[name='Speak']", 60)
        assert [question for question, _ in page.captions()] == [
            "Are you there?",
            "Are you there again?",
        ]


BARRIERS = """axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] })
.then(found => found.violations.flatMap(
    ({ id, nodes }) => nodes.map(node => `${id}: ${node.target} ${node.failureSummary}`)))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_bars_people_who_hear_see_or_move_otherwise(browser, server, theme):
    page = browser.open(server.url)
    prefer(page, theme=theme)
    # Not as a script of the page: its policy shuts inline ones out.
    axe = (browsers.CLIENT / "node_modules/axe-core/axe.min.js").read_text()
    page.evaluate(f"{axe}; 0")
    page.see("text=is ready")
    assert page.evaluate(BARRIERS) == []
    page.press("Start talking")
    page.see(".is-idle")
    type_in(page, "Hello")
    page.see("role=button[name='Speak']")
    assert page.evaluate(BARRIERS) == []
    page.press("Settings")
    page.see("role=dialog")
    assert page.evaluate(BARRIERS) == []


def test_the_keyboard_alone_does_everything_on_a_phone_wide_page(browser, server):
    page = browser.open(server.url, context={"viewport": {"width": 360, "height": 740}})
    prefer(page)
    page.see("text=is ready")

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.call("keyboard.press", "Tab")
            shown = page.evaluate(
                "(element => element.ariaLabel ?? element.innerText)(document.activeElement)"
            )
            if name in (shown or ""):
                return
        raise AssertionError(f"Tab never reaches {name}")

    tab_to("Start talking")
    page.call("keyboard.press", "Enter")
    page.see(".is-idle")
    page.wait_until("document.activeElement.id == 'main-button'")
    tab_to("Settings")
    page.call("keyboard.press", "Enter")
    page.see("role=dialog")
    page.call("keyboard.press", "Escape")
    page.wait_until("!document.querySelector('dialog')")
    page.evaluate("document.activeElement.blur()")
    page.call("keyboard.press", "Space")
    page.see(".is-listening")
    wait_s(page, 1)
    page.call("keyboard.press", "Space")
    page.see(".is-thinking, .is-speaking, .is-idle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_what_is_heard_has_no_gap_or_repetition(browser, server):
    page = visit(browser, server.url, seed=3)
    type_in(page, "Sing.")
    page.see("role=button[name='Speak']")
    heard, _ = page.heard()
    blocks = heard.reshape(-1, 128)
    loud = blocks[np.abs(blocks).max(1) > 1e-3]
    assert len({block.tobytes() for block in loud}) == len(loud)
