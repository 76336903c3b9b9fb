# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Capabilities of a model, read from the optional ``demo.json`` of its folder.

A large model plays any persona and speaks many languages; a small one can answer few questions.
The web demo and the command line offer only what the file lists. All fields are optional, and
omitting one means no restriction::

    {"description": "Small English demo model.", "languages": ["en"],
     "personas": [], "tools": ["get_time"], "examples": ["What is two plus three?"]}
"""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from funaudiochat.errors import CheckpointError

FILE_NAME = "demo.json"
# In addition to "default", which every model plays; "custom" is the user's own system prompt.
PERSONAS = ("companion", "tutor", "storyteller", "brief", "custom")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


@dataclass(frozen=True)
class Capabilities:
    """What a user interface offers for a model.

    Attributes:
        description: the model in one sentence.
        languages: languages it replies in, as BCP 47 tags ("en"); None if not known.
        personas: names of ``PERSONAS`` that it can play; None for all.
        tools: names of functions that it can call; None for any.
        examples: questions that it answers well.
    """

    description: str | None = None
    languages: tuple[str, ...] | None = None
    personas: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    examples: tuple[str, ...] = ()


def load_capabilities(folder: str | Path) -> Capabilities:
    """Read the ``demo.json`` of a model folder; without the file nothing is restricted.

    Raises:
        CheckpointError: the file is invalid; the message names every fault.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return Capabilities()
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        faults = _faults(given)
    except (OSError, ValueError, RecursionError) as error:
        faults = [str(error)]
    if faults:
        raise CheckpointError(f"{path} is wrong: {'; '.join(faults)}. Correct or remove it")
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return Capabilities(**known)


def _faults(given: Any) -> list[str]:
    """Return everything that is wrong with the content of a ``demo.json``."""
    if not isinstance(given, dict):
        return ["it must hold a JSON object"]
    known = [field.name for field in fields(Capabilities)]
    faults = [
        f"there is no field {name!r}, only {', '.join(known)}" for name in given.keys() - known
    ]
    for name, value in given.items():
        if name == "description":
            if not isinstance(value, str) or not value.strip():
                faults.append("description must be a non-empty string")
        elif name in known and not _are_texts(value):
            faults.append(f"{name} must be a list of distinct, non-empty strings")
        elif name == "personas" and (unknown := set(value) - set(PERSONAS)):
            faults.append(f"personas names {', '.join(sorted(unknown))}; the personas are "
                          f"{', '.join(PERSONAS)}")  # fmt: skip
        elif name == "languages" and (wrong := [v for v in value if not _LANGUAGE.fullmatch(v)]):
            faults.append(f"languages holds {', '.join(wrong)}; write tags such as en or zh-CN")
    return faults


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(item, str) and item.strip() for item in value)
        and len(set(value)) == len(value)
    )
