# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Errors in OpenAI's form: ``{"error": {"message", "type", "param", "code"}}``."""

from aiohttp import web
from pydantic import ValidationError

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused.

    Args:
        message: the cause and the remedy.
        param: field of the request, such as ``messages[0].content``.
        code: what clients compare.
        status: of HTTP.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status

    @classmethod
    def of(cls, error: ValidationError) -> "ApiError":
        """Name the first field that is wrong."""
        first = error.errors()[0]
        param = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"]).lstrip(
            "."
        )
        missing = first["type"] == "missing"
        return cls(
            f"{param or 'body'}: {first['msg']}",
            param or None,
            "missing_required_parameter" if missing else "invalid_value",
        )

    def body(self) -> dict[str, str | None]:
        """Return the fields of the error that clients read."""
        server = self.status >= 500
        kind = _TYPES.get(self.status, "server_error" if server else "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    def response(self) -> web.Response:
        """Return the error as a JSON response."""
        headers = {"Retry-After": "5"} if self.status in (429, 503) else {}
        return web.json_response({"error": self.body()}, status=self.status, headers=headers)


def unsupported(param: str, why: str) -> ApiError:
    """Return the refusal of an option that this server cannot honour."""
    return ApiError(f"{param}: {why}", param, "unsupported_value")
