# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Real browsers for tests: Debian's Chromium, driven by playwright-core through a small bridge."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import ROOT

CLIENT = ROOT / "web_demo" / "client"
BRIDGE = CLIENT / "tests" / "bridge.mjs"


def missing() -> str | None:
    """Return why no browser test can run here, or None."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not Path("/usr/bin/chromium").exists():
        return "chromium is not installed (apt-get install chromium)"
    if not (CLIENT / "node_modules" / "playwright-core").is_dir():
        return "the page's packages are not installed (make page)"
    if not (CLIENT / "dist" / "index.html").is_file():
        return "the page is not built (make page)"
    return None


MARKS = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


class BrowserError(AssertionError):
    """An error reported by the browser."""


class Browser:
    """Opens pages, each in a browser process of its own with its own microphone."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["node", str(BRIDGE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.requests = 0

    def open(self, url: str, wav: Path | None = None, **options: Any) -> "Page":
        """A page at `url` whose microphone plays `wav` over and over; `deny=True` gives none."""
        if wav is not None:
            options["wav"] = str(wav)
        return Page(self, self.request(None, "open", {"url": url, **options}))

    def request(self, page: int | None, method: str, *args: Any) -> Any:
        """Result of one call of the bridge."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.requests += 1
        call = {"id": self.requests, "page": page, "method": method, "args": args}
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise BrowserError("the browser bridge ended")
        answer = json.loads(line)
        if "error" in answer:
            raise BrowserError(f"{method}{args}: {answer['error']}")
        return answer["result"]

    def close_pages(self) -> None:
        """End the browsers; the bridge stays for others."""
        self.request(None, "closeAll")

    def close(self) -> None:
        """End all."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Page:
    """One open page; `call` reaches every method of playwright's page."""

    def __init__(self, browser: Browser, number: int) -> None:
        self.browser, self.number = browser, number

    def call(self, method: str, *args: Any) -> Any:
        """For example `call("fill", "input[type=text]", "Hello")`."""
        return self.browser.request(self.number, method, *args)

    def press(self, name: str) -> None:
        """Click the button of that name."""
        self.call("click", f'role=button[name="{name}"]')

    def see(self, selector: str, timeout_s: float = 30.0) -> str:
        """Wait until something is shown; return its text."""
        return str(self.call("see", selector, {"timeout": timeout_s * 1000}))

    def wait_until(self, expression: str, timeout_s: float = 30.0) -> None:
        """Wait until a JavaScript expression is true in the page."""
        self.call("waitForFunction", expression, None, {"timeout": timeout_s * 1000})

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression in the page."""
        return self.call("evaluate", expression)

    def silence_s(self, action: str) -> float:
        """Press the main button `action`; return how long audio continued, by the audio clock."""
        self.evaluate(
            "document.getElementById('main-button').addEventListener('click', "
            "() => { window.clickedS = heard.context.currentTime }, { capture: true, once: true })"
        )
        self.press(action)
        self.wait_until("heard.context.currentTime > clickedS + 1.5")
        return float(self.evaluate("heard.loudUntilS - clickedS"))

    def captions(self) -> list[tuple[str, str]]:
        """(question, answer) of every turn that is shown."""
        lines = self.evaluate(
            "[...document.querySelectorAll('.turn')].map(turn => ['you', 'bot'].map(side => "
            "turn.querySelector(`.line.${side} > p:not(.dots)`)?.innerText ?? ''))"
        )
        return [(question, answer) for question, answer in lines]

    def heard(self) -> tuple[np.ndarray, int]:
        """Return all samples played so far, and their rate."""
        taken = self.call("heard")
        return np.frombuffer(base64.b64decode(taken["float32"]), np.float32), taken["rateHz"]
