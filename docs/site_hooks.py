# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Show the repository's own READMEs on the site, with links that lead somewhere.

A document lies in the repository where its readers look for it, and its links follow the
repository's folders. On the site, a link to another document leads to its page, an image is copied,
and a link to any other file of the repository is shown as the file's path.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")
_FENCE = re.compile(r"(```.*?```)", re.DOTALL)
_IMAGES = {".png", ".jpg", ".svg", ".wav"}
_ROLE = re.compile(r":\w+:<code>~?(?:[\w.]*\.)?(\w+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add the documents that the navigation names outside docs/, and the images of all."""
    for uri in _pages(config["nav"]):
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri)))
    for file in list(files.documentation_pages()):
        for link in _LINK.finditer(file.content_string):
            source = (_home(file) / link["target"]).resolve()
            if source.suffix in _IMAGES and source.is_file():
                uri = source.relative_to(ROOT).as_posix()
                if files.get_file_from_path(uri) is None:
                    files.append(File.generated(config, uri, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn links between the repository's folders into links of the site."""

    def rewritten(link: re.Match[str]) -> str:
        target = link["target"]
        if ":" in target:
            return link[0]
        source = (_home(page.file) / target).resolve()
        path = source.relative_to(ROOT).as_posix()
        for uri in (path, path.removeprefix("docs/"), f"{path}/README.md"):
            if files.get_file_from_path(uri) is not None:
                here = Path(page.file.src_uri).parent
                relative = Path(os.path.relpath(uri, here)).as_posix()
                return f"{link['image']}[{link['text']}]({relative}{link['anchor'] or ''})"
        if not source.exists():
            raise ValueError(f"{page.file.src_uri}: {target} does not exist")
        return f"`{path}`" if path in link["text"] else f"{link['text']} (`{path}`)"

    parts = _FENCE.split(re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL))
    return "".join(part if part.startswith("```") else _LINK.sub(rewritten, part) for part in parts)


def on_page_content(html: str, **_: Any) -> str:
    """Show the roles of docstrings as the names that they refer to."""
    return _ROLE.sub(r"<code>\1</code>", html)


def _home(file: File) -> Path:
    """Return the folder of the repository that a document lies in."""
    return Path(str(file.abs_src_path)).parent


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in _pages(entry)]
