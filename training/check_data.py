# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Look through a file of training rows and say what is wrong, where, and what to do.

The schema is described in ``training/data/README.md``.
"""

import json
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funaudiochat.audio import load_audio
from funaudiochat.constants import (
    AUDIO_BOS_TOKEN,
    AUDIO_PAD_TOKEN,
    AUDIO_TEMPLATE,
    CODEBOOK_SIZE,
    GROUP_SIZE,
    INPUT_RATE_HZ,
    TOKEN_FPS,
)
from funaudiochat.errors import AudioError, FunAudioChatError
from funaudiochat.plain_text import encode_text
from training.speech_tokens import SPELLED_TOKEN

DELAY_CODES = 10
# Other tools round to a token at either end of an audio.
TOLERATED_TOKENS = 2
# Audio may be cut to whole tokens at either end, and its tokens cut or filled to a whole group.
TOLERATED_CODES = TOLERATED_TOKENS + GROUP_SIZE - 1
# What the template writes where a row has no system prompt, as the original does.
DEFAULT_SYSTEM = "You are a helpful assistant."
_ROLES = (("user",), ("assistant",))
# Rows of pairs may hold results and calls of tools, by the names of LLaMA-Factory.
_PAIR_ROLES = (("user", "observation"), ("assistant", "function_call"))


@dataclass(frozen=True)
class Problem:
    """One problem to fix.

    Attributes:
        row: line number, from 1 on.
        field: where in the row, for example ``audio[1].token``.
        text: what is wrong and what to do.
    """

    row: int
    field: str
    text: str


@dataclass
class Summary:
    """What a file holds; the lists have one entry for each question, answer or row."""

    rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    # What can be trained on, and probably should not be.
    warnings: list[Problem] = field(default_factory=list)
    # Spoken answers whose last group is not whole.
    partial_groups: int = 0
    question_seconds: list[float] = field(default_factory=list)
    answer_seconds: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class DataChecker:
    """Checks rows one by one.

    Args:
        tokenizer: of the model to be trained, to count tokens; None leaves lengths unchecked.
        cutoff_len: longest row in tokens, LLaMA-Factory's field of that name.
    """

    def __init__(self, tokenizer: Any = None, cutoff_len: int = 2048) -> None:
        self.tokenizer, self.cutoff_len = tokenizer, cutoff_len
        self.summary = Summary()
        self._number = 0

    def check_line(self, number: int, line: str) -> list[Problem]:
        """Problems of one line, which are also added to the summary."""
        self._number = number
        self.summary.rows += 1
        found = [Problem(number, where, text) for where, text in self._row(line)]
        self.summary.problems += found
        return found

    def _row(self, line: str) -> Iterator[tuple[str, str]]:
        try:
            row = json.loads(line)
        except ValueError as error:
            yield "", f"is not valid JSON ({error}); write one object per line"
            return
        if not isinstance(row, dict):
            yield "", "is not a JSON object; a row has system, messages and audio"
            return
        if not isinstance(row.get("system") or "", str):
            yield "system", "is not a string"
        yield from self._pair(row) if {"chosen", "rejected"} & row.keys() else self._dialogue(row)

    def _dialogue(self, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Check a row that is learned as it is."""
        messages: Any = row.get("messages")
        owners = yield from self._messages(messages, _ROLES)
        if isinstance(messages, list) and len(messages) % 2:
            yield "messages", "ends with a question; the last message must be the assistant's"
        if owners is None:
            return
        self.summary.turns.append(len(messages) // 2)
        answers = [m["content"].strip() for m in messages[1::2]]
        groups = yield from self._audios("audio", owners, row.get("audio", []), answers)
        if groups is not None and self.tokenizer is not None:
            yield from self._length(row.get("system") or "", messages, groups)

    def _pair(self, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Check a question with a chosen and a rejected answer."""
        messages: Any = row.get("messages")
        owners = yield from self._messages(messages, _PAIR_ROLES)
        if isinstance(messages, list) and len(messages) % 2 == 0:
            yield "messages", "ends with an answer; a pair's answers are chosen and rejected"
        answers = {}
        for side in ("chosen", "rejected"):
            answer = row.get(side)
            if not isinstance(answer, dict) or not isinstance(answer.get("content"), str):
                yield side, "needs role and content, both text: it is one of the two answers"
                continue
            answers[side] = answer
            if answer.get("role") not in _PAIR_ROLES[1]:
                yield (
                    f"{side}.role",
                    f"is {answer.get('role')!r}, not {' or '.join(_PAIR_ROLES[1])}",
                )
        if owners is None or len(answers) < 2:
            return
        self.summary.turns.append(len(messages) // 2 + 1)
        said = [answer["content"].strip() for answer in answers.values()]
        asked = yield from self._audios("audio", owners, row.get("audio") or [], said)
        for side, answer in answers.items():
            field, spoken = f"{side}_audio", answer["content"].count(AUDIO_TEMPLATE)
            entries = row.get(field) or []
            groups = yield from self._audios(field, ["assistant"] * spoken, entries, [])
            # Tools change the prompt in ways that only the template knows; training counts them.
            if asked is None or groups is None or self.tokenizer is None or row.get("tools"):
                continue
            everything = [*messages, answer]
            yield from self._length(row.get("system") or "", everything, asked + groups, side)
        spoken = [bool(row.get(f"{side}_audio")) for side in answers]
        if answers["chosen"] == answers["rejected"] and (
            row.get("chosen_audio") == row.get("rejected_audio")
        ):
            yield "rejected", "is the same as chosen: there is nothing to prefer; leave the row out"
        elif spoken[0] != spoken[1]:
            self._warn(
                "rejected_audio",
                "only one of the answers is spoken; losses without a reference model (orpo, simpo) "
                "count its speech against it",
            )

    def _messages(
        self, messages: Any, roles: tuple[tuple[str, ...], tuple[str, ...]]
    ) -> Generator[tuple[str, str], None, list[str] | None]:
        """Check messages in turn; return who says each placeholder, None if that is not known.

        Args:
            messages: of a row.
            roles: those that ask, and those that answer.
        """
        if not isinstance(messages, list) or not messages:
            yield "messages", "is not a list of messages; give user and assistant in turn"
            return None
        owners, well_formed = [], True
        for index, message in enumerate(messages):
            where, allowed = f"messages[{index}]", roles[index % 2]
            if not isinstance(message, dict) or not isinstance(message.get("content"), str):
                yield where, "needs role and content, both text"
                well_formed = False
                continue
            given = message.get("role")
            if given not in allowed:
                wanted = " or ".join(map(repr, allowed))
                yield f"{where}.role", f"is {given!r}, not {wanted}: they alternate"
            owners += [_ROLES[index % 2][0]] * message["content"].count(AUDIO_TEMPLATE)
        return owners if well_formed else None

    def _audios(
        self, name: str, owners: list[str], entries: Any, answers: list[str]
    ) -> Generator[tuple[str, str], None, int | None]:
        """Check the entries of a field; return their groups, None if they fit no placeholders.

        Args:
            name: the field.
            owners: "user" or "assistant" for every placeholder.
            entries: the field's value.
            answers: written answers of the row.
        """
        if not isinstance(entries, list):
            yield name, "is not a list; give one JSON text for every placeholder"
            return None
        if len(owners) != len(entries):
            yield (
                name,
                f"has {len(entries)} entries for {len(owners)} placeholders {AUDIO_TEMPLATE} in "
                "the messages; give one for each, in their order",
            )
            return None
        groups = 0
        for index, (owner, entry) in enumerate(zip(owners, entries, strict=True)):
            where = f"{name}[{index}]"
            try:
                fields = json.loads(entry)
            except (TypeError, ValueError):
                fields = None
            if not isinstance(fields, dict):
                yield where, "is not the JSON text of an object with path, token and text"
                continue
            check = self._question if owner == "user" else self._answer
            places, problems = check(fields)
            groups += -(-places // GROUP_SIZE)
            yield from ((f"{where}.{key}", text) for key, text in problems.items())
            text = fields.get("text")
            if owner == "user" and text:
                self._warn(
                    f"{where}.text",
                    "is the answer of the row, which the model then hears in training and never "
                    'when it answers; write "text": ""'
                    if str(text).strip() in answers
                    else "is averaged into the user's audio in training, which never happens when "
                    'answering; write "text": "" and keep the transcript in ref_text',
                )
        return groups

    def _warn(self, where: str, text: str) -> None:
        """Note what can be trained on, and probably should not be."""
        self.summary.warnings.append(Problem(self._number, where, text))

    def _seconds(self, path: Any) -> float | str:
        """Length of an audio as training reads it, or what is wrong with it."""
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                audio = load_audio(path, INPUT_RATE_HZ)
        except AudioError as error:
            missing = isinstance(path, str) and path and not Path(path).exists()
            return (
                f"file not found: {path}; paths are relative to where training starts"
                if missing
                else str(error)
            )
        for warning in caught:
            self._warn("audio", str(warning.message))
        return len(audio) / INPUT_RATE_HZ

    def _question(self, fields: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Count the 25 Hz positions of a user's entry; also return its problems by key."""
        path = fields.get("path") or fields.get("wav_path")
        if not path:
            return 0, {"path": "is missing; it names the audio file"}
        seconds = self._seconds(path)
        if isinstance(seconds, str):
            return 0, {"path": seconds}
        self.summary.question_seconds.append(seconds)
        wanted = int(seconds * TOKEN_FPS)
        problems: dict[str, str] = {}
        token = fields.get("token")
        if not token:
            return wanted, problems
        stated = str(token).count(AUDIO_PAD_TOKEN)
        unlike = abs(stated - seconds * TOKEN_FPS) > TOLERATED_TOKENS
        told = (
            f"must be {AUDIO_PAD_TOKEN} {wanted} times for {seconds:.2f} s, and has {stated}; "
            "leave it out to have it made"
        )
        if unlike or token != AUDIO_PAD_TOKEN * stated:
            problems["token"] = told
        elif stated != wanted:
            self._warn("token", f"{told}; training takes it")
        return stated, problems

    def _answer(self, fields: dict[str, Any]) -> tuple[int, dict[str, str]]:
        """Count an assistant entry's speech tokens and delay; also return its problems by key."""
        token, delay = fields.get("token"), AUDIO_BOS_TOKEN * DELAY_CODES
        if not isinstance(token, str) or not token.startswith(delay):
            wanted = (
                f"must begin with {AUDIO_BOS_TOKEN} {DELAY_CODES} times, then the speech tokens"
            )
            return 0, {"token": wanted}
        spelled = token.removeprefix(delay)
        codes = [int(code) for code in SPELLED_TOKEN.findall(spelled)]
        self.summary.answer_seconds.append(len(codes) / TOKEN_FPS)
        self.summary.partial_groups += bool((DELAY_CODES + len(codes)) % GROUP_SIZE)
        problems = {}
        if path := fields.get("path") or fields.get("wav_path"):
            seconds = self._seconds(path)
            if isinstance(seconds, str):
                problems["path"] = seconds
            elif abs(seconds * TOKEN_FPS - len(codes)) > TOLERATED_CODES:
                problems["token"] = (
                    f"has {len(codes)} speech tokens for {seconds:.2f} s, which make "
                    f"{int(seconds * TOKEN_FPS)}: audio and speech tokens do not match"
                )
        rest, most = SPELLED_TOKEN.sub("", spelled), max(codes, default=0)
        if rest or not codes:
            problems["token"] = f"must hold [AU0000] and so on, and holds {rest[:40]!r}"
        elif most >= CODEBOOK_SIZE:
            problems["token"] = (
                f"contains speech token {most}; valid ids are 0 to {CODEBOOK_SIZE - 1}: tokenize "
                "the audio again"
            )
        text = fields.get("text")
        room = -(-(DELAY_CODES + len(codes)) // GROUP_SIZE)
        if not text or not isinstance(text, str):
            problems["text"] = (
                "is empty; the text of the answer is learned beside its speech tokens"
            )
        elif self.tokenizer is not None:
            words = len(encode_text(self.tokenizer, text))
            if words > room:
                problems["text"] = (
                    f"has {words} tokens for {room} groups of speech tokens: it would be cut"
                )
        return DELAY_CODES + len(codes), problems

    def _length(
        self, system: str, messages: list[dict[str, str]], groups: int, where: str = ""
    ) -> Iterator[tuple[str, str]]:
        """Check the length of the whole row against the training limit."""
        turns = [{"role": "system", "content": system or DEFAULT_SYSTEM}, *messages]
        total = groups
        for turn in turns:
            # The control tokens of a turn and of its placeholders; no text makes one.
            total += 2 + 2 * turn["content"].count(AUDIO_TEMPLATE) * (turn["role"] != "system")
            total += len(self._ids(f"{turn['role']}\n{turn['content']}", turn["role"]))
            total += len(self._ids("\n", turn["role"]))
        self.summary.tokens.append(total)
        if total > self.cutoff_len:
            yield (
                where,
                f"is {total} tokens long; cutoff_len is {self.cutoff_len}: training would end, "
                "or leave it out with skip_bad_rows",
            )

    def _ids(self, text: str, role: str) -> list[int]:
        """Ids of a text in a turn, whose control tokens are text, without its placeholders."""
        if role == "user":
            return [i for part in text.split(AUDIO_TEMPLATE)
                    for i in encode_text(self.tokenizer, part)]  # fmt: skip
        parts = text.split(AUDIO_TEMPLATE) if role == "assistant" else [text]
        options = {"add_special_tokens": False, "split_special_tokens": True}
        return [token for part in parts for token in self.tokenizer(part, **options)["input_ids"]]


def check_file(path: Path, tokenizer: Any = None, cutoff_len: int = 2048) -> Summary:
    """Check every row of a JSONL file.

    Raises:
        FunAudioChatError: the file is missing, no UTF-8 text, or holds no row.
    """
    checker = DataChecker(tokenizer, cutoff_len)
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    checker.check_line(number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise FunAudioChatError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not checker.summary.rows:
        raise FunAudioChatError(f"{path} holds no rows; write one JSON object a line")
    return checker.summary


def draw_histograms(summary: Summary, path: Path) -> None:
    """Write a PNG of the lengths of questions, answers and rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds: dict[str, list[Any]] = {
        "questions, seconds": summary.question_seconds,
        "answers, seconds": summary.answer_seconds,
        "turns in a row": summary.turns,
        "row, tokens": summary.tokens,
    }
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(14, 3.2))
    for axis, (title, values) in zip(axes, kinds.items(), strict=True):
        axis.hist(values, bins=30)
        axis.set(title=f"{title} (n = {len(values)})", ylabel="count")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
