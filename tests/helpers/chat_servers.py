# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A server of OpenAI's protocol on a local port, and answers for it."""

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import soundfile

from funaudiochat.constants import AUDIO_TEMPLATE
from funaudiochat.generation_funaudiochat import prefill, stream
from funaudiochat.generation_options import GenerationOptions
from funaudiochat.voice_chat import VoiceChat
from tests.helpers import ROOT

GOLDEN = ROOT / "tests" / "golden"


def chunk(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@contextmanager
def serving(answer, max_model_len=4096, owner="someone", status=400):
    """A server whose answers are the bytes that ``answer(request)`` yields; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            tiny = {"id": "tiny", "max_model_len": max_model_len, "owned_by": owner}
            models = [tiny, {"id": "other"}]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"object": "list", "data": models}).encode())

        def do_POST(self):
            assert self.path == "/v1/chat/completions"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                pieces = answer(request)
            except ValueError as error:
                self.send_error(status, explain=str(error))
                return
            self.send_response(200)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def model_answers(chat: VoiceChat):
    """Answers as vLLM gives them: greedy text for the messages, each audio at its placeholder."""

    def answer(request):
        turns, waveforms = [], []
        for message in request["messages"]:
            content = message["content"]
            if not isinstance(content, str):
                recordings = [p["input_audio"] for p in content if p["type"] == "input_audio"]
                texts = [p["text"] for p in content if p["type"] == "text"]
                for audio in recordings:
                    waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(audio["data"])))
                    assert (audio["format"], rate) == ("wav", 16000)
                    waveforms.append(waveform.astype(np.float32))
                content = "\n".join([AUDIO_TEMPLATE] * len(recordings) + texts)
            turns.append({"role": message["role"], "content": content})
        text = chat.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = dict(chat.processor(text=text, audio=waveforms, return_tensors="pt"))
        options = GenerationOptions.from_config(
            chat.model.generation_config, text_greedy=True, disable_speech=True
        )
        assert request["temperature"] == 0 and request["stream"] is True
        limit = {**options.__dict__, "max_new_tokens": request["max_tokens"]}
        options = GenerationOptions(**limit)
        for event in stream(
            chat.model, chat.processor.tokenizer, prefill(chat.model, inputs, options), options
        ):
            yield chunk(event.text)
        yield DONE

    return answer
