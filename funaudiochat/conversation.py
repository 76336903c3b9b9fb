# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Conversations: history, tools and how to ask; who generates the replies is up to a subclass."""

from __future__ import annotations

import copy
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from funaudiochat.audio import AudioSource, load_audio
from funaudiochat.constants import (
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    FUNCTION_CALLING_PROMPT,
    INPUT_RATE_HZ,
)
from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.errors import FunAudioChatError
from funaudiochat.events import Event, Reply, ReplyDone
from funaudiochat.sampling import Sampling
from funaudiochat.tool_calls import result_text
from funaudiochat.turns import Turn, missing_results, recent, tool_names


class Conversation(ABC):
    """History and tools of one conversation, and the methods that ask.

    Args:
        system: system prompt; None for the one the checkpoint was trained with.

    Attributes:
        prompt_steps: steps of the newest prompt, known before its reply begins; 0 if a server made
            the prompt.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.prompt_steps = 0
        self._history: list[Turn] = []
        self._tools: list[dict[str, Any]] = []

    @property
    def history(self) -> tuple[Turn, ...]:
        """The user's and the assistant's turns so far."""
        return tuple(self._history)

    def reset(self) -> None:
        """Forget the history and the tools."""
        self._history, self._tools = [], []

    def ask(
        self,
        question: str | None = None,
        /,
        *,
        text: str | None = None,
        audio: AudioSource | None = None,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> Reply:
        """Ask and wait for the whole reply, detokenized in one pass as the reference does.

        See :meth:`stream` for arguments and errors.
        """
        return self._whole(
            self.stream(
                question,
                text=text,
                audio=audio,
                tools=tools,
                speech=speech,
                sampling=sampling,
                schedule=None,
            )
        )

    def stream(
        self,
        question: str | None = None,
        /,
        *,
        text: str | None = None,
        audio: AudioSource | None = None,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """Ask and yield the reply while it is generated; leave the loop to interrupt it.

        The history always holds what was yielded so far: a reply that is interrupted or fails is
        kept up to that point, and a question without any reply is not kept. Tool calls of the
        reply before that got no result are reported to the model as failed.

        Args:
            question: the text, given by position. A string that names an existing file is refused,
                because it is almost always meant as audio.
            text: the text, taken literally whatever it says (for text typed by users). With
                ``audio`` it is the instruction that follows the audio.
            audio: a spoken question, as :func:`funaudiochat.load_audio` takes it: a path, the
                bytes of an audio file, a binary file object, or a pair (samples, rate in Hz).
            tools: function definitions the model may call; such a reply is text.
            speech: whether the reply is spoken.
            sampling: how tokens are chosen.
            schedule: chunk sizes of the streamed audio; None detokenizes once, at the end.

        Yields:
            TextDelta, SpeechTokens and AudioChunk as they are generated, then ReplyDone.

        Raises:
            AudioError: the audio cannot be used, or the question exceeds the context.
            FunAudioChatError: nothing was asked, or text and audio were mixed up.
        """
        content = _question_text(question, text, audio)
        samples = None
        if audio is not None:
            samples = load_audio(audio, INPUT_RATE_HZ, max_seconds=self._max_seconds())
        turn = Turn("user", content, samples)
        return self.stream_turn(turn, tools, speech, sampling, schedule)

    def tool_result(
        self,
        result: Any,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> Reply:
        """Return the reply to the result of the tool call the model asked for.

        If the call could not be run, that is a result too: pass ``{"error": ...}``.
        """
        return self._whole(self.stream_tool_result(result, speech, sampling, None))

    def stream_tool_result(
        self,
        result: Any,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """Stream what :meth:`tool_result` returns; events and arguments as for :meth:`stream`."""
        turn = Turn("user", results=(result_text(result),))
        return self._answer(turn, self._tools, speech, sampling, schedule)

    def stream_turn(
        self,
        turn: Turn,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """Stream the reply to a user's turn; events and other arguments as for :meth:`stream`."""
        if not turn.results:
            turn = replace(turn, results=missing_results(self._history))
        return self._answer(turn, tools or [], speech and not tools, sampling, schedule)

    def resume(self, history: Sequence[Turn]) -> None:
        """Replace the history by these turns, which alternate between user and assistant."""
        self._history = list(history)

    def branch(self) -> Self:
        """Return a conversation that continues from here without changing this one.

        The models are shared.
        """
        return copy.copy(self)

    def truncate_last_reply(self, heard: str) -> None:
        """Truncate the last assistant turn to the part the user heard (barge-in)."""
        if self._history:
            self._history = [*self._history[:-1], Turn("assistant", heard)]

    @abstractmethod
    def _max_seconds(self) -> float | None:
        """Return the longest audio that a question may have, None for no limit."""

    @abstractmethod
    def _answer(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> Iterator[Event]:
        """Reply to a turn that follows the history, and add both to the history."""

    def _whole(self, events: Iterator[Event]) -> Reply:
        """Wait for a whole reply; if it fails, restore the history, as the caller got nothing."""
        before = self._history, self._tools
        try:
            return _last_reply(events)
        except BaseException:
            self._history, self._tools = before
            raise

    def _system(self, tools: list[dict[str, Any]], speech: bool) -> Turn:
        if tools and not speech:
            definitions = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            prompt = FUNCTION_CALLING_PROMPT.replace("{tools_definition}", definitions)
        else:
            prompt = self.system or (DEFAULT_S2M_PROMPT if speech else DEFAULT_S2T_PROMPT)
        return Turn("system", prompt)

    def _recorder(
        self, history: list[Turn], turn: Turn, tools: list[dict[str, Any]], speech: bool
    ) -> Callable[[str], Turn]:
        """Return a function that appends the turn and its reply so far to a history.

        The function returns the reply's turn. It stops changing the history once the conversation
        was reset or asked something else.
        """
        last, offered = self._history, frozenset() if speech else tool_names(tools)

        def remember(answer: str) -> Turn:
            nonlocal last
            said = Turn("assistant", answer, offered=offered)
            if self._history is last:
                last = self._history = recent([*history, turn, said])
                self._tools = tools
            return said

        return remember


def _last_reply(events: Iterator[Event]) -> Reply:
    for event in events:
        if isinstance(event, ReplyDone):
            return event.reply
    raise AssertionError("a stream ends with ReplyDone")


def _question_text(question: str | None, text: str | None, audio: AudioSource | None) -> str:
    """Return the text of a question; refuse audio given as text, two texts, and no question."""
    for given in (question, text):
        if given is not None and not isinstance(given, str):
            raise FunAudioChatError(
                f"the text of a question must be a str, not {type(given).__name__}; "
                "pass a path, bytes, a file or (samples, rate) as audio=..."
            )
    if question is not None and os.path.isfile(question):
        raise FunAudioChatError(
            f"{question!r} names a file; ask with its audio by writing audio={question!r}, or with "
            f"these words by writing text={question!r}"
        )
    if question is not None and text is not None:
        raise FunAudioChatError("the question has two texts; give it by position or as text=...")
    if question is None and text is None and audio is None:
        raise FunAudioChatError("there is nothing to ask; give text=..., audio=... or both")
    return question or text or ""
