# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The command ``funaudiochat serve``."""

import typer

from funaudiochat.errors import FunAudioChatError

commands = typer.Typer()


@commands.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Serve the web demo; `serve --help` lists its options."""
    try:
        from web_demo.server.server import main

        main(context.args)
    except ModuleNotFoundError as error:
        raise FunAudioChatError(
            f"the web demo needs the package {error.name}; install its packages with "
            "`pip install -e '.[serve]'` in the checkout"
        ) from error
