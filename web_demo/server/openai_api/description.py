# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The HTTP routes in OpenAPI's form."""

from typing import Any

from web_demo.server.openai_api.schemas import ChatRequest, SpeechRequest

_ERROR = {"description": "An error", "content": {"application/json": {"schema": {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {
        name: {"type": ["string", "null"]} for name in ("message", "type", "param", "code")
    }}},
}}}}  # fmt: skip
_TRANSCRIPTION = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string"},
        "language": {"type": "string"},
        "response_format": {"enum": ["json", "text", "verbose_json"], "default": "json"},
    },
}


def openapi(version: str) -> dict[str, Any]:
    """Return the description of the routes, with the schemas that requests are checked by."""
    schemas: dict[str, Any] = {}
    for body in (ChatRequest, SpeechRequest):
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {body.__name__: schema}

    def post(summary: str, media: str, schema: dict[str, Any], *answers: str) -> dict[str, Any]:
        content = {media: {"schema": schema}}
        return {
            "post": {
                "summary": summary,
                "requestBody": {"required": True, "content": content},
                "responses": {
                    "200": {"description": "OK", "content": {answer: {} for answer in answers}},
                    "default": _ERROR,
                },
            }
        }

    def get(summary: str) -> dict[str, Any]:
        content: dict[str, Any] = {"application/json": {}}
        return {"summary": summary, "responses": {"200": {"description": "OK", "content": content}}}

    def reference(name: str) -> dict[str, str]:
        return {"$ref": f"#/components/schemas/{name}"}

    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Fun-Audio-Chat", "version": version},
        "paths": {
            "/v1/models": {"get": get("List the model that is served")},
            "/v1/models/{name}": {"parameters": [name], "get": get("Describe the model")},
            "/v1/chat/completions": post(
                "Reply to a conversation, in text or speech",
                "application/json",
                reference("ChatRequest"),
                "application/json",
                "text/event-stream",
            ),
            "/v1/audio/transcriptions": post(
                "Transcribe an audio file",
                "multipart/form-data",
                _TRANSCRIPTION,
                "application/json",
                "text/plain",
            ),
            "/v1/audio/speech": post(
                "Read a text aloud", "application/json", reference("SpeechRequest"), "audio/*"
            ),
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
