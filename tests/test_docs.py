# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The documents name only what exists, and the rules that code cites are written down."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ("funaudiochat", "training", "evaluate", "web_demo", "utils", "benchmarks", "tests")
NAME = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
PATH = re.compile(rf"(?:{'|'.join((*PACKAGES, 'docs', 'pretrained_models'))})/[\w./-]*")


def module_file(parts: list[str]) -> Path | None:
    """Return the file of a module, None if there is no such module."""
    path = ROOT.joinpath(*parts)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def defines(body: list[ast.stmt], name: str) -> list[ast.stmt] | None:
    """Return the body of what a name is bound to in a module or class, None if it is not bound."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == name:
                return node.body if isinstance(node, ast.ClassDef) else []
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return []
    return None


def exists(name: str) -> bool:
    """Tell whether a dotted name is a module, or is defined in one; nothing is imported."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        file = module_file(parts[:length])
        if file is None:
            continue
        body: list[ast.stmt] | None = ast.parse(file.read_text(encoding="utf-8")).body
        for part in parts[length:]:
            body = None if body is None else defines(body, part)
        return body is not None
    return False


def missing(text: str) -> list[str]:
    """Return the paths and dotted names between backquotes that do not exist."""
    quoted = re.findall(r"`([^`\n]+)`", text)
    names = [q for q in quoted if NAME.fullmatch(q) and not exists(q)]
    return names + [q for q in quoted if PATH.fullmatch(q) and not (ROOT / q).exists()]


def test_architecture_names_only_what_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert missing(text) == []
    for name in (
        "funaudiochat.cosyvoice3.detokenizer.DetokenizerStream.push",
        "funaudiochat.generation_funaudiochat.step",
        "funaudiochat.modeling_funaudiochat.FunAudioChatForConditionalGeneration.forward",
    ):
        assert f"`{name}`" in text, name


@pytest.mark.parametrize(
    "wrong",
    [
        "funaudiochat.no_such_module",
        "funaudiochat.audio.no_such_function",
        "funaudiochat.voice_chat.VoiceChat.no_such_method",
        "funaudiochat/no_such_file.py",
    ],
)
def test_a_wrong_name_is_found(wrong: str) -> None:
    assert missing(f"see `funaudiochat.audio.load_audio` and `{wrong}`") == [wrong]


def test_rules_are_numbered_without_gaps_and_cited_rules_exist() -> None:
    text = (ROOT / "docs/semantics.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, 69))
    cited = set()
    for package in ("funaudiochat", "training", "evaluate", "web_demo", "tests"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            for first, second in re.findall(r"\b[Rr]ules? (\d+)(?:(?:,| and| to|-) ?(\d+))?", text):
                cited |= {int(number) for number in (first, second) if number}
    assert 50 in cited and cited <= set(numbers)


def test_links_between_documents_lead_to_files() -> None:
    broken = []
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (file.parent / target).exists():
                broken.append(f"{file.relative_to(ROOT)}: {target}")
    assert broken == []
