# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What one chooses on the page in Chromium, and what comes of it."""

import re
import threading
from dataclasses import replace

import numpy as np
import pytest

from funaudiochat.capabilities import Capabilities
from tests.helpers import browser as browsers
from tests.helpers import recordings
from tests.helpers.page_actions import NOTE_MICROPHONES, prefer, speak, type_in, visit
from tests.helpers.web_clients import TIMEOUT_S, running, scripted

pytestmark = browsers.MARKS


def choose(page: browsers.Page, label: str, number: int) -> str:
    """Take the device of that number (0 is the default one); return its id."""
    page.wait_until(
        "[...document.querySelectorAll('dialog label')]"
        f".find(label => label.innerText == '{label}').control.options.length > {number}"
    )
    select = f"dialog >> role=combobox[name='{label}']"
    page.call("selectOption", select, {"index": number})
    return str(page.call("inputValue", select))


def test_the_devices_that_are_chosen_are_used(browser, server, asked, speaking):
    page = visit(browser, server.url, speaking, transcribe=False)
    speak(page)
    page.evaluate(NOTE_MICROPHONES)
    page.press("Settings")
    for number in (1, 2):
        chosen = choose(page, "Microphone", number)
        page.wait_until(f"tracks.length == {number}")
        assert page.evaluate("tracks.map(track => track.getSettings().deviceId).at(-1)") == chosen
    page.wait_until("tracks[0].readyState == 'ended' && tracks[1].readyState == 'live'")
    page.wait_until(f"heard.context.sinkId == '{choose(page, 'Speaker', 1)}'")
    page.press("Close")
    before_s = page.evaluate("heard.context.currentTime")
    page.wait_until(f"heard.context.currentTime > {before_s} + 4")  # a question comes every 3 s
    page.press("Done, send it")
    page.see(".turn .you h3 >> text=spoken")
    page.see("role=button[name='Speak']")
    assert asked[0]["tokens"] > 0
    assert page.evaluate("heard.loudUntilS") > before_s


def test_devices_that_are_gone_give_way_to_the_default_ones(browser, server):
    page = visit(browser, server.url, inputId="gone", outputId="gone")
    assert "The selected speaker is not available" in page.see(".banner[role=alert]")
    speak(page)
    type_in(page, "Hello")
    page.see("role=button[name='Speak']")
    assert page.evaluate("heard.loudUntilS") > 0


def test_the_microphone_is_tested_before_a_conversation(browser, server, tmp_path):
    said = recordings.question(recordings.MICROPHONE_HZ)
    page = browser.open(server.url, recordings.microphone(tmp_path / "said.wav", said, silence_s=0))
    page.press("Test the microphone")
    page.see(".mic-check >> text=Sounds good")
    page.press("Stop the test")
    page.wait_until("!document.querySelector('.mic-check .waveform')")


def test_volume_is_how_loud_a_reply_is(browser, models):
    def a_second(question):
        for number in range(5):
            yield [number] * 5

    energies = []
    with running(scripted(models, a_second)) as server:
        page = visit(browser, server.url)
        for volume in (1, 0.5, 0):
            page.call("fill", "role=slider[name='Volume']", str(volume))
            before = page.heard()[0].size
            type_in(page, "Hello")
            page.see(".is-speaking")
            page.see("role=button[name='Speak']")
            page.wait_until("heard.context.currentTime > heard.loudUntilS + 0.4")
            energies.append(float(np.square(page.heard()[0][before:]).sum()))
    loud, half, silent = np.sqrt(energies)
    assert loud > 0.1
    assert half / loud == pytest.approx(0.5, abs=0.05)
    assert silent < 0.001 * loud


def test_a_model_offers_what_it_can_do_and_its_examples_are_questions_to_tap(browser, models):
    def script(question):
        yield f"You asked: {question}"
        yield [1] * 5

    able = Capabilities("A small model.", ("en",), ("brief",), (), ("Who are you?", "And I?"))
    with running(replace(scripted(models, script), capabilities=able)) as server:
        page = browser.open(server.url)
        prefer(page, persona="tutor", systemPrompt="Teach.", language="zh")
        assert "A small model." in page.see(".about") and "英语" in page.see(".about")
        assert page.evaluate("document.querySelectorAll('.persona').length") == 2
        page.press("Who are you?")
        page.see(".turn .bot >> text=You asked: Who are you?")
        page.see(".is-idle")
        page.press("And I?")
        page.see(".turn:last-child .bot >> text=You asked: And I?")
        [connection] = server.sessions.connections
        assert not connection.session.conversation.settings.system_prompt
    with running(replace(models, capabilities=Capabilities(personas=()))) as server:
        page = browser.open(server.url)
        page.see("text=is ready")
        assert page.evaluate("document.querySelector('.personas, .examples, .about')") is None


# What lies outside the window, or in a second line of the header.
OUTSIDE = """(selector => [...document.querySelectorAll(selector)].filter(element => {
  const { left, right, bottom } = element.getBoundingClientRect();
  return left < 0 || right > innerWidth || bottom > innerHeight;
}).map(element => element.outerHTML))"""
HEADER_LINES = """new Set([...document.querySelectorAll('.bar .row > .button')]
  .map(button => button.getBoundingClientRect().top)).size"""


@pytest.mark.parametrize(
    ("width", "height", "language"), [(360, 640, "zh"), (360, 640, "en"), (390, 844, "en")]
)
def test_a_phone_shows_what_matters_without_scrolling(browser, models, width, height, language):
    able = Capabilities(
        "A small English demo model that knows little else than what it is asked below.",
        ("en",),
        examples=("What is the capital of France?", "What is two plus three?"),
    )
    with running(replace(models, capabilities=able)) as server:
        page = browser.open(server.url, context={"viewport": {"width": width, "height": height}})
        prefer(page, language=language)
        page.see(".server-line.good")
        assert page.evaluate(f"{OUTSIDE}('.bar .row > .button, .button.big')") == []
        assert page.evaluate(HEADER_LINES) == 1
        page.call("click", ".button.big")
        page.see(".is-idle")
        kinds = ".bar .row > .button, #main-button, .composer button, .lane-name, .stage-settings"
        assert page.evaluate(f"{OUTSIDE}('{kinds}')") == []
        assert page.evaluate(HEADER_LINES) == 1


def test_chinese_is_one_press_away_and_stays(browser, server):
    page = browser.open(server.url)
    page.press("中文")
    page.see("role=button[name='开始对话']")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.call("reload")
    page.see("text=已就绪")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.press("开始对话")
    page.see(".is-idle")
    page.press("设置")
    page.see("dialog")
    words = page.evaluate(
        "[...document.querySelectorAll('label, legend, h1, h2, h3, p, button, summary, input')]"
        ".flatMap(({ innerText, ariaLabel, placeholder }) => [innerText, ariaLabel, placeholder])"
        ".join(' ')"
    )
    assert "发言轮换" in words
    names = r"Fun-Audio-Chat(-Tiny)?|English|Top-[pk]|get_\w+|WAV|JSON"
    assert re.findall(r"[A-Za-z]{3,}", re.sub(names, "", words)) == []


MOVING = """[...document.querySelectorAll('*')]
.flatMap(element => ['', '::before', '::after'].map(part => getComputedStyle(element, part)))
.filter(style => style.animationName != 'none' || parseFloat(style.transitionDuration) > 0).length
+ document.getAnimations().length"""

# Heights of the bars of the user's waveform: most different ones in a frame, and the highest.
BARS = """new Promise(resume => {
  const canvas = document.querySelector('canvas.you');
  let [frames, different, highest] = [0, 0, 0];
  const look = () => {
    const { data, width, height } =
      canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const heights = new Set();
    for (let x = width - 2; x > 1; x -= 5) {
      let rows = 0;
      for (let y = 0; y < height; y++) rows += data[4 * (y * width + x) + 3] > 0;
      heights.add(rows);
    }
    different = Math.max(different, heights.size);
    highest = Math.max(highest, ...heights);
    if (++frames < 60) requestAnimationFrame(look);
    else resume([different, highest]);
  };
  look();
})"""


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_nothing_moves_for_those_who_want_no_motion(browser, models, tmp_path, motion):
    go = threading.Event()

    def after_a_while(question):
        yield lambda: go.wait(TIMEOUT_S)
        yield [1] * 5

    said = recordings.question(recordings.MICROPHONE_HZ)
    microphone = recordings.microphone(tmp_path / "said.wav", said, silence_s=0)
    with running(scripted(models, after_a_while)) as server:
        try:
            page = browser.open(server.url, microphone, context={"reducedMotion": motion})
            page.press("Start talking")
            speak(page)
            different, highest = page.evaluate(BARS)
            page.press("Done, send it")
            page.see(".dots")
            moving = page.evaluate(MOVING)
        finally:
            go.set()
    assert highest > 10
    if motion == "reduce":
        assert moving == 0
        assert different == 1  # all bars rise and fall together
    else:
        assert moving > 3
        assert different > 3
