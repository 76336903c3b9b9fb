# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What the page in Chromium shows, plays and saves of a conversation whose answers are known."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import sphn
import torch

from tests.helpers import browser as browsers
from tests.helpers import recordings
from tests.helpers.page_actions import speak, type_in, visit, wait_s
from tests.helpers.web_clients import forever, running, scripted, tone
from web_demo.server import tools
from web_demo.server.engine import Models

pytestmark = browsers.MARKS


def test_tool_calls_are_shown_and_the_conversation_is_saved(browser, models, tmp_path):
    def script(question):
        match question:
            case ("tools", "Is it warm in Paris?"):
                yield '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n'
                yield "</tool_call>"
            case ("result", weather):
                yield f"It is {weather['degrees']} degrees. 很暖和。"
                yield [1] * 5
            case _:
                yield "Hello."
                yield [1] * 5

    with running(scripted(models, script)) as server:
        page = visit(browser, server.url)
        type_in(page, "Hi")
        page.see("role=button[name='Speak']")
        page.press("Settings")
        page.call("check", "dialog >> role=switch[name='Allow tools']")
        page.press("Close")
        type_in(page, "Is it warm in Paris?")
        page.see("role=button[name='Speak']")
        assert "get_weather(city: Paris)" in page.see(".turn:last-child .tool summary")
        page.call("click", ".tool summary")
        weather = json.loads(page.see(".tool pre"))
        assert weather.keys() == tools.get_weather("Paris").keys()

        saved = {}
        for name, kind in (("Text", "txt"), ("Data (JSON)", "json")):
            page.call("click", "summary[aria-label=Download]")
            suggested = page.call("download", f'role=button[name="{name}"]', str(tmp_path / kind))
            assert suggested.startswith("conversation-") and suggested.endswith(f".{kind}")
            saved[kind] = (tmp_path / kind).read_text(encoding="utf-8")
    answer = f"It is {weather['degrees']} degrees. 很暖和。"
    assert saved["txt"] == (
        f"You: Hi\nAssistant: Hello.\n\nYou: Is it warm in Paris?\nAssistant: {answer}\n"
    )
    first, second = json.loads(saved["json"])["turns"]
    assert (first["question"], first["answer"], first["tools"]) == ("Hi", "Hello.", [])
    assert (second["question"], second["answer"]) == ("Is it warm in Paris?", answer)
    assert second["tools"] == [
        {"name": "get_weather", "arguments": {"city": "Paris"}, "result": weather}
    ]
    assert second["latency"]["audioMs"] > 0


def test_errors_are_told_in_plain_words_and_the_conversation_continues(browser, models, tmp_path):
    def script(question):
        if question == "Fail.":
            raise RuntimeError
        yield "Hello."
        yield [1] * 5

    no_sound = tmp_path / "no_sound.wav"
    no_sound.write_text("These are words.")
    with running(scripted(models, script)) as server:
        page = visit(browser, server.url)
        page.call("setInputFiles", "input[type=file]", str(no_sound))
        assert "This question could not be read." in page.see(".banner[role=alert]")
        page.see(".turn:last-child .bot h3 >> text=failed")
        page.press("Dismiss")
        page.wait_until("!document.querySelector('.banner')")
        type_in(page, "Fail.")
        assert "The answer failed. Please ask again." in page.see(".banner[role=alert]")
        page.wait_until("document.querySelectorAll('.turn .bot h3 .bad').length == 2")
        type_in(page, "And now?")
        page.see(".turn:last-child .bot >> text=Hello.")
        page.see("role=button[name='Speak']")
    assert page.evaluate("heard.loudUntilS") > 0


def test_what_the_user_said_is_written_down_unless_switched_off(browser, models, tmp_path):
    answers = iter(
        ["It is Paris.", "What is the capital of France?", "Paris, as I said.", "Not wanted."]
    )

    def script(question):
        yield next(answers)
        yield [1] * 5

    said = recordings.question(recordings.MICROPHONE_HZ)
    microphone = recordings.microphone(tmp_path / "said.wav", said, silence_s=0)
    with running(scripted(models, script)) as server:
        page = visit(browser, server.url, microphone)
        speak(page)
        wait_s(page, 2)
        page.press("Done, send it")
        assert page.see(".turn .you > p") == "What is the capital of France?"
        page.press("Settings")
        page.call("uncheck", "dialog >> role=switch[name='Transcribe what I say']")
        page.press("Close")
        speak(page)
        wait_s(page, 2)
        page.press("Done, send it")
        page.see(".turn:last-child .bot >> text=as I said")
        page.see("role=button[name='Speak']")
    assert page.captions() == [
        ("What is the capital of France?", "It is Paris."),
        ("", "Paris, as I said."),
    ]
    assert list(answers) == ["Not wanted."]


NOTE_DETECTION = """{
  window.detectedS = null;
  new MutationObserver((_, observer) => {
    if (!document.querySelector('.is-hearing')) return;
    window.detectedS = heard.context.currentTime;
    observer.disconnect();
  }).observe(document.querySelector('.stage'), { attributes: true });
}"""


class Hum:
    """A voice that costs no time, so that a loaded machine too has a second of audio ahead."""

    def __init__(self):
        self.pending = 0

    @property
    def due(self):
        return self.pending > 0

    def add(self, tokens):
        self.pending += len(tokens)

    def next_chunk(self):
        count, self.pending = self.pending, 0
        return SimpleNamespace(count=count, shape=(count, 0))

    def complete(self, chunk):
        return torch.from_numpy(tone(chunk.count / 25))

    def end(self):
        pass


def test_a_voice_silences_the_reply_within_250_ms_of_its_detection(
    browser, models, tmp_path, monkeypatch
):
    """From the moment the page is told that the user speaks, by the audio clock."""
    monkeypatch.setattr(Models, "detokenizer_stream", lambda self, name: Hum())
    monkeypatch.setattr(type(models.detokenizer), "solve_step", lambda self, chunks: True)
    said = recordings.question(recordings.MICROPHONE_HZ)
    microphone = recordings.microphone(tmp_path / "said.wav", said, silence_s=3)
    late_s: list[float] = []
    with running(scripted(models, forever)) as server:
        page = visit(browser, server.url, microphone, handsFree=True, transcribe=False)
        while not late_s or late_s[-1] > 0.25:
            assert len(late_s) < 3, f"never in time, even if a loaded machine may be late: {late_s}"
            page.see(".is-speaking")
            page.evaluate(NOTE_DETECTION)
            page.wait_until("detectedS && heard.context.currentTime > detectedS + 0.5")
            late_s.append(page.evaluate("heard.loudUntilS - detectedS"))
        assert late_s[-1] > -0.3  # it was speaking until then
        page.see(".turn .bot h3 >> text=interrupted")
        page.see(".is-speaking")  # what interrupted is a question as well
        assert len(page.captions()) == len(late_s) + 1


def through_opus(samples: np.ndarray) -> np.ndarray:
    """What the codec makes of them, which is quieter where random weights hiss."""
    writer, reader = sphn.OpusStreamWriter(24000), sphn.OpusStreamReader(24000)
    frames = samples[: samples.size // 960 * 960].reshape(-1, 960)
    return np.concatenate([reader.append_bytes(writer.append_pcm(frame)) for frame in frames])


def test_what_is_heard_is_as_long_and_as_loud_as_what_was_sent(browser, models, tmp_path):
    with running(models, save_recordings=tmp_path) as server:
        page = visit(browser, server.url, seed=11)
        type_in(page, "Sing.")
        page.see(".is-speaking")
        page.see("role=button[name='Speak']")
        page.wait_until("heard.context.currentTime > heard.loudUntilS + 0.4")
        heard, rate = page.heard()
    [sent] = [soundfile.read(path, dtype="float32")[0] for path in tmp_path.glob("*_answer.wav")]
    assert recordings.sounding_s(heard, rate) == pytest.approx(sent.size / 24000, abs=0.05)
    energy = np.square(through_opus(sent)).sum()
    assert np.square(heard).sum() == pytest.approx(energy, rel=0.1)
