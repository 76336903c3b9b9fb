# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A session and its turns without a WebSocket, driven as any protocol adapter would."""

import asyncio

import numpy as np
import pytest

from tests.helpers.web_clients import TIMEOUT_S, forever, scripted, tone, until
from web_demo.server.context import ServerContext
from web_demo.server.options import Options
from web_demo.server.page_session import PageSession, ResumableConversation
from web_demo.server.turn import Turn, TurnState


class RecordingClient:
    """Notes what a session reports."""

    def __init__(self):
        self.events, self.texts, self.samples, self.replies_done = [], [], 0, 0

    async def event(self, event, /, **fields):
        self.events.append((event, fields))

    async def error(self, code, message, turn=None, fatal=False):
        self.events.append(("error", {"code": code}))

    async def reply_pending(self):
        pass

    async def text(self, text):
        self.texts.append(text)

    async def audio(self, frame):
        self.samples += len(frame)

    async def audio_done(self):
        self.replies_done += 1

    def named(self, name):
        return [fields for event, fields in self.events if event == name]


def drive(models, script, act, **settings):
    """Run `act(session, client)` on a session of a server of its own."""

    async def run():
        context = ServerContext(scripted(models, script), Options(max_sessions=1))
        client = RecordingClient()
        chosen = context.default_settings.model_copy(update=settings)
        conversation = ResumableConversation(context.models.new_chat(), chosen, "key")
        session = PageSession("test", context, client, conversation, asyncio.create_task)
        async with asyncio.timeout(TIMEOUT_S):
            await session.open()
            await act(session, client)
            await session.close()
            await context.close()

    asyncio.run(run())


def test_an_adapter_without_a_socket_asks_interrupts_and_gets_replies(models):
    def script(question):
        return forever(question) if question == "long" else iter(["Hello", [1] * 5])

    async def act(session, client):
        await session.ask_text("long")
        await until(lambda: client.samples)
        assert session.in_play and session.idle_s == 0
        await session.ask_text("short")
        await session.reply_played()
        assert [end["reason"] for end in client.named("turn_end")] == ["interrupted", "done"]
        assert client.texts[-1] == "Hello" and client.replies_done == 1
        samples = tone(1.0, rate_hz=16000)
        await session.start_listening()
        await session.push_audio(lambda: samples)
        await session.end_question()
        await session.reply_played()
        assert client.named("turn_start")[-1] == {"turn": 3, "source": "voice", "seconds": 1.0}
        assert not session.in_play

    drive(models, script, act)


def test_the_transcript_of_a_question_that_never_got_its_turn_is_told(models):
    """Its task is cancelled before it begins."""

    def script(question):
        return iter(["words"])

    async def act(session, client):
        await session.push_audio(lambda: tone(1.0, rate_hz=16000))
        await session.end_question()
        first = session._turn
        await session.ask_text("instead")
        assert first.state is TurnState.INTERRUPTED
        await until(lambda: client.named("transcript"))
        assert first.state is TurnState.SETTLED
        assert client.named("transcript") == [{"turn": 1, "text": "words"}]

    drive(models, script, act, transcribe=True, answer="text")


def test_a_turn_refuses_a_transition_that_is_not_drawn(models):
    async def act(session, client):
        turn = Turn(
            session._context,
            client,
            session.conversation,
            1,
            "text",
            "hello",
            before=None,
            on_audio=lambda frame: None,
        )
        assert turn.state is TurnState.PENDING
        with pytest.raises(RuntimeError, match=r"cannot go from .*PENDING to .*DONE"):
            turn._move(TurnState.DONE)
        assert turn.state is TurnState.PENDING
        turn.task = asyncio.create_task(asyncio.sleep(0))
        turn.interrupt()
        with pytest.raises(RuntimeError, match="INTERRUPTED"):
            turn.interrupt()
        await turn.settle()
        assert turn.state is TurnState.SETTLED
        assert [event for event, _ in client.events[-2:]] == ["turn_start", "turn_end"]

    drive(models, lambda question: iter(()), act)


def test_settings_that_cannot_be_taken_change_nothing(models):
    async def act(session, client):
        await session.update_settings({"voice": "nobody"})
        assert client.named("error") == [{"code": "bad_settings"}]
        await session.push_audio(lambda: np.zeros(0, np.float32))
        await session.end_question()
        assert client.named("error")[-1] == {"code": "no_audio"}

    drive(models, lambda question: iter(()), act)
