# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What the browser tests do on the page."""

import json
from pathlib import Path

from tests.helpers import browser as browsers

TOKENS = 12  # of an answer: 2.4 s

# Notes the microphones that are opened, which the page keeps to itself.
NOTE_MICROPHONES = """{
  const media = navigator.mediaDevices;
  const open = media.getUserMedia.bind(media);
  window.tracks = [];
  media.getUserMedia = async wanted => {
    const stream = await open(wanted);
    tracks.push(stream.getAudioTracks()[0]);
    return stream;
  };
}"""


def prefer(page: browsers.Page, **settings: object) -> None:
    """Settings as an earlier visit would have left them."""
    stored = json.dumps({"maxNewTokens": TOKENS, **settings})
    page.evaluate(f"localStorage.setItem('fun-audio-chat.settings', {json.dumps(stored)})")
    page.call("reload")


def visit(browser: browsers.Browser, url: str, wav: Path | None = None, **settings: object):
    """A page that is connected."""
    page = browser.open(url, wav)
    prefer(page, **settings)
    page.see("text=is ready")
    page.press("Start talking")
    page.see(".is-listening" if settings.get("handsFree") else ".is-idle")
    return page


def speak(page: browsers.Page) -> None:
    """Open the microphone."""
    page.press("Speak")
    page.see(".is-listening")


def wait_s(page: browsers.Page, seconds: float) -> None:
    """Let time pass in the page."""
    page.evaluate(f"new Promise(resume => setTimeout(resume, {1000 * seconds}))")


def type_in(page: browsers.Page, words: str) -> None:
    page.call("fill", "role=textbox[name='Type a message']", words)
    page.press("Send")
