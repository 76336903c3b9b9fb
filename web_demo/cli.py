# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The web demo's command."""

import typer

from funaudiochat.errors import FunAudioChatError

commands = typer.Typer()


@commands.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Serve the web demo; `serve --help` lists its options."""
    from web_demo.server.options import parse

    # Help and mistyped flags end here, before the import of torch.
    args = parse(context.args)
    try:
        from web_demo.server.server import run
    except ModuleNotFoundError as error:
        raise FunAudioChatError(
            f"the web demo needs the package {error.name}; install its packages with "
            "`pip install -e '.[serve]'` in the checkout"
        ) from error
    run(args)
