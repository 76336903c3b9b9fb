# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Keep what a person, a tool or a file says apart from a tokenizer's control tokens.

A prompt is one string: a chat template and our own code write ``<|im_end|>`` or ``<|AUDIO|>`` into
it and mean the control token, while the same characters in somebody's words are only characters.
:func:`protect` escapes the words before they enter the prompt, :func:`encode` takes the escapes
out again and gives their characters the ids of ordinary text. A prompt without escapes is encoded
as the tokenizer alone does. Where the tokenizer is a server's, nothing can be escaped: what spells
a token is broken apart by a character that nobody sees.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

from funaudiochat.constants import DEFAULT_S2M_PROMPT, DEFAULT_S2T_PROMPT, FUNCTION_CALLING_PROMPT
from funaudiochat.tool_calls import CALL_CLOSES, CALL_OPENS, ToolCall, find_tool_calls

_MARK = "\ufdd0"  # a noncharacter: Unicode reserves it for use inside a program
_ESCAPED = re.compile(f"{_MARK}([0-9a-f]+);")
_SURROGATE = re.compile("[\ud800-\udfff]")  # no tokenizer takes these
# Checkpoints may have a token for a whole prompt they were trained with, or for parts of it.
_TRAINED_PROMPTS = (
    tuple(FUNCTION_CALLING_PROMPT.split("{tools_definition}")),
    (DEFAULT_S2M_PROMPT, ""),
    (DEFAULT_S2T_PROMPT, ""),
)
_INVISIBLE = "\u200b"
# The forms of control tokens in the families of tokenizers that checkpoints have, and the prompts.
_KNOWN_TOKENS = "|".join(
    [
        r"<\|[^\s<>|]*\|>",
        r"</?(?:tool_call|tool_response|think|s|unk|pad)>",
        *(re.escape(part) for prompt in _TRAINED_PROMPTS for part in prompt if part),
    ]
)


def protect(tokenizer: Any, text: str) -> str:
    """Escape everything in a text that the tokenizer would take for one of its added tokens.

    Put the result into a prompt, and encode that with :func:`encode` or the processor. A text
    without such characters is returned as it is, but for lone surrogates, which become U+FFFD.

    Args:
        tokenizer: of the model; None for a text that a server's tokenizer will read: anything
            that may be one of its tokens gets an invisible character behind its first character.
        text: words from outside.
    """
    text = _SURROGATE.sub("\ufffd", text)
    if tokenizer is None:
        return re.sub(f"(?={_KNOWN_TOKENS}).", rf"\g<0>{_INVISIBLE}", text)
    found = re.compile(f"{_MARK}|(?={_added_tokens(tokenizer)}).", re.DOTALL)
    return found.sub(lambda match: f"{_MARK}{ord(match[0][0]):x};", text)


def protect_system(tokenizer: Any, text: str) -> str:
    """Escape a system prompt, except for the prompt of the training that it begins with."""
    for begin, end in _TRAINED_PROMPTS:
        if text.startswith(begin) and text[len(begin) :].endswith(end):
            middle = text[len(begin) : len(text) - len(end)]
            return begin + protect(tokenizer, middle) + end
    return protect(tokenizer, text)


def protect_answer(tokenizer: Any, text: str) -> str:
    """Escape a model's answer, except for the tags of its well-formed tool calls."""
    parts, done = [], 0
    for start, end, found in find_tool_calls(text):
        if isinstance(found, ToolCall):
            body = text[start + len(CALL_OPENS) : end - len(CALL_CLOSES)]
            parts.append(protect(tokenizer, text[done:start]))
            parts.append(f"{CALL_OPENS}{protect(tokenizer, body)}{CALL_CLOSES}")
            done = end
    return "".join(parts) + protect(tokenizer, text[done:])


def unprotect(text: str) -> str:
    """Undo :func:`protect`."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def encode(tokenizer: Any, prompt: str) -> list[int]:
    """Return the ids of a prompt whose foreign words are protected; no tokens are added to it."""
    if _MARK not in prompt:
        return tokenizer(prompt, add_special_tokens=False).input_ids
    ids: list[int] = []
    for index, part in enumerate(re.split(f"({_added_tokens(tokenizer)})", prompt)):
        if index % 2:
            ids.append(tokenizer.convert_tokens_to_ids(part))
        else:
            ids.extend(encode_text(tokenizer, unprotect(part)))
    return ids


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of words alone: ordinary tokens, whatever they spell."""
    backend, text = tokenizer.backend_tokenizer, _SURROGATE.sub("\ufffd", text)
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = [text]
    if backend.pre_tokenizer is not None:
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    model = backend.model
    return [token.id for word in words for token in model.tokenize(word)]


def encode_batch(
    tokenizer: Any, prompts: Iterable[str], padding: bool | str, **options: Any
) -> dict[str, Any]:
    """Return what ``tokenizer(prompts, padding=padding, **options)`` does, the escapes obeyed."""
    prompts = list(prompts)
    if not any(_MARK in prompt for prompt in prompts):
        return dict(tokenizer(prompts, padding=padding, **options))
    options.pop("return_token_type_ids", None)
    options.pop("add_special_tokens", None)
    ids = list(map(partial(encode, tokenizer), prompts))
    return dict(tokenizer.pad({"input_ids": ids}, padding=padding, **options))


def _added_tokens(tokenizer: Any) -> str:
    """Return a pattern of all added tokens, special or not; the longest one wins."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or r"(?!)"
