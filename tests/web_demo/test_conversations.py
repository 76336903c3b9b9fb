# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Conversations of a client: turns, interruptions, settings, tools, files, resuming."""

import asyncio
import itertools
import json
import re
import threading
from functools import partial

import numpy as np
import pytest
import soundfile

from tests.helpers import ROOT
from tests.helpers.recordings import question
from tests.helpers.web_clients import (
    TIMEOUT_S,
    Page,
    ReferencePage,
    forever,
    running,
    scripted,
    spying,
    tone,
    until,
)
from web_demo.server import connection, reply_sender, sessions, tools
from web_demo.server.engine import Models

GOLDEN = ROOT / "tests" / "golden" / "web_demo"
GREEDY = {"greedy": True, "max_new_tokens": 7}
LONG = {"greedy": True, "max_new_tokens": 200}


def speech():
    """A spoken question at 24 kHz, as loud as a microphone brings it."""
    return question(24000)


def words(question):
    """A scripted answer of ten steps: a word and five tokens each."""
    for number in range(10):
        yield f"w{number} "
        yield [number] * 5


def test_a_reference_page_holds_a_conversation_of_two_turns(models):
    """Frame by frame what that page sends: its recorder's pages, the buttons, a persona."""
    recorded = (GOLDEN / "opus_recorder_speech.bin").read_bytes()
    pages, start = [], 0
    while start < len(recorded):
        size = int.from_bytes(recorded[start : start + 4], "little")
        pages.append(recorded[start + 4 : start + 4 + size])
        start += 4 + size

    async def converse(server):
        async with ReferencePage(server, path="/api/simplex") as page:
            await page.until(lambda: page.received)
            assert (page.received[0].kind, page.received[0].payload) == (0, b"\x00\x00")
            await page.send(4, json.dumps({"system_prompt": "You are kind."}))
            half = len(pages) // 2
            for data in pages[:half]:
                await page.send(1, data)
            await page.send(3, b"\x02")
            await page.event("turn_end")
            for data in pages[half : half + 5]:  # it sends on while paused
                await page.send(1, data)
            await page.send(3, b"\x00")
            for data in pages[half + 5 :]:
                await page.send(1, data)
            await page.send(3, b"\x02")
            await page.event("turn_end", turn=2)
            assert {m.kind for m in page.received} <= {0, 1, 2, 4}
            assert page.text().startswith("[Processing...]")
            assert len(page.audio()) > 26 * 960

    limited, asked = spying(models, most_steps=6)
    with running(limited) as server:
        asyncio.run(converse(server))
    first = len(pages) // 2 - 2  # two header pages; 40 ms, one token, in each of the others
    assert [entry["tokens"] for entry in asked] == [first, len(pages) - 2 - first - 5]
    assert asked[0]["system"].endswith("at the same time. You are kind.")


def test_text_comes_whole_and_in_step_with_the_audio(models):
    def script(question):
        for piece in ("你", "好", "，世界", "！"):
            yield piece
            yield [3] * 5

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            end = await page.event("turn_end")
            assert end["text"] == page.text() == "你好，世界！"
            frames = 0
            positions = []
            for message in page.received:
                frames += message.kind == 1
                if message.kind == 2:
                    positions.append(frames)
            assert positions == [0, 5, 10, 15]

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))


def test_audio_is_sent_at_most_a_second_ahead(models):
    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            first = await page.event("first_audio")
            end = await page.event("turn_end")
            assert end["audio_ms"] == 2000
            assert end["t_ms"] - first["t_ms"] >= 960

    with running(scripted(models, words)) as server:
        asyncio.run(converse(server))


def test_history_keeps_what_was_played(models, monkeypatch):
    """By the page's own word, by the server's clock, and while the tail plays."""
    chats = []

    def script(question):
        words = forever(question)
        return itertools.islice(words, 80) if "long" in question else words

    def words_in(end):
        """A word begins every 200 ms; milliseconds are rounded."""
        spoken = [int(n) for n in re.findall(r"w(\d+)", end["text"])]
        assert spoken == list(range(len(spoken)))
        assert len(spoken) in {-(-(end["played_ms"] + off) // 200) for off in (-1, 0, 1)}
        return len(spoken)

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.until(lambda: len(page.audio_messages()) >= 20)
            await page.send(4, json.dumps({"event": "played", "turn": 1, "ms": 500}))
            await page.start()
            end = await page.event("turn_end")
            assert end["reason"] == "interrupted" and end["played_ms"] == 500
            assert end["text"] == "w0 w1 w2 "
            await page.send(2, "again")
            await page.event("first_audio", turn=2)
            await page.start()
            end = await page.event("turn_end", turn=2)
            words_in(end)
            monkeypatch.setattr(
                reply_sender, "LEAD_S", 60.0
            )  # all is sent at once and plays for long
            await page.send(2, "as long as a tail")
            await page.event("turn_end", turn=3, reason="done")
            await page.start()
            assert words_in(await page.event("turn_end", turn=3, reason="interrupted")) < 40
            await page.send(2, "and as long again")
            await page.event("turn_end", turn=4, reason="done")
            (open_one,) = server.sessions.connections
            chats.append((list(open_one.session.conversation.chat.heard), page.events("turn_end")))

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    heard, ends = chats[0]
    final = {end["turn"]: end["text"] for end in ends}
    assert heard == [final[turn] for turn in (1, 2, 3, 4) if turn != 2 or final[2]]


def test_hands_free_turns_open_and_close_by_voice(server, asked):
    question, silence = speech(), np.zeros(24000, np.float32)

    async def converse():
        async with Page(server) as page:
            await page.set(hands_free=True, sampling=GREEDY, end_silence_ms=500)
            await page.say(np.concatenate([silence, silence, question, silence]))
            await page.event("speech_start")
            await page.event("speech_end")
            assert (await page.event("turn_start"))["source"] == "voice"
            await page.event("turn_end")

    asyncio.run(converse())
    seconds = asked[0]["tokens"] / 25
    # The question, a little before it, the silence that ended it, and not the two seconds before.
    assert len(question) / 24000 - 0.7 < seconds < len(question) / 24000 + 1.0


def test_a_voice_interrupts_within_250_ms_of_its_detection_and_is_heard(models):
    asked = []

    def script(question):
        asked.append(len(question[0]) / question[1])
        yield from forever(question)

    async def converse(server):
        async with Page(server) as page:
            await page.set(hands_free=True)
            await page.say(np.concatenate([speech(), np.zeros(24000, np.float32)]))
            late_ms = []
            for turn in (1, 2, 3):
                await page.event("first_audio", turn=turn)
                await page.say(speech(), pace=0.2)
                start = await page.event("speech_start", turn + 1)
                end = await page.event("turn_end", turn=turn)
                assert end["reason"] == "interrupted"
                late_ms.append(end["t_ms"] - start["t_ms"])
                await page.say(np.zeros(24000, np.float32))
            # A loaded machine may be late once; a server that does not stop always is.
            assert min(late_ms) < 250
            await page.event("first_audio", turn=4)

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert min(asked) > len(speech()) / 24000 - 0.5


def test_a_pause_before_the_reply_began_does_not_split_the_question(models):
    asked, go = [], threading.Event()

    def script(question):
        asked.append(len(question[0]) / question[1])
        if len(asked) == 1:
            yield lambda: go.wait(TIMEOUT_S)
        yield [1] * 5

    async def converse(server):
        async with Page(server) as page:
            await page.set(hands_free=True)
            await page.say(np.concatenate([speech(), np.zeros(24000, np.float32)]))
            await page.event("turn_start")
            await page.say(speech())
            await page.event("turn_end", turn=1, reason="interrupted")
            go.set()
            await page.say(np.zeros(24000, np.float32))
            await page.event("turn_end", turn=2, reason="done")

    with running(scripted(models, script)) as server:
        try:
            asyncio.run(converse(server))
        finally:
            go.set()
    assert asked[-1] > 1.8 * asked[0]


def test_only_as_much_silence_as_is_set_ends_a_turn(server, asked):
    silence = np.zeros(24000, np.float32)

    async def converse():
        async with Page(server) as page:
            await page.set(hands_free=True, sampling=GREEDY, end_silence_ms=2000)
            await page.say(np.concatenate([speech(), silence]))
            await page.send(6)
            await page.until(lambda: [m for m in page.received if m.kind == 6])  # all of it heard
            assert page.events("speech_start") and not page.events("speech_end")
            await page.say(np.concatenate([silence, silence]))
            await page.event("turn_end")

    asyncio.run(converse())
    assert asked[0]["tokens"] / 25 > len(speech()) / 24000 + 1


def test_the_button_of_both_kinds_ends_the_question(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.say(tone(1))
            await page.send(3, b"\x01")
            await page.event("turn_end", turn=1, reason="done")
            await page.start()
            await page.say(tone(2))
            await page.send(3, b"\x02")
            await page.event("turn_end", turn=2, reason="done")

    asyncio.run(converse())
    assert [entry["tokens"] for entry in asked] == [25, 50]


def test_the_first_audio_comes_with_the_detokenizer_s_first_chunk(models):
    """It waits for no more tokens than that chunk needs."""
    voice, needed = models.detokenizer_stream(None), 1
    while not len(voice.push([1] * 5)):
        needed += 1
    go = threading.Event()

    def script(question):
        for _ in range(needed):
            yield [1] * 5
        yield lambda: go.wait(TIMEOUT_S)

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.until(page.audio_messages)
            assert server.context.engine.jobs == 1
            go.set()
            assert (await page.event("turn_end"))["audio_ms"] == needed * 200

    with running(scripted(models, script)) as server:
        try:
            asyncio.run(converse(server))
        finally:
            go.set()


def endless(made, question):
    """A script that speaks until it is closed, and notes what it did."""
    try:
        for step in itertools.count():
            made.append(step)
            yield [1] * 5
    finally:
        made.append("closed")


def test_start_stops_the_model_as_well(models):
    made = []
    script = partial(endless, made)

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.event("first_audio")
            assert server.context.engine.jobs == 1
            await page.start()
            await page.event("turn_end", reason="interrupted")
            await until(lambda: not server.context.engine.jobs)

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert made[-1] == "closed"


def test_mute_and_unmute_in_hands_free(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(hands_free=True, sampling=GREEDY)
            await page.pause()
            await page.event("listening", on=False)
            await page.say(np.concatenate([speech(), np.zeros(24000, np.float32)]))
            await page.start()
            await page.say(np.concatenate([speech(), np.zeros(24000, np.float32)]))
            await page.event("turn_end")
            assert len(page.events("turn_start")) == 1

    asyncio.run(converse())
    assert len(asked) == 1


def test_settings_act(server, asked):
    async def reply(page, turn, **settings):
        await page.send(3, b"\x03")
        await page.set(**settings)
        before = len(page.audio_messages())
        await page.send(2, "hello")
        end = await page.event("turn_end", turn=turn)
        return end["text"], end["audio_ms"], len(page.audio_messages()) - before

    async def converse():
        async with Page(server) as page:
            sampled = {"max_new_tokens": 7, "text_greedy": False}
            one = await reply(page, 1, sampling={**sampled, "seed": 1})
            same = await reply(page, 2, sampling={**sampled, "seed": 1})
            other = await reply(page, 3, sampling={**sampled, "seed": 2})
            assert one == same and one[0] != other[0]
            longer = await reply(page, 4, sampling={"greedy": True, "max_new_tokens": 12})
            shorter = await reply(page, 5, sampling=GREEDY)
            assert longer[1] > shorter[1] > 0
            await reply(page, 6, system_prompt="Be brief.")
            await reply(page, 7, answer="text")
            assert (await reply(page, 8, answer="text", system_prompt=None))[2] == 0
            await page.send(4, json.dumps({"voice": "carl"}))
            await page.event("error", code="bad_settings")
            await page.send(4, json.dumps({"sampling": {"temperature": -1}, "voice": "ben"}))
            await page.event("error", 2, code="bad_settings")
            await page.set(unknown_key=3)
            assert page.events("settings")[-1]["settings"]["voice"] == "anna"

    asyncio.run(converse())
    systems = [entry["system"] for entry in asked]
    assert systems[:5] == [None] * 5
    assert systems[5].endswith("speech tokens at the same time. Be brief.")
    assert systems[6] == "You are asked to generate text tokens. Be brief."
    assert systems[7] is None


def test_the_voice_of_the_page_speaks(models, tmp_path):
    async def converse(server):
        async with Page(server) as page:
            for turn, voice in enumerate(("anna", "ben"), 1):
                await page.set(voice=voice)
                await page.send(2, "hello")
                await page.event("turn_end", turn=turn)

    with running(scripted(models, words), save_recordings=tmp_path) as server:
        asyncio.run(converse(server))
    anna, ben = [soundfile.read(path)[0] for path in sorted(tmp_path.glob("*_answer.wav"))]
    assert len(anna) == len(ben) and not np.allclose(anna, ben, atol=0.01)


def test_a_tool_is_called_run_and_its_result_spoken(models):
    questions = []

    def script(question):
        questions.append(question)
        if question == ("tools", "weather?"):
            yield "<tool_call>\n"
            yield '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
        elif isinstance(question, tuple) and question[0] == "tools":
            yield "Hello"
        elif isinstance(question, tuple) and question[0] == "result":
            yield f"It is {question[1]['condition']}."
            yield [1] * 5
        else:
            yield "Hello there"
            yield [1] * 5

    async def converse(server):
        async with Page(server) as page:
            await page.set(tools=True)
            await page.send(2, "weather?")
            end = await page.event("turn_end")
            call, result = page.events("tool_call")[0], page.events("tool_result")[0]
            assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
            assert end["text"] == page.text() == f"It is {result['result']['condition']}."
            assert end["audio_ms"] == 200
            await page.send(2, "hi")  # what needs no tool is spoken at once
            assert (await page.event("turn_end", turn=2))["text"] == "Hello there"
            assert len(page.events("tool_call")) == 1

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert [q[0] for q in questions[:2]] == ["tools", "result"]
    assert questions[2:] == [("tools", "hi"), "hi"]


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ('{"name": "set_light", "arguments": {}}</tool_call>', "no function named set_light"),
        ('{"name": "get_weather"}</tool_call>', "malformed"),
        ('{"name": "get_weather", "arg', "not closed"),
        ('{"name": "get_battery", "arguments": {}}</tool_call>', "RuntimeError: the battery"),
    ],
)
def test_a_call_that_cannot_be_run_is_told_to_the_model_before_it_speaks(
    models, monkeypatch, written, error
):
    def fails():
        raise RuntimeError("the battery is gone")

    monkeypatch.setitem(tools.FUNCTIONS, "get_battery", fails)
    questions = []

    def script(question):
        questions.append(question)
        if question == ("tools", "please"):
            yield "<tool_call>"
            yield written
        else:
            yield "I could not do that."
            yield [1] * 5

    async def converse(server):
        async with Page(server) as page:
            await page.set(tools=True)
            await page.send(2, "please")
            end = await page.event("turn_end")
            assert (end["reason"], end["text"]) == ("done", "I could not do that.")
            assert end["audio_ms"] == 200

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert [kind for kind, _ in questions] == ["tools", "result"]
    assert error in questions[1][1]["error"]


def test_a_text_and_a_file_are_other_ways_to_ask(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.send(2, "Hello?")
            await page.event("turn_end")
            await page.send(8, (ROOT / "examples" / "question.wav").read_bytes())
            assert (await page.event("turn_start", 2))["source"] == "file"
            await page.event("turn_end", turn=2, reason="done")
            await page.send(8, b"RIFF, but no audio")
            await page.event("error", code="bad_question")
            await page.send(2, " ")
            await page.event("error", 2, code="bad_question")

    asyncio.run(converse())
    assert asked[0]["text"] == "Hello?" and asked[0]["tokens"] is None
    assert asked[1]["tokens"] > 25


def test_another_question_takes_the_place_of_one_being_spoken(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.say(tone(2))
            await page.send(2, "Hello?")
            await page.event("turn_end")
            # In push-to-talk nobody listens now: what is said is not collected, and asks nothing.
            assert [e["on"] for e in page.events("listening")] == [True, False]
            await page.say(tone(1))
            await page.pause()
            await page.start()
            await page.say(tone(2))
            await page.send(8, (ROOT / "examples" / "question.wav").read_bytes())
            await page.event("turn_end", turn=2)
            await page.start()
            await page.ask(tone(1))
            await page.event("turn_end", turn=3)
            # Hands-free listens on, but what was half said belongs to no question.
            await page.set(hands_free=True)
            await page.say(speech())
            await page.event("speech_start")
            await page.send(2, "Hello again?")
            await page.event("turn_end", turn=4)
            assert page.events("listening")[-1]["on"] and not page.events("speech_end")
            await page.say(np.concatenate([speech(), np.zeros(24000, np.float32)]))
            await page.event("turn_end", turn=5)
            assert page.errors() == []

    asyncio.run(converse())
    typed, file, pressed, typed_again, by_voice = (entry["tokens"] for entry in asked)
    assert (typed, typed_again) == (None, None)
    assert pressed == 25 and file > 25
    assert by_voice < 1.5 * file


def test_an_interrupted_answer_ends_before_the_next_begins(models, monkeypatch):
    """While it is made, before it is begun, and while its tail plays."""
    monkeypatch.setattr(reply_sender, "LEAD_S", 60.0)  # all is sent at once and plays for long

    def script(question):
        return words(question) if question == "short" else forever(question)

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "long")
            await page.event("first_audio")
            await page.send(2, "never begun")
            await page.send(2, "short")
            await page.event("turn_end", turn=3, reason="done")
            await page.send(2, "short")
            await page.event("turn_end", turn=4, reason="done")
            return [
                (event["event"], event["turn"], event.get("reason"))
                for event in page.events()
                if event["event"] in ("turn_start", "turn_end")
            ]

    with running(scripted(models, script)) as server:
        told = asyncio.run(converse(server))
    start, cut = (lambda turn: ("turn_start", turn, None)), "interrupted"
    assert told == [
        start(1),
        ("turn_end", 1, cut),
        start(2),
        ("turn_end", 2, cut),
        start(3),
        ("turn_end", 3, "done"),
        ("turn_end", 3, cut),
        start(4),
        ("turn_end", 4, "done"),
    ]


def test_a_failing_detokenizer_ends_the_turn_and_the_model_s_work(models, monkeypatch):
    made = []
    script = partial(endless, made)

    class Failing:
        due = True

        def add(self, tokens):
            pass

        def next_chunk(self):
            raise RuntimeError("no memory for audio")

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.event("error", code="model_error")
            assert (await page.event("turn_end"))["reason"] == "error"
            await until(lambda: not server.context.engine.jobs)

    monkeypatch.setattr(Models, "detokenizer_stream", lambda self, name: Failing())
    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))
    assert made[-1] == "closed"


def test_what_the_model_understood_is_told_on_request(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY, transcribe=True)
            await page.ask(tone(1))
            assert (await page.event("transcript"))["turn"] == 1

    asyncio.run(converse())
    assert asked[1]["text"].endswith("Please help me transcribe the audio.")
    assert asked[1]["tokens"] == 25 and asked[1]["history"] == []


def test_a_new_question_goes_before_the_transcript_of_the_one_before(models):
    """The page gets both: a transcript is shown even when the conversation has moved on."""

    def script(question):
        asked.append(question)
        return words(question) if len(asked) != 2 else itertools.islice(forever(question), 400)

    async def converse(server):
        async with Page(server) as page:
            await page.set(transcribe=True, answer="text")
            await page.ask(tone(1))
            await page.event("turn_end", turn=1)
            await until(lambda: len(asked) == 2)  # the transcript is being made
            await page.send(2, "typed")
            await page.event("turn_end", turn=2, reason="done")
            await page.event("transcript", turn=1)
            assert page.events("error") == []

    asked = []
    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))


def test_interrupted_turns_are_transcribed_too(models):
    def script(question):
        asked.append(question)
        return forever(question) if len(asked) == 1 else words(question)

    async def converse(server):
        async with Page(server) as page:
            await page.set(transcribe=True)
            await page.ask(tone(1))
            await page.event("first_audio", turn=1)
            await page.start()
            await page.ask(tone(1))
            await page.event("turn_end", turn=1, reason="interrupted")
            for turn in (1, 2):
                assert (await page.event("transcript", turn=turn))["text"].startswith("w0 w1")

    asked = []
    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))


def test_an_idle_conversation_ends_when_others_wait(models, monkeypatch):
    monkeypatch.setattr(connection, "IDLE_WHILE_OTHERS_WAIT_S", 0.5)

    async def converse(server):
        async with Page(server) as idle:
            await idle.event("ready")
            async with Page(server) as waiting:
                assert await idle.until_closed() == 4000
                assert idle.errors() == ["idle"]
                await waiting.event("ready")
                await waiting.send(6)  # nobody waits any more: it may be as idle as it likes
                await waiting.until(lambda: [m for m in waiting.received if m.kind == 6])

    with running(models, max_sessions=1) as server:
        asyncio.run(converse(server))


def test_nothing_said_asks_nothing(server, asked):
    async def converse():
        async with Page(server) as page:
            for seconds in (1, 5):
                await page.ask(np.zeros(seconds * 24000, np.float32))
                await page.event("error", code="no_audio")
                assert page.errors()[-1] == "no_audio"
                await page.start()
            assert not page.events("turn_start")

    asyncio.run(converse())
    assert asked == []


def test_without_barge_in_a_voice_interrupts_nothing(models):
    def script(question):
        return itertools.islice(forever(question), 60)

    async def converse(server):
        async with Page(server) as page:
            await page.set(hands_free=True, barge_in=False)
            await page.send(2, "hello")
            await page.event("first_audio", turn=1)
            await page.say(np.concatenate([speech(), np.zeros(24000, np.float32)]))
            await page.send(6)
            await page.until(lambda: [m for m in page.received if m.kind == 6])  # all of it heard
            assert not page.events("speech_start")
            await page.start()  # the button still does
            assert (await page.event("turn_end"))["reason"] == "interrupted"

    with running(scripted(models, script)) as server:
        asyncio.run(converse(server))


def test_a_conversation_continues_after_a_reconnect(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY, system_prompt="Be brief.")
            await page.send(2, "first")
            await page.event("turn_end")
            resume = page.events("ready")[0]["resume"]
            async with Page(server, resume=resume) as again:  # the old connection still stands
                ready = await again.event("ready")
                assert ready["resumed"] and ready["settings"]["system_prompt"] == "Be brief."
                assert await page.until_closed() == 4002
                await again.send(2, "second")
                assert (await again.event("turn_end"))["turn"] == 2
        async with Page(server, resume="unknown") as fresh:
            assert not (await fresh.event("ready"))["resumed"]

    asyncio.run(converse())
    assert asked[1]["history"][0] == "first"


def test_a_conversation_that_nobody_comes_back_for_is_let_go(models, monkeypatch):
    monkeypatch.setattr(sessions, "RESUME_S", 0.1)

    async def converse(server):
        async with Page(server) as page:
            await page.send(2, "hello")
            await page.event("turn_end")
            resume = page.events("ready")[0]["resume"]
        await until(lambda: not server.sessions.connections and not server.sessions._parked)
        async with Page(server, resume=resume) as late:
            assert not (await late.event("ready"))["resumed"]

    with running(scripted(models, words)) as server:
        asyncio.run(converse(server))


def test_restart_forgets_the_conversation(server, asked):
    async def converse():
        async with Page(server) as page:
            await page.set(sampling=GREEDY)
            await page.send(2, "first")
            await page.event("turn_end")
            await page.send(3, b"\x03")
            await page.event("reset")
            await page.send(2, "second")
            await page.event("turn_end", turn=2)

    asyncio.run(converse())
    assert asked[1]["history"] == []
