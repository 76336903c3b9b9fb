# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What every request to OpenAI's interfaces passes before it is served."""

from web_demo.server.context import ServerContext
from web_demo.server.lobby import QueueFull, QueueTicket
from web_demo.server.openai_api.errors import ApiError


def check_model(context: ServerContext, name: str) -> None:
    """Refuse a model that is not the one served.

    Raises:
        ApiError: the name is another.
    """
    served = context.models.name
    if name != served:
        raise ApiError(f"the model {name[:100]!r} is not served here; use {served!r}", "model",
                       "model_not_found", 404)  # fmt: skip


def enter_lobby(context: ServerContext) -> QueueTicket:
    """Take a ticket, which the caller has to return with ``context.lobby.leave``.

    Raises:
        ApiError: the server is shutting down, or its queue is full.
    """
    if context.draining:
        raise ApiError("the server is shutting down", status=503)
    try:
        return context.lobby.enter()
    except QueueFull as error:
        raise ApiError("the server is busy and its queue is full; try again later",
                       code="rate_limit_exceeded", status=429) from error  # fmt: skip
