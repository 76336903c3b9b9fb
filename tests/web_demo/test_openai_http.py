# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Chat completions, transcription and speech, asked for by the `openai` package over sockets."""

import base64
import io
import json
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest
import soundfile
from openai.types.chat import ChatCompletion

from funaudiochat.constants import TRANSCRIBE_PROMPT
from tests.helpers import ROOT
from tests.helpers.web_clients import TIMEOUT_S, running, scripted, tone, until

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


def client_of(server, token: str = "none") -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=token, max_retries=0, timeout=TIMEOUT_S
    )


def wav(waveform: np.ndarray, rate_hz: int = 24000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate_hz, format="WAV")
    return file.getvalue()


def audio_part(data: bytes, form: str = "wav") -> dict:
    encoded = base64.b64encode(data).decode()
    return {"type": "input_audio", "input_audio": {"data": encoded, "format": form}}


@pytest.fixture
def client(server):
    return client_of(server)


@pytest.fixture
def model(client) -> str:
    (entry,) = client.models.list().data
    assert client.models.retrieve(entry.id) == entry
    return entry.id


def script(asked):
    """Echo what is asked; call the tool where one is offered; tell the tool's result."""
    if isinstance(asked, tuple) and asked[0] == "tools":
        yield from (CALL[:5], CALL[5:])
    elif isinstance(asked, tuple) and asked[0] == "result":
        yield f"It is {asked[1]}."
    else:
        yield "Good "
        yield list(range(5))
        yield "day."
        yield list(range(5, 10))


@pytest.fixture(scope="module")
def speaking(models):
    with running(scripted(models, script)) as server:
        yield server


def test_a_typed_conversation_is_answered_with_its_history(client, model, asked):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("and", "you?")]},
    ]
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=8)
    (choice,) = reply.choices
    assert choice.message.content and choice.message.audio is None
    assert choice.finish_reason == "length" and reply.usage.completion_tokens == 8
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 8 > 20
    (entry,) = asked
    assert entry["text"] == "and\nyou?" and entry["history"] == ["Hello", "Hi!"]
    assert entry["system"].endswith("Be brief.") and entry["tokens"] is None


def test_streamed_text_is_the_whole_reply_and_usage_comes_last(client, model):
    request = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
    whole = client.chat.completions.create(**request)
    chunks = list(
        client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage


def test_a_spoken_question_gets_a_spoken_reply_that_a_later_turn_refers_to(client, model, asked):
    spoken = audio_part(wav(tone(2.0, rate_hz=16000), 16000))
    messages = [{"role": "user", "content": [spoken, {"type": "text", "text": "Answer."}]}]
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=12, **SPOKEN)
    audio = reply.choices[0].message.audio
    heard, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(audio.data)))
    assert rate_hz == 24000 and len(heard) > 0 and audio.transcript is not None
    details = reply.usage.completion_tokens_details
    assert details.audio_tokens == math.ceil(len(heard) / 24000 * 5) > 0
    assert details.audio_tokens + details.text_tokens == reply.usage.completion_tokens == 12
    assert asked[0]["tokens"] == 50 and asked[0]["text"] == "Answer."
    messages += [
        {"role": "assistant", "audio": {"id": audio.id}},
        {"role": "user", "content": "Again."},
    ]
    client.chat.completions.create(model=model, messages=messages, max_tokens=2)
    assert asked[1]["history"] == ["Answer.", audio.transcript]
    messages[1]["audio"]["id"] = "audio_unknown"
    with pytest.raises(openai.BadRequestError, match="no reply 'audio_unknown' is kept"):
        client.chat.completions.create(model=model, messages=messages)


@pytest.mark.parametrize(("form", "container"), [("wav", "WAV"), ("mp3", "MP3"), ("flac", "FLAC"),
                                                 ("opus", "OGG")])  # fmt: skip
def test_reply_audio_comes_in_the_format_asked_for(speaking, form, container):
    client = client_of(speaking)
    request = {**SPOKEN, "audio": {"voice": "ben", "format": form}}
    name = client.models.list().data[0].id
    reply = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Hello"}], **request
    )
    data = base64.b64decode(reply.choices[0].message.audio.data)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.format == container and file.samplerate in (24000, 48000)
        assert file.frames / file.samplerate == pytest.approx(0.4, abs=0.1)
    assert reply.choices[0].message.audio.transcript == "Good day."


def test_streamed_audio_is_the_audio_of_the_whole_reply(speaking):
    client = client_of(speaking)
    request = {
        "model": client.models.list().data[0].id,
        "messages": [{"role": "user", "content": "Hello"}],
        "modalities": ["text", "audio"],
    }
    audio = {"voice": "anna", "format": "pcm16"}
    whole = client.chat.completions.create(**request, audio=audio).choices[0].message.audio
    pieces, said, ids = b"", "", set()
    for chunk in client.chat.completions.create(**request, audio=audio, stream=True):
        part = chunk.choices[0].delta.model_dump(exclude_none=True).get("audio", {})
        pieces += base64.b64decode(part.get("data", ""))
        said += part.get("transcript", "")
        ids |= {part["id"]} if part else set()
    assert said == whole.transcript == "Good day." and len(ids) == 1
    expected = np.frombuffer(base64.b64decode(whole.data), "<i2")
    assert len(expected) == 10 * 960
    assert np.abs(np.frombuffer(pieces, "<i2") - expected.astype(int)).max() <= 1


@pytest.mark.parametrize("extra", [{}, SPOKEN], ids=["text", "speech"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_is_asked_for_and_its_result_is_told(speaking, extra, stream):
    client = client_of(speaking)
    if stream and extra:
        extra = {**extra, "audio": {"voice": "anna", "format": "pcm16"}}
    request = {"model": client.models.list().data[0].id, "tools": [TOOL], **extra}
    messages = [{"role": "user", "content": "Weather in Paris?"}]
    reply = client.chat.completions.create(messages=messages, stream=stream, **request)
    if stream:
        chunks = list(reply)
        assert not any(chunk.choices[0].delta.content for chunk in chunks)
        ((call,),) = [
            c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls
        ]
        reason = chunks[-1].choices[0].finish_reason
    else:
        (call,) = reply.choices[0].message.tool_calls
        assert reply.choices[0].message.content is None
        reason = reply.choices[0].finish_reason
    assert reason == "tool_calls" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    made = {"id": call.id, "type": "function", "function": call.function.model_dump()}
    messages += [
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    answer = client.chat.completions.create(messages=messages, **{**request, "tools": []})
    message = answer.choices[0].message
    assert (message.audio.transcript if message.audio else message.content) == "Good day."


def test_a_stop_text_ends_the_reply(client, model):
    request = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12}
    whole = client.chat.completions.create(**request).choices[0].message.content
    middle = whole[len(whole) // 2 :][:2]
    cut = client.chat.completions.create(**request, stop=[middle]).choices[0]
    assert cut.message.content == whole[: whole.index(middle)] and cut.finish_reason == "stop"


def test_transcription_asks_the_trained_prompt(client, model, asked):
    for form, read in (
        ("json", lambda reply: reply.text),
        ("text", str),
        ("verbose_json", lambda reply: reply.text),
    ):
        reply = client.audio.transcriptions.create(
            file=("q.wav", wav(tone(1.5, rate_hz=16000), 16000)), model=model, response_format=form
        )
        assert isinstance(read(reply), str)
        if form == "verbose_json":
            assert reply.duration == 1.5
    assert [entry["text"] for entry in asked] == [TRANSCRIBE_PROMPT] * 3
    assert {entry["tokens"] for entry in asked} == {38}


def test_a_text_is_read_aloud(speaking):
    client = client_of(speaking)
    name = client.models.list().data[0].id
    for form, samples in (("pcm", 10 * 960), ("wav", 10 * 960)):
        reply = client.audio.speech.create(
            model=name, voice="anna", input="Good day.", response_format=form
        )
        data = reply.read()
        heard = np.frombuffer(data, "<i2") if form == "pcm" else soundfile.read(io.BytesIO(data))[0]
        assert len(heard) == samples and np.abs(heard).max() > 0


REFUSED = [
    ({"model": "gpt-4o"}, openai.NotFoundError, "is not served here"),
    ({"messages": []}, openai.BadRequestError, "messages"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "last message"),
    ({"messages": [{"role": "user", "content": ""}]}, openai.BadRequestError, "neither text"),
    ({"messages": [{"role": "user", "content": [audio_part(b"")]}]}, openai.BadRequestError,
     r"messages\[0\].content\[0\].input_audio.data"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio":
      {"data": "!!", "format": "wav"}}]}]}, openai.BadRequestError, "not base64"),
    ({"messages": [{"role": "user", "content": [{"type": "audio_url", "audio_url":
      {"url": "http://127.0.0.1/x.wav"}}]}]}, openai.BadRequestError, "nothing is fetched"),
    ({"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
     openai.BadRequestError, "follows no assistant"),
    ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
      {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1]"}}]},
      {"role": "tool", "tool_call_id": "c", "content": "x"}]}, openai.BadRequestError,
     "JSON object"),
    ({"n": 2}, openai.BadRequestError, "n: one reply"),
    ({"logprobs": True}, openai.BadRequestError, "logprobs"),
    ({"temperature": 3}, openai.BadRequestError, "temperature"),
    ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
    ({"modalities": ["text", "audio"]}, openai.BadRequestError, "audio: spoken output needs"),
    ({**SPOKEN, "stream": True}, openai.BadRequestError, "pcm16"),
    ({"messages": [{"role": "user", "content": "word " * 40000}]}, openai.BadRequestError,
     "positions"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), REFUSED)
def test_a_wrong_request_is_refused_in_the_originals_form(client, model, change, kind, message):
    request = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    with pytest.raises(kind, match=message) as refused:
        client.chat.completions.create(**{**request, **change})
    assert {"message", "type", "param", "code"} <= set(refused.value.body)


def test_hostile_bodies_are_refused_and_the_server_lives_on(server, client, model):
    url = f"{server.url}/v1/chat/completions"
    for body in (b"", b"{", b"[]", b"null", b'{"model": 1}', b"\xff\xfe", b"[" * 5000):
        answer = httpx.post(url, content=body, timeout=TIMEOUT_S)
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    for route in ("chat/completions", "audio/speech", "audio/transcriptions", "nothing"):
        answer = httpx.post(f"{server.url}/v1/{route}", json={}, timeout=TIMEOUT_S)
        assert answer.status_code in (400, 404) and answer.json()["error"]["type"]
    big = httpx.post(url, content=b"x" * (17 * 2**20), timeout=TIMEOUT_S)
    assert big.status_code == 413 and "--max-message-bytes" in big.json()["error"]["message"]
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=2
    )
    assert isinstance(reply, ChatCompletion)


def test_a_token_is_wanted_as_the_page_wants_it(models):
    with running(models, token="secret") as server:
        with pytest.raises(openai.AuthenticationError, match="Bearer"):
            client_of(server, "wrong").models.list()
        assert client_of(server, "secret").models.list().data


def test_who_finds_no_place_is_told_to_come_back_and_who_leaves_frees_one(models):
    begun, go_on = threading.Event(), threading.Event()

    def slow(_):
        begun.set()
        assert go_on.wait(TIMEOUT_S)
        yield "done"

    with running(scripted(models, slow), max_sessions=1, queue_size=0) as server:
        client = client_of(server)
        name = client.models.list().data[0].id
        request = {"model": name, "messages": [{"role": "user", "content": "Hi"}]}
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.chat.completions.create, **request)
            assert begun.wait(TIMEOUT_S)
            with pytest.raises(openai.RateLimitError, match="queue is full") as refused:
                client.chat.completions.create(**request)
            assert refused.value.response.headers["Retry-After"]
            go_on.set()
            assert first.result().choices[0].message.content == "done"
        begun.clear()
        go_on.clear()
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=1).chat.completions.create(**request)
        assert begun.wait(TIMEOUT_S)
        server.call(until(lambda: server.context.lobby.active == 0))
        go_on.set()
        assert client.chat.completions.create(**request).choices[0].message.content == "done"


def test_the_description_names_every_route(server):
    description = httpx.get(f"{server.url}/openapi.json", timeout=TIMEOUT_S).json()
    assert set(description["paths"]) == {
        "/v1/models", "/v1/models/{name}", "/v1/chat/completions", "/v1/audio/transcriptions",
        "/v1/audio/speech",
    }  # fmt: skip
    fields = description["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "modalities", "audio", "stop", "tools"} <= set(fields)


def test_replies_of_many_clients_at_once_are_not_mixed(models):
    def echo(asked):
        yield f"{asked}!"

    with running(scripted(models, echo), max_sessions=4, queue_size=64) as server:
        client = client_of(server)
        name = client.models.list().data[0].id

        def ask(number: int) -> str:
            messages = [{"role": "user", "content": f"number {number}"}]
            return (
                client.chat.completions.create(model=name, messages=messages)
                .choices[0]
                .message.content
            )

        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(ask, range(24))) == [f"number {n}!" for n in range(24)]


def test_a_tone_is_read_as_vllms_clients_send_it(client, model, asked):
    url = "data:audio/wav;base64," + base64.b64encode(wav(tone(1.0))).decode()
    part = {"type": "audio_url", "audio_url": {"url": url}}
    messages = [{"role": "user", "content": [part]}]
    client.chat.completions.create(model=model, messages=messages, max_tokens=2)
    assert asked[0]["tokens"] == 25


def test_the_guides_example_runs(server, asked, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "openai-api.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(example.replace("http://localhost:11236", server.url), {})
    heard, rate_hz = soundfile.read("reply.wav")
    assert rate_hz == 24000 and len(heard)
    assert [entry["text"] for entry in asked] == ["", TRANSCRIBE_PROMPT]
