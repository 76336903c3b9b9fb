# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""IFEval, strict and loose, with the checkers of the package if-verifiable."""

from functools import cache
from typing import Any

from evaluate.scorers.choices import without_tag
from evaluate.scorers.sentences import prepare_sentence_splitter

_END = "<|user|>"


@cache
def _checkers() -> dict[str, Any]:
    import langdetect
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    prepare_sentence_splitter()
    langdetect.DetectorFactory.seed = 0  # otherwise the detected language varies from run to run
    return INSTRUCTION_DICT


def _variants(reply: str) -> list[str]:
    """Return the eight variants of a reply, one of which must pass the loose check."""
    lines = reply.split("\n")
    cut = [
        reply,
        "\n".join(lines[1:]).strip(),
        "\n".join(lines[:-1]).strip(),
        "\n".join(lines[1:-1]).strip(),
    ]
    return cut + [text.replace("*", "") for text in cut]


def follows(
    prompt: str, instructions: list[str], kwargs: list[dict[str, Any]], reply: str
) -> tuple[list[bool], list[bool]]:
    """Check for each instruction whether it is followed, strictly and loosely.

    Args:
        prompt: question that contained the instructions.
        instructions: names of checkers, such as ``punctuation:no_comma``.
        kwargs: settings of each checker; empty values are ignored.
        reply: reply of the model.

    Raises:
        KeyError: there is no checker for an instruction.
    """
    reply = without_tag(reply.strip()).removesuffix(_END).strip()
    strict, loose = [], []
    for name, settings in zip(instructions, kwargs, strict=True):
        checker = _checkers()[name](name)
        checker.build_description(**{k: v for k, v in settings.items() if v})
        arguments = checker.get_instruction_args()
        if arguments and "prompt" in arguments:
            checker.build_description(prompt=prompt)
        verdicts = [
            bool(text.strip() and checker.check_following(text)) for text in _variants(reply)
        ]
        strict.append(verdicts[0])
        loose.append(any(verdicts))
    return strict, loose
