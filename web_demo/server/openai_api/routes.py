# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Routes below ``/v1``: models, chat completions, transcriptions, speech; and their description."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
from aiohttp import BodyPartReader, web
from pydantic import BaseModel, ValidationError

from funaudiochat.constants import (
    DEFAULT_S2T_PROMPT,
    GROUP_SIZE,
    INPUT_RATE_HZ,
    OUTPUT_RATE_HZ,
    TRANSCRIBE_PROMPT,
)
from funaudiochat.errors import FunAudioChatError
from funaudiochat.events import AudioChunk, Reply, ReplyDone
from funaudiochat.sampling import Sampling
from funaudiochat.turns import Turn, tool_names
from web_demo.server.context import ServerContext
from web_demo.server.lobby import TicketState
from web_demo.server.openai_api.admission import check_model, enter_lobby
from web_demo.server.openai_api.audio_formats import encode, media_type, to_pcm16
from web_demo.server.openai_api.description import openapi
from web_demo.server.openai_api.errors import ApiError
from web_demo.server.openai_api.generation import Request, reply_to
from web_demo.server.openai_api.messages import (
    Prompt,
    SpokenReplies,
    new_id,
    read_audio,
    read_messages,
)
from web_demo.server.openai_api.realtime import serve_realtime
from web_demo.server.openai_api.schemas import ChatRequest, SpeechRequest
from web_demo.server.sessions import Sessions
from web_demo.server.settings import Settings

logger = logging.getLogger(__name__)

READ_ALOUD_PROMPT = "Say: "  # as Nano was trained to repeat a sentence word by word
MOST_QUEUE_S = 120.0
CALLS = "web_demo.server.openai_api.realtime_call"  # imported at the first call: the extra `rtc`
GONE_CHECK_S = 0.25
B = TypeVar("B", bound=BaseModel)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_routes(
    app: web.Application, key: web.AppKey[ServerContext], sessions: web.AppKey[Sessions]
) -> None:
    """Add the routes to the server's application.

    Args:
        app: the application.
        key: key of what the connections of a server share.
        sessions: key of its open connections.
    """
    api = OpenAIRoutes(key)

    async def realtime(request: web.Request) -> web.StreamResponse:
        return await serve_realtime(request, request.app[key], request.app[sessions])

    async def call(request: web.Request) -> web.StreamResponse:
        try:
            module = await asyncio.to_thread(import_module, CALLS)
        except ImportError as error:
            raise ApiError("calls over WebRTC need aiortc: pip install 'funaudiochat[rtc]'",
                           code="webrtc_not_installed", status=501) from error  # fmt: skip
        answer: web.Response = await module.serve_call(
            request, request.app[key], request.app[sessions]
        )
        return answer

    async def hang_up(request: web.Request) -> web.StreamResponse:
        name = request.match_info["call_id"].removeprefix("rtc_")
        for connection in request.app[sessions].connections:
            if connection.session.name == name:
                await connection.close(1000, "hung up")
                return web.Response()
        raise ApiError("there is no such call", "call_id", "call_not_found", 404)

    for method, path, handler in (
        ("GET", "/v1/models", api.models),
        ("GET", "/v1/models/{name:.+}", api.model),
        ("POST", "/v1/chat/completions", api.chat_completions),
        ("POST", "/v1/audio/transcriptions", api.transcriptions),
        ("POST", "/v1/audio/speech", api.speech),
        ("GET", "/v1/realtime", realtime),
        ("POST", "/v1/realtime/calls", call),
        ("POST", "/v1/realtime/calls/{call_id}/hangup", hang_up),
        ("*", "/v1/{rest:.*}", api.unknown),
        ("GET", "/openapi.json", api.description),
    ):
        app.router.add_route(method, path, _answered(handler))


def _answered(handler: Handler) -> Handler:
    """Answer every failure in OpenAI's form."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return error.response()
        except FunAudioChatError as error:
            return ApiError(str(error)).response()
        except web.HTTPRequestEntityTooLarge:
            return ApiError("the request is too large; --max-message-bytes is the limit",
                            status=413).response()  # fmt: skip
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            logger.exception("a request to %s failed", request.path)
            return ApiError("an internal error; see the server's log", status=500).response()

    return handle


class OpenAIRoutes:
    """Handlers of the routes.

    Args:
        key: key of the context that all connections share.
    """

    def __init__(self, key: web.AppKey[ServerContext]) -> None:
        self._key = key
        self._spoken = SpokenReplies()
        self._began = int(time.time())

    async def unknown(self, request: web.Request) -> web.Response:
        """Refuse a route that does not exist."""
        raise ApiError(f"there is no {request.method} {request.path}", status=404)

    async def models(self, request: web.Request) -> web.Response:
        """List the model that is served."""
        return web.json_response({"object": "list", "data": [self._entry(request)]})

    async def model(self, request: web.Request) -> web.Response:
        """Describe the model, by its name."""
        check_model(request.app[self._key], request.match_info["name"])
        return web.json_response(self._entry(request))

    async def description(self, request: web.Request) -> web.Response:
        """Describe the routes as OpenAPI does."""
        return web.json_response(openapi(version("funaudiochat")))

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """Answer a conversation, in text or speech, whole or streamed."""
        body = await _json_body(request, ChatRequest)
        check_model(request.app[self._key], body.model)
        body.refuse_unsupported()
        context = request.app[self._key]
        if body.speaks and "speech" not in context.models.answers:
            raise ApiError("this server replies with text only; ask for modalities=[\"text\"]",
                           "modalities", "unsupported_value")  # fmt: skip
        if body.speaks and body.stream and body.audio and body.audio.format != "pcm16":
            raise ApiError("streamed audio has the format pcm16", "audio.format",
                           "unsupported_value")  # fmt: skip
        tools = body.definitions()
        names = tool_names(tools)
        prompt = await asyncio.to_thread(
            read_messages,
            body.messages,
            names,
            self._spoken,
            context.options.max_utterance_seconds,
        )
        voice = _voice(body.audio.voice if body.audio else None, context, "audio.voice")
        generation = Request(
            context.models.new_chat(),
            prompt,
            Settings(system_prompt=prompt.system).system,
            tools,
            body.speaks,
            voice,
            _sampling(body),
        )
        async with self._admitted(request):
            if body.stream:
                return await self._stream(request, body, generation)
            return await self._whole(request, body, generation)

    async def transcriptions(self, request: web.Request) -> web.StreamResponse:
        """Transcribe an audio file by the prompt that the model was trained with."""
        fields, data = await _form(request)
        context = request.app[self._key]
        check_model(request.app[self._key], fields.get("model", ""))
        form = fields.get("response_format", "json")
        if form not in ("json", "text", "verbose_json"):
            raise ApiError(f"response_format {form!r} is not supported; use json, text or "
                           "verbose_json", "response_format", "unsupported_value")  # fmt: skip
        if fields.get("stream") == "true":
            raise ApiError("stream: transcripts are not streamed", "stream", "unsupported_value")
        limit_s = context.options.max_utterance_seconds
        audio = await asyncio.to_thread(read_audio, data, "file", limit_s)
        prompt = Prompt(None, [], Turn("user", TRANSCRIBE_PROMPT, audio))
        text, _, _ = await self._reply(
            request, prompt, DEFAULT_S2T_PROMPT, Sampling(text_greedy=True), speech=False
        )
        text = text.strip()
        if form == "text":
            return web.Response(text=text + "\n")
        seconds = round(len(audio) / INPUT_RATE_HZ, 3)
        usage = {"type": "duration", "seconds": seconds}
        if form == "json":
            return web.json_response({"text": text, "usage": usage})
        return web.json_response(
            {
                "task": "transcribe",
                "language": fields.get("language", "unknown"),
                "duration": seconds,
                "text": text,
                "usage": usage,
            }
        )

    async def speech(self, request: web.Request) -> web.StreamResponse:
        """Read a text aloud."""
        body = await _json_body(request, SpeechRequest)
        check_model(request.app[self._key], body.model)
        body.refuse_unsupported()
        context = request.app[self._key]
        if "speech" not in context.models.answers:
            raise ApiError("this server replies with text only", "model", "unsupported_value")
        limit = context.options.max_text_chars
        if len(body.input) > limit:
            raise ApiError(f"input has {len(body.input)} characters; at most {limit} are read",
                           "input", "string_above_max_length")  # fmt: skip
        voice = _voice(body.voice, context, "voice")
        prompt = Prompt(None, [], Turn("user", READ_ALOUD_PROMPT + body.input))
        _, audio, _ = await self._reply(request, prompt, None, Sampling(), speech=True, voice=voice)
        data = await asyncio.to_thread(encode, audio, OUTPUT_RATE_HZ, body.response_format)
        return web.Response(body=data, content_type=media_type(body.response_format))

    async def _reply(
        self,
        request: web.Request,
        prompt: Prompt,
        system: str | None,
        sampling: Sampling,
        speech: bool,
        voice: str | None = None,
    ) -> tuple[str, np.ndarray, Reply]:
        context = request.app[self._key]
        generation = Request(
            context.models.new_chat(), prompt, lambda _: system, [], speech, voice, sampling
        )
        async with self._admitted(request):
            return await _collect(context, generation)

    async def _whole(
        self, request: web.Request, body: ChatRequest, generation: Request
    ) -> web.Response:
        context = request.app[self._key]
        text, waveform, reply = await _collect(context, generation)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        calls = _calls(reply)
        if calls:
            message |= {"content": None, "tool_calls": calls}
        elif body.audio is not None and body.speaks:
            data = await asyncio.to_thread(encode, waveform, OUTPUT_RATE_HZ, body.audio.format)
            name, expires = self._spoken.keep(text)
            message |= {
                "content": None,
                "audio": {
                    "id": name,
                    "data": base64.b64encode(data).decode(),
                    "expires_at": expires,
                    "transcript": text,
                },
            }
        return web.json_response(
            {
                "id": f"chatcmpl-{uuid4().hex}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": context.models.name,
                "choices": [
                    {
                        "index": 0,
                        "message": message,
                        "finish_reason": _finish_reason(reply, calls),
                        "logprobs": None,
                    }
                ],
                "usage": _usage(reply),
            }
        )

    async def _stream(
        self, request: web.Request, body: ChatRequest, generation: Request
    ) -> web.StreamResponse:
        """Send the reply as server-sent events.

        What fails before the first event is answered with an HTTP status; later failures become
        the last event.
        """
        context = request.app[self._key]
        head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": context.models.name,
        }
        want_usage = body.stream_options is not None and body.stream_options.include_usage
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        name = new_id()

        async def send(delta: dict[str, Any], reason: str | None = None) -> None:
            if not response.prepared:
                await response.prepare(request)
                await send({"role": "assistant", "content": None if body.speaks else ""})
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
            chunk = {**head, "choices": [choice]} | ({"usage": None} if want_usage else {})
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())

        reply: Reply | None = None
        text = ""
        try:
            async with aclosing(reply_to(context.engine, generation)) as events:
                async for event in events:
                    if isinstance(event, ReplyDone):
                        reply = event.reply
                    elif isinstance(event, AudioChunk):
                        data = base64.b64encode(to_pcm16(event.samples)).decode()
                        await send({"audio": {"id": name, "data": data}})
                    else:
                        text += event.text
                        await send(
                            {"audio": {"id": name, "transcript": event.text}}
                            if body.speaks
                            else {"content": event.text}
                        )
            assert reply is not None
            calls = _calls(reply)
            if calls:
                await send({"tool_calls": [{"index": i, **call} for i, call in enumerate(calls)]})
            elif body.speaks:
                _, expires = self._spoken.keep(text, name)
                await send({"audio": {"id": name, "expires_at": expires}})
            await send({}, _finish_reason(reply, calls))
            if want_usage:
                chunk = {**head, "choices": [], "usage": _usage(reply)}
                await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        except ConnectionError:
            return response
        except Exception as error:
            if not response.prepared:
                raise
            logger.exception("a streamed reply failed")
            shown = str(error) if isinstance(error, FunAudioChatError) else "an internal error"
            body_ = {"error": {"message": shown, "type": "server_error", "param": None,
                               "code": None}}  # fmt: skip
            await response.write(f"data: {json.dumps(body_)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _entry(self, request: web.Request) -> dict[str, Any]:
        name = request.app[self._key].models.name
        return {"id": name, "object": "model", "created": self._began, "owned_by": "funaudiochat"}

    @asynccontextmanager
    async def _admitted(self, request: web.Request) -> AsyncIterator[None]:
        """Hold a ticket, as a session does; cancel when the client is gone.

        Raises:
            ApiError: the server is shutting down, or the queue is full or too slow.
        """
        context = request.app[self._key]
        ticket = enter_lobby(context)
        task = asyncio.current_task()
        assert task is not None

        async def watch() -> None:
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(GONE_CHECK_S)
            task.cancel()

        watching = asyncio.create_task(watch())
        try:
            try:
                async with asyncio.timeout(MOST_QUEUE_S):
                    while ticket.state is not TicketState.READY:
                        ticket.changed.clear()
                        await ticket.changed.wait()
            except TimeoutError as error:
                raise ApiError("the server is busy; try again later", code="rate_limit_exceeded",
                               status=429) from error  # fmt: skip
            yield
        finally:
            watching.cancel()
            context.lobby.leave(ticket)


async def _json_body(request: web.Request, schema: type[B]) -> B:
    """Read and check the body of a request.

    Raises:
        ApiError: it is not JSON, or a field is wrong.
    """
    try:
        return schema.model_validate_json(await request.read())
    except ValidationError as error:
        raise ApiError.of(error) from error


async def _form(request: web.Request) -> tuple[dict[str, str], bytes]:
    """Read a form; return its fields and the bytes of its file.

    Raises:
        ApiError: the body is not a form, or has no file.
    """
    if not request.content_type.startswith("multipart/"):
        raise ApiError("send multipart/form-data with the fields file and model", "file")
    fields: dict[str, str] = {}
    data: bytes | None = None
    left = request.client_max_size
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader):
            continue
        content = bytearray()
        while chunk := await part.read_chunk():
            left -= len(chunk)
            if left < 0:
                raise web.HTTPRequestEntityTooLarge(request.client_max_size, left)
            content += chunk
        if part.name == "file":
            data = bytes(content)
        elif part.name is not None:
            fields[part.name] = content.decode(errors="replace")
    if data is None:
        raise ApiError("file: the audio file is missing", "file", "missing_required_parameter")
    return fields, data


def _voice(given: str | dict[str, Any] | None, context: ServerContext, param: str) -> str | None:
    """Return the name of the voice asked for; None for the default one.

    OpenAI's clients always name one of OpenAI's voices, so unknown names mean the default.
    """
    name = given.get("id") if isinstance(given, dict) else given
    return name if name in context.models.voices else None


def _sampling(body: ChatRequest) -> Sampling:
    greedy = body.temperature == 0 or body.top_p == 0
    return Sampling(
        greedy=greedy,
        temperature=None if greedy else body.temperature,
        top_p=None if greedy else body.top_p,
        top_k=body.top_k,
        repetition_penalty=body.repetition_penalty,
        max_new_tokens=body.most_tokens,
        stop=tuple(body.stops),
        seed=None if body.seed is None else body.seed % (1 << 63),
    )


async def _collect(context: ServerContext, generation: Request) -> tuple[str, np.ndarray, Reply]:
    """Generate a whole reply -> its text without calls, its waveform [S], and all of it."""
    text, chunks, reply = "", [np.empty(0, np.float32)], None
    async with aclosing(reply_to(context.engine, generation)) as events:
        async for event in events:
            if isinstance(event, ReplyDone):
                reply = event.reply
            elif isinstance(event, AudioChunk):
                chunks.append(event.samples)
            else:
                text += event.text
    assert reply is not None
    return text, np.concatenate(chunks), reply


def _calls(reply: Reply) -> list[dict[str, Any]]:
    """Return the calls of a reply, with ids of their own."""
    return [
        {
            "id": f"call_{uuid4().hex[:24]}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False),
            },
        }
        for call in reply.tool_calls
    ]


def _finish_reason(reply: Reply, calls: list[dict[str, Any]]) -> str:
    return "tool_calls" if calls else reply.finish_reason


def _usage(reply: Reply) -> dict[str, Any]:
    """Count the model's steps: five for a second of audio, one for each token of text."""
    spoken = -(-len(reply.speech_tokens) // GROUP_SIZE)
    return {
        "prompt_tokens": reply.usage.prompt_steps,
        "completion_tokens": reply.usage.steps,
        "total_tokens": reply.usage.prompt_steps + reply.usage.steps,
        "completion_tokens_details": {
            "audio_tokens": spoken,
            "text_tokens": reply.usage.steps - spoken,
        },
    }
