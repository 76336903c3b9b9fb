# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The Realtime interface over real sockets; the helper validates every event of every test."""

import asyncio
import base64
import contextlib
import io
import json
import os
import threading
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
import openai
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from funaudiochat.constants import TRANSCRIBE_PROMPT
from tests.helpers import recordings
from tests.helpers.realtime_clients import MANUAL, RealtimeClient, check, pcm16
from tests.helpers.web_clients import (
    TIMEOUT_S,
    Page,
    forever,
    running,
    scripted,
    sessions_in_memory,
    tone,
    until,
)
from web_demo.server.openai_api.realtime_audio import AudioInput, AudioOutput
from web_demo.server.openai_api.realtime_items import MAX_ITEMS

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ORDER = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]


def run(test) -> None:
    asyncio.run(asyncio.wait_for(test(), TIMEOUT_S))


def script(asked):
    """Call the tool where one is offered, tell its result, speak on, fail, or echo."""
    tools = isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[0], str)
    question = asked[1] if tools else asked
    if question == ():  # an empty text
        question = ""
    if isinstance(question, tuple):
        question = f"result {question[0]}" if isinstance(question[0], str) else "speech"
    if tools and question == "Weather?":
        yield from (CALL[:5], CALL[5:])
    elif question == "long":
        yield from forever(question)
    elif question == "fail":
        raise RuntimeError("on purpose")
    else:
        yield f"<{question}>"
        yield [1] * 5
        yield " yes."
        yield [2] * 5


@pytest.fixture(scope="module")
def speaking(models):
    with running(scripted(models, script), max_sessions=8) as server:
        yield server


@asynccontextmanager
async def official(server, key="none"):
    """The Realtime client of the `openai` package."""
    pytest.importorskip("websockets")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key) as client:
        model = (await client.models.list()).data[0].id
        async with client.realtime.connect(model=model) as connection:
            yield connection


async def take(connection, kind):
    """Return the events up to one of a type."""
    found = []
    async for event in connection:
        check(event.to_dict(mode="json"))
        found.append(event)
        if event.type == kind:
            return found
    raise AssertionError(f"closed before {kind}")


def test_the_openai_package_has_a_conversation(speaking):
    async def conversation():
        async with official(speaking) as connection:
            await take(connection, "session.created")
            await connection.session.update(
                session={"type": "realtime", "instructions": "Be brief.", "tools": [TOOL], **MANUAL}
            )
            (updated,) = await take(connection, "session.updated")
            assert updated.session.instructions == "Be brief."
            for text in ("one", "two"):
                content = [{"type": "input_text", "text": text}]
                message = {"type": "message", "role": "user", "content": content}
                await connection.conversation.item.create(item=message)
                await connection.response.create()
                done = (await take(connection, "response.done"))[-1].response
                assert done.status == "completed"
                assert done.output[0].content[0].transcript == f"<{text}> yes."
            await connection.conversation.item.create(
                item={**message, "content": [{"type": "input_text", "text": "long"}]}
            )
            await connection.response.create()
            await take(connection, "response.output_audio.delta")
            await connection.response.cancel()
            done = (await take(connection, "response.done"))[-1].response
            assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
            await connection.conversation.item.create(
                item={**message, "content": [{"type": "input_text", "text": "Weather?"}]}
            )
            await connection.response.create()
            (call,) = (await take(connection, "response.done"))[-1].response.output
            assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
            await connection.conversation.item.create(item=result)
            await connection.response.create()
            done = (await take(connection, "response.done"))[-1].response
            assert done.output[0].content[0].transcript == "<result sunny> yes."
            await connection.send({"type": "nothing", "event_id": "mine"})
            error = (await take(connection, "error"))[-1].error
            assert error.type == "invalid_request_error" and error.event_id == "mine"
            await connection.close()

    run(conversation)


def test_a_spoken_question_is_heard_committed_and_answered(server, asked, network):
    async def conversation():
        async with RealtimeClient(server) as client:
            await client.configure(
                instructions="Be kind.",
                max_output_tokens=12,
                audio={"input": {"transcription": {"model": "whisper-1"}}},
            )
            said = recordings.question(24000)
            await client.say(np.concatenate([said, np.zeros(24000, np.float32)]))
            done = (await client.event("response.done"))["response"]
            kinds = client.kinds()
            first = [
                "input_audio_buffer.speech_started",
                "input_audio_buffer.speech_stopped",
                "input_audio_buffer.committed",
                "conversation.item.added",
                "conversation.item.done",
                "response.created",
            ]
            at = kinds.index(first[0])
            assert kinds[at : at + 6] == first
            start, stop = (client.named(kind)[0] for kind in first[:2])
            committed = client.named(first[2])[0]
            assert start["item_id"] == stop["item_id"] == committed["item_id"]
            assert 0 <= start["audio_start_ms"] < 1500
            assert abs(stop["audio_end_ms"] - len(said) / 24 - 500) < 1000
            assert done["status"] in ("completed", "incomplete")  # the model samples
            assert done["usage"]["output_tokens"] <= 12 and done["usage"]["input_tokens"] > 20
            usage = done["usage"]["output_token_details"]
            assert -(-len(client.audio()) // 9600) == usage["audio_tokens"]
            kind = "conversation.item.input_audio_transcription.completed"
            assert (await client.event(kind))["item_id"] == start["item_id"]
            got = await client.ask(
                "conversation.item.retrieve",
                "conversation.item.retrieved",
                item_id=start["item_id"],
            )
            kept = base64.b64decode(got["item"]["content"][0]["audio"])
            assert len(kept) > len(said)
            question, transcribed = asked[:2]
            assert question["system"].endswith("Be kind.") and question["tokens"] > 20
            assert transcribed["text"] == TRANSCRIBE_PROMPT

    run(conversation)


def test_the_events_of_a_response_come_in_the_originals_order(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.configure(**MANUAL)
            await client.type("hello", id="mine")
            done = await client.respond(metadata={"client_event_id": "7"})
            kinds = client.kinds()
            at = kinds.index("response.created")
            assert kinds[at : at + 4] == ORDER
            assert set(kinds[at + 4 : -6]) == {
                "response.output_audio_transcript.delta",
                "response.output_audio.delta",
            }
            assert kinds[-6:] == [
                "response.output_audio.done",
                "response.output_audio_transcript.done",
                "response.content_part.done",
                "conversation.item.done",
                "response.output_item.done",
                "response.done",
            ]
            added = client.named("conversation.item.added")[-1]
            assert added["previous_item_id"] == "mine"
            assert done["metadata"] == {"client_event_id": "7"} and done["usage"]["total_tokens"]
            assert len(client.audio()) == 10 * 960 * 2

    run(conversation)


def test_a_call_is_announced_before_its_arguments_and_text_is_text(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.configure(tools=[TOOL], output_modalities=["text"], **MANUAL)
            await client.type("hello")
            done = await client.respond()
            assert done["output"][0]["content"] == [{"type": "output_text", "text": "<hello> yes."}]
            assert not client.audio()
            for extra in ({}, {"output_modalities": ["audio"]}):
                await client.type("Weather?")
                before = len(client.events)
                done = await client.respond(**extra)
                kinds = client.kinds()[before:]
                assert kinds.index("conversation.item.added") < kinds.index(
                    "response.function_call_arguments.done"
                )
                (call,) = done["output"]
                assert call["type"] == "function_call" and call["status"] == "completed"
            done = await client.respond(tool_choice="none")
            assert done["output"][0]["type"] == "message"

    run(conversation)


def test_speech_interrupts_and_the_history_keeps_what_was_heard(models, network):
    heard = []

    def remember(question):
        heard.append(question)
        return forever(question)

    async def conversation():
        with running(scripted(models, remember), max_sessions=1) as server:
            async with RealtimeClient(server) as client:
                await client.type("long")
                await client.send("response.create")
                await client.event("response.output_audio.delta", 40)
                await client.say(recordings.question(24000), pace=0.5)
                done = (await client.event("response.done"))["response"]
                assert done["status_details"]["reason"] == "turn_detected"
                (message,) = done["output"]
                assert message["status"] == "incomplete"
                await client.ask(
                    "conversation.item.truncate",
                    "conversation.item.truncated",
                    item_id=message["id"],
                    content_index=0,
                    audio_end_ms=500,
                )
                got = await client.ask(
                    "conversation.item.retrieve",
                    "conversation.item.retrieved",
                    item_id=message["id"],
                )
                # A word each 200 ms: three of them began in half a second.
                assert got["item"]["content"][0]["transcript"] == "w0 w1 w2 "
                await client.ask(
                    "conversation.item.truncate",
                    "error",
                    item_id=message["id"],
                    content_index=0,
                    audio_end_ms=5000,
                )

    run(conversation)


def test_without_turn_detection_the_client_commits_and_asks(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.configure(**MANUAL)
            await client.ask("input_audio_buffer.commit", "error")
            assert client.errors() == ["input_audio_buffer_commit_empty"]
            await client.say(tone(0.5))
            await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
            await client.ask("input_audio_buffer.commit", "error")
            await client.say(tone(0.5))
            await client.ask("input_audio_buffer.commit", "conversation.item.done")
            assert "response.created" not in client.kinds()
            done = await client.respond()
            assert done["status"] == "completed" and len(client.audio()) > 0

    run(conversation)


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_audio_goes_in_and_out(speaking, kind):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            form = {"format": {"type": kind}}
            await client.configure(
                audio={"input": {**form, "turn_detection": None}, "output": form}
            )
            await client.append(bytes([0x55]) * 8000)
            await client.ask("input_audio_buffer.commit", "conversation.item.done")
            await client.respond()
            assert len(client.audio()) == 10 * 320

    run(conversation)
    subtype = {"audio/pcmu": "ULAW", "audio/pcma": "ALAW"}[kind]
    samples = tone(1.0, rate_hz=8000)
    file = io.BytesIO()
    soundfile.write(file, samples, 8000, format="RAW", subtype=subtype)
    heard = AudioInput(kind).decode(file.getvalue())
    expected = tone(1.0, rate_hz=16000)[: len(heard)]
    assert len(heard) > 15200 and np.abs(heard - expected)[200:-200].max() < 0.02
    output = AudioOutput(kind)
    data = output.encode(tone(1.0)) + output.encode(np.zeros(0, np.float32), last=True)
    decoded, _ = soundfile.read(io.BytesIO(data), samplerate=8000, channels=1, format="RAW",
                                subtype=subtype)  # fmt: skip
    assert len(decoded) == 8000 and np.abs(decoded - samples)[100:-100].max() < 0.02


def test_responses_out_of_band_leave_the_conversation_alone(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.configure(**MANUAL)
            await client.type("long", id="question")
            await client.send("response.create")
            await client.event("response.output_audio.delta")
            await client.ask("response.create", "error")
            assert client.errors() == ["conversation_already_has_active_response"]
            content = [{"type": "input_text", "text": "aside"}]
            message = {"type": "message", "role": "user", "content": content}
            added = len(client.named("conversation.item.added"))
            done = await client.respond(
                conversation="none", input=[message], output_modalities=["text"]
            )
            assert done["output"][0]["content"][0]["text"] == "<aside> yes."
            assert done["conversation_id"] is None
            assert len(client.named("conversation.item.added")) == added
            reference = {"type": "item_reference", "id": "question"}
            await client.send(
                "response.create", response={"conversation": "none", "input": [reference]}
            )
            aside = (await client.event("response.created", 3))["response"]["id"]
            await client.ask("response.cancel", "response.done", response_id=aside)
            assert client.named("response.done")[-1]["response"]["id"] == aside
            done = await client.ask("response.cancel", "response.done")
            assert done["response"]["status"] == "cancelled"
            await client.ask("response.cancel", "error")
            assert client.errors()[-1] == "response_cancel_not_active"

    run(conversation)


def test_a_cancelled_response_counts_the_same_prompt_as_a_complete_one(server):
    async def conversation():
        message = {"type": "message", "role": "user",
                   "content": [{"type": "input_text", "text": "How are you?"}]}  # fmt: skip
        async with RealtimeClient(server) as client:
            await client.configure(**MANUAL)
            whole = await client.respond(input=[message], max_output_tokens=2)
            for attempt in range(1, 6):  # the model samples: a reply may end before it is cancelled
                await client.send("response.create", response={"input": [message]})
                await client.event("response.output_item.added", 1 + attempt)
                await client.send("response.cancel")
                done = (await client.event("response.done", 1 + attempt))["response"]
                if done["status"] == "cancelled":
                    break
            assert done["status"] == "cancelled"
            assert done["usage"]["input_tokens"] == whole["usage"]["input_tokens"] > 5
            assert done["usage"]["output_tokens"] > 0

    run(conversation)


def test_items_are_placed_retrieved_and_deleted_by_their_ids(server, asked):
    async def conversation():
        async with RealtimeClient(server) as client:
            await client.configure(output_modalities=["text"], max_output_tokens=2, **MANUAL)
            for item_id, previous in (("b", None), ("c", None), ("a", "root")):
                added = await client.ask(
                    "conversation.item.create",
                    "conversation.item.added",
                    previous_item_id=previous,
                    item={"type": "message", "role": "user", "id": item_id,
                          "content": [{"type": "input_text", "text": item_id}]},
                )  # fmt: skip
            assert added["previous_item_id"] is None
            answer = {"type": "message", "role": "assistant", "id": "said",
                      "content": [{"type": "output_text", "text": "hm"}]}  # fmt: skip
            added = await client.ask("conversation.item.create", "conversation.item.added",
                                     item=answer, previous_item_id="b")  # fmt: skip
            assert added["previous_item_id"] == "b"
            done = await client.respond(instructions="Now.")
            assert done["status"] == "incomplete" and done["usage"]["output_tokens"] == 2
            assert done["status_details"]["reason"] == "max_output_tokens"
            assert asked[-1]["history"] == ["a\nb", "hm"] and asked[-1]["text"] == "c"
            assert asked[-1]["system"].endswith("Now.")
            await client.ask("conversation.item.delete", "conversation.item.deleted", item_id="a")
            await client.ask("conversation.item.retrieve", "error", item_id="a")
            assert client.errors() == ["item_retrieve_invalid_item_id"]
            await client.type("d")
            await client.respond()
            assert asked[-1]["history"][:2] == ["b", "hm"] and asked[-1]["text"] == "d"

    run(conversation)


def test_a_failing_model_ends_the_response_and_not_the_session(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.configure(**MANUAL)
            await client.type("fail")
            done = await client.respond()
            assert done["status"] == "failed" and done["status_details"]["error"]["message"]
            await client.type("hello")
            assert (await client.respond())["status"] == "completed"

    run(conversation)


def test_a_reply_that_may_not_be_interrupted_is_followed_by_the_next(models, network):
    begun = threading.Event()

    def slow(question):
        if isinstance(question, str):
            for number in range(15):
                begun.set()
                yield f"w{number} "
                yield [1] * 5
        else:
            yield "next"

    async def conversation():
        with running(scripted(models, slow), max_sessions=1) as server:
            async with RealtimeClient(server) as client:
                detection = {"type": "semantic_vad", "eagerness": "high",
                             "interrupt_response": False}  # fmt: skip
                await client.configure(audio={"input": {"turn_detection": detection}})
                await client.type("long")
                await client.send("response.create")
                await client.event("response.output_audio.delta")
                quiet = np.zeros(24000, np.float32)
                await client.say(np.concatenate([recordings.question(24000), quiet]))
                await client.event("response.done", 2)
                first, second = (e["response"] for e in client.named("response.done"))
                assert first["status"] == second["status"] == "completed"
                assert second["output"][0]["content"][0]["transcript"] == "next"

    run(conversation)


def test_a_user_who_stays_silent_is_spoken_to(speaking, network):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            detection = {"type": "server_vad", "idle_timeout_ms": 5000}
            await client.configure(audio={"input": {"turn_detection": detection}})
            await client.type("hello")
            await client.respond()
            triggered = await client.event("input_audio_buffer.timeout_triggered")
            assert (await client.event("input_audio_buffer.committed"))["item_id"] == triggered[
                "item_id"
            ]
            await client.event("response.done", 2)

    run(conversation)


def test_the_token_comes_as_a_header_a_parameter_or_a_subprotocol(models):
    async def conversation():
        with running(models, token="secret") as server:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with RealtimeClient(server):
                    pass
            assert refused.value.status == 401
            client = RealtimeClient(server)
            client.headers["Authorization"] = "Bearer secret"
            key = ("realtime", "openai-insecure-api-key.secret")
            for one in (
                client,
                RealtimeClient(server, token="secret"),
                RealtimeClient(server, key),
            ):
                async with one:
                    await one.event("session.created")
            assert one.socket.protocol == "realtime"
            key = ("realtime", "openai-insecure-api-key.wrong")
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with RealtimeClient(server, key):
                    pass

    run(conversation)


def test_other_models_foreign_pages_and_full_servers_are_refused(models):
    async def conversation():
        with running(models, max_sessions=1, queue_size=0) as server:
            for status, query, headers in (
                (404, {"model": "gpt-realtime"}, {}),
                (403, {}, {"Origin": "https://other.example"}),
            ):
                client = RealtimeClient(server, **query)
                client.headers.update(headers)
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    async with client:
                        pass
                assert refused.value.status == status
            async with aiohttp.ClientSession() as http:
                answer = await http.get(f"{server.url}/v1/realtime")
                assert answer.status == 400
            async with RealtimeClient(server) as first:
                await first.event("session.created")
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    async with RealtimeClient(server):
                        pass
                assert refused.value.status == 429
            await until(lambda: server.context.lobby.active == 0)

    run(conversation)


def test_a_session_in_the_queue_keeps_the_events_of_its_client(models):
    async def conversation():
        with running(scripted(models, script), max_sessions=1, queue_size=1) as server:
            async with RealtimeClient(server) as first, RealtimeClient(server) as second:
                await first.event("session.created")
                await second.send("session.update", session={"type": "realtime", **MANUAL})
                await second.send("response.create")
                await first.socket.close()
                await second.event("response.done")
                assert second.kinds()[:2] == ["session.created", "session.updated"]

    run(conversation)


WRONG = [
    ("nothing at all", "invalid_json"),
    ("[1]", "invalid_json"),
    ("[" * 100_000, "invalid_json"),
    (b"\x00\x01", "invalid_json"),
    ({}, "missing_required_parameter"),
    ({"type": 7}, "invalid_value"),
    ({"type": "output_audio_buffer.clear"}, "invalid_value"),
    ({"type": "session.update"}, "missing_required_parameter"),
    ({"type": "session.update", "session": {"type": "transcription"}}, "invalid_value"),
    ({"type": "session.update", "session": {"model": "other"}}, "unsupported_value"),
    ({"type": "session.update", "session": {"audio": 5}}, "invalid_value"),
    ({"type": "session.update", "session": {"audio": {"output": {"speed": 1.2}}}},
     "unsupported_value"),
    ({"type": "session.update", "session": {"tool_choice": "required"}}, "unsupported_value"),
    ({"type": "session.update", "session": {"tools": [{"type": "mcp"}]}}, None),
    ({"type": "session.update", "session": {"output_modalities": ["text", "audio"]}},
     "invalid_value"),
    ({"type": "session.update", "session": {"audio": {"input": {"format":
      {"type": "audio/pcm", "rate": 16000}}}}}, "invalid_value"),
    ({"type": "session.update", "session": {"audio": {"input": {"turn_detection":
      {"type": "server_vad", "threshold": 7}}}}}, "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": "!!"}, "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": 5}, "invalid_value"),
    ({"type": "input_audio_buffer.append", "audio": "A" * 20_000_000}, "message_too_large"),
    ({"type": "conversation.item.create", "item": {"type": "message"}},
     "missing_required_parameter"),
    ({"type": "conversation.item.create", "item": {"type": "message", "role": "user",
      "content": [{"type": "input_image", "image_url": "x"}]}}, "unsupported_value"),
    ({"type": "conversation.item.create", "item": {"type": "message", "role": "user",
      "content": [{"type": "input_audio", "audio": ""}]}}, "invalid_value"),
    ({"type": "conversation.item.create", "item": {"type": "message", "role": "user",
      "content": [{"type": "output_text", "text": "x"}]}}, "invalid_value"),
    ({"type": "conversation.item.create", "item": {"type": "function_call", "name": "f",
      "arguments": "[1]"}}, "invalid_value"),
    ({"type": "conversation.item.create", "item": {"type": "function_call_output",
      "call_id": "c", "output": "x"}}, "invalid_tool_call_id"),
    ({"type": "conversation.item.create", "previous_item_id": "zz", "item": {"type": "message",
      "role": "user", "content": [{"type": "input_text", "text": "x"}]}},
     "item_create_invalid_previous_item_id"),
    ({"type": "conversation.item.delete", "item_id": "zz"}, "item_delete_invalid_item_id"),
    ({"type": "conversation.item.truncate", "item_id": "zz", "content_index": 0,
      "audio_end_ms": 1}, "item_truncate_invalid_item_id"),
    ({"type": "response.create", "response": {"conversation": "other"}}, "invalid_value"),
    ({"type": "response.create", "response": {"max_output_tokens": 0}}, "invalid_value"),
    ({"type": "response.create", "response": {"prompt": {"id": "p"}}}, "unsupported_value"),
    ({"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "z"}]}},
     "invalid_value"),
    ({"type": "response.cancel"}, "response_cancel_not_active"),
]  # fmt: skip


def test_hostile_events_are_answered_with_errors_and_the_session_lives_on(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            before = (await client.event("session.created"))["session"]
            for number, (event, code) in enumerate(WRONG):
                if isinstance(event, bytes):
                    await client.socket.send_bytes(event)
                elif isinstance(event, str):
                    await client.socket.send_str(event)
                else:
                    event = {**event, "event_id": f"event {number}"}
                    await client.socket.send_str(json.dumps(event))
                error = (await client.event("error", number + 1))["error"]
                assert error["type"] == "invalid_request_error" and error["message"]
                assert code is None or error["code"] == code, (event, error)
                read = isinstance(event, dict) and len(str(event)) < 1e6
                assert error["event_id"] == (f"event {number}" if read else None)
            assert len(client.named("error")) == len(WRONG)
            assert (await client.configure())["session"] == before
            await client.type("lone surrogate \ud800")
            assert (await client.respond())["status"] == "completed"

    run(conversation)


def test_ten_thousand_items_are_too_many(speaking):
    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.configure(output_modalities=["text"], **MANUAL)
            message = {"type": "message", "role": "user",
                       "content": [{"type": "input_text", "text": "x"}]}  # fmt: skip
            for _ in range(10_000):
                await client.send("conversation.item.create", item=message)
            await client.event("error", 10_000 - MAX_ITEMS)
            assert set(client.errors()) == {"conversation_too_long"}
            assert (await client.respond())["status"] == "completed"
            assert client.named("conversation.item.deleted")

    run(conversation)


def test_replies_to_four_sessions_of_both_protocols_are_not_mixed(models):
    def answer(question):
        for _ in range(10):
            yield f"{question} "
            yield [len(question)] * 5

    async def realtime(server, word):
        async with RealtimeClient(server) as client:
            for turn in range(2):
                await client.type(f"{word}{turn}")
                done = await client.respond()
                assert done["output"][0]["content"][0]["transcript"] == f"{word}{turn} " * 10
                assert len(client.audio()) == (turn + 1) * 10 * 9600
            return client.audio()

    async def page(server, word):
        async with Page(server) as client:
            await client.event("ready")
            for turn in range(2):
                await client.send(2, f"{word}{turn}")
                end = await client.event("turn_end", turn + 1, reason="done")
                assert end["text"] == f"{word}{turn} " * 10 and end["audio_ms"] == 2000

    async def all_at_once():
        with running(scripted(models, answer), max_sessions=4) as server:
            first, second, *_ = await asyncio.gather(
                realtime(server, "a"),
                realtime(server, "bbbb"),
                page(server, "c"),
                page(server, "d"),
            )
            assert first != second

    run(all_at_once)


async def open_and_close(server, sessions):
    for number in range(sessions):
        async with RealtimeClient(server) as client:
            await client.event("session.created")
            await client.type("long")
            await client.send("response.create")
            if number % 2:
                await client.event("response.output_audio.delta")
            await client.append(pcm16(tone(0.2)))


@pytest.mark.parametrize("sessions", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_sessions_one_after_another_leave_nothing_behind(speaking, sessions):
    async def count():
        return len(asyncio.all_tasks())

    def files():
        return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    async def conversation():
        await open_and_close(speaking, 2)
        await until(lambda: speaking.context.lobby.active == 0)
        tasks, threads, opened = await asyncio.to_thread(speaking.call, count()), 0, files()
        threads = threading.active_count()
        await open_and_close(speaking, sessions)
        await until(lambda: speaking.context.lobby.active == speaking.context.engine.jobs == 0)
        await until(lambda: not speaking.sessions.connections)
        assert await asyncio.to_thread(speaking.call, count()) <= tasks + 1
        left = await asyncio.to_thread(speaking.call, sessions_in_memory())
        assert left <= 1  # the loop may still hold the last one
        assert files() <= opened + 4 and threading.active_count() <= threads + 20

    asyncio.run(asyncio.wait_for(conversation(), TIMEOUT_S + 2 * sessions))


IDS = st.sampled_from(["a", "b", "a call", "its result", "nobody"])
SOUND = base64.b64encode(pcm16(tone(0.2))).decode()
MESSAGE = st.builds(
    lambda role, text, name: {
        "type": "message", "role": role, "id": name,
        "content": [{"type": "output_text" if role == "assistant" else "input_text",
                     "text": text}],
    },
    st.sampled_from(["user", "assistant", "system"]),
    st.sampled_from(["hello", "long", "Weather?", "fail", ""]),
    IDS,
)  # fmt: skip
SPOKEN = st.builds(
    lambda name: {"type": "message", "role": "user", "id": name,
                  "content": [{"type": "input_audio", "audio": SOUND}]},
    IDS,
)  # fmt: skip
FUNCTIONS = st.sampled_from(
    [
        {"type": "function_call", "id": "a call", "call_id": "c", "name": "get_weather",
         "arguments": "{}"},
        {"type": "function_call_output", "id": "its result", "call_id": "c", "output": "sunny"},
    ]
)  # fmt: skip
DETECTION = st.sampled_from(
    [None, {"type": "server_vad", "silence_duration_ms": 200}, {"type": "semantic_vad"}]
)
CONFIG = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={
        "instructions": st.sampled_from(["", "Be brief."]),
        "output_modalities": st.sampled_from([["audio"], ["text"]]),
        "tools": st.sampled_from([[], [TOOL]]),
        "tool_choice": st.sampled_from(["auto", "none"]),
        "max_output_tokens": st.sampled_from([1, 5, "inf"]),
        "truncation": st.sampled_from(["auto", "disabled"]),
        "tracing": st.sampled_from([None, "auto"]),
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "turn_detection": DETECTION,
                        "transcription": st.sampled_from([None, {"model": "whisper-1"}]),
                        "noise_reduction": st.sampled_from([None, {"type": "near_field"}]),
                    },
                ),
                "output": st.fixed_dictionaries(
                    {"format": st.sampled_from([{"type": f"audio/{f}"} for f in
                                                ("pcm", "pcmu", "pcma")])}
                ),
            },
        ),
    },
)  # fmt: skip
RESPONSE = st.fixed_dictionaries(
    {},
    optional={
        "conversation": st.sampled_from(["auto", "none"]),
        "output_modalities": st.sampled_from([["audio"], ["text"]]),
        "instructions": st.just("Sing."),
        "metadata": st.just({"client_event_id": "1"}),
        "input": st.lists(st.one_of(MESSAGE, SPOKEN), max_size=2),
    },
)
EVENTS = st.one_of(
    st.builds(lambda c: ("session.update", {"session": c}), CONFIG),
    st.builds(lambda a: ("input_audio_buffer.append", {"audio": a}), st.sampled_from(["", SOUND])),
    st.just(("input_audio_buffer.append", {"audio": "question"})),
    st.sampled_from([("input_audio_buffer.commit", {}), ("input_audio_buffer.clear", {})]),
    st.builds(
        lambda item, previous: (
            "conversation.item.create", {"item": item, "previous_item_id": previous}
        ),
        st.one_of(MESSAGE, SPOKEN, FUNCTIONS),
        st.one_of(st.none(), st.just("root"), IDS),
    ),
    st.builds(lambda name, i: (f"conversation.item.{name}", {"item_id": i}),
              st.sampled_from(["delete", "retrieve"]), IDS),
    st.builds(lambda i, ms: ("conversation.item.truncate",
                             {"item_id": i, "content_index": 0, "audio_end_ms": ms}),
              st.one_of(IDS, st.just("last reply")), st.integers(0, 400)),
    st.builds(lambda r: ("response.create", {"response": r}), st.one_of(st.none(), RESPONSE)),
    st.sampled_from([("response.cancel", {}), ("output_audio_buffer.clear", {}),
                     ("wait for audio", {}), ("wait for the end", {})]),
)  # fmt: skip
QUESTION_PCM = base64.b64encode(
    pcm16(np.concatenate([recordings.question(24000), np.zeros(24000, np.float32)]))
).decode()


@settings(max_examples=int(os.environ.get("REALTIME_EXAMPLES", "10")), deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=25))
def test_every_event_is_taken_in_every_state(speaking, events):
    """No crash, no hang, no invalid event; each event is answered and each response ends."""

    async def conversation():
        async with RealtimeClient(speaking) as client:
            await client.event("session.created")
            for kind, fields in events:
                if kind == "wait for audio":
                    if len(client.named("response.created")) > len(client.named("response.done")):
                        await client.until(
                            lambda: {"response.output_audio.delta", "response.output_text.delta",
                                     "response.done"} & set(client.kinds())
                        )  # fmt: skip
                    continue
                if kind == "wait for the end":
                    await asyncio.sleep(0.05)
                    continue
                if fields.get("audio") == "question":
                    fields = {"audio": QUESTION_PCM}
                if fields.get("item_id") == "last reply":
                    added = client.named("response.output_item.added")
                    fields = {**fields, "item_id": added[-1]["item"]["id"] if added else "none"}
                await client.send(kind, **fields)
            await client.configure(audio={"input": {"turn_detection": None}})

            def unfinished():
                done = {event["response"]["id"] for event in client.named("response.done")}
                begun = {event["response"]["id"] for event in client.named("response.created")}
                return begun - done

            def last():
                done = [event["response"] for event in client.named("response.done")]
                return [response for response in done if response["metadata"] == {"last": "yes"}]

            final = {"conversation": "none", "input": [], "output_modalities": ["text"]}
            while unfinished() or not last():
                for response_id in unfinished():
                    await client.send("response.cancel", response_id=response_id)
                if not unfinished():
                    final["metadata"] = {"last": "yes"}
                    await client.send("response.create", response=final)
                with contextlib.suppress(TimeoutError):
                    await client.until(lambda: last() and not unfinished(), 1.0)
            for error in client.named("error"):
                assert error["error"]["type"] != "server_error", error
            for kind in ("output_item", "content_part"):
                opened = client.named(f"response.{kind}.added")
                assert len(opened) == len(client.named(f"response.{kind}.done"))

    run(conversation)
