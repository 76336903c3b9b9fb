# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The command ``funaudiochat serve``."""

import typer

app = typer.Typer(add_completion=False)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Serve the web demo; `serve --help` lists its options."""
    from web_demo.server.options import parse

    # Help and mistyped flags end here, before the import of torch.
    args = parse(context.args)
    from web_demo.server.server import run

    run(args)
