# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A small server with an OpenAI-compatible chat API, for judges and models."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A real server with an OpenAI-compatible chat API.

    ``reply`` maps a request to an answer: a text, the fields of a message, a status code, or None
    for a reply without choices.
    """

    def __init__(self, reply):
        self.requests, self.keys, self.reply = [], set(), reply
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def _send(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self._send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.server.keys.add(self.headers["Authorization"])
        reply = self.server.reply(request)
        if isinstance(reply, int):
            self._send(reply, {"error": {"message": "refused on purpose"}})
            return
        given = reply if isinstance(reply, dict) else {"content": reply}
        message = {"role": "assistant", **given}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        choices = [] if reply is None else [choice]
        self._send(
            200,
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "judge-2026",
                "choices": choices,
            },
        )

    def log_message(self, *_):
        pass
