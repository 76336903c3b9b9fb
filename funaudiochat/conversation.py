# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Conversations: prompts, history, tools, and the high-level :class:`VoiceChat`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

from funaudiochat.audio import load_audio
from funaudiochat.constants import (
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    FUNCTION_CALLING_PROMPT,
)
from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.events import Event, Reply, ReplyDone
from funaudiochat.sampling import Sampling
from funaudiochat.tool_calls import (
    result_text,
)
from funaudiochat.turns import (
    Turn,
    missing_results,
    recent,
    tool_names,
)

_SAMPLE_RATE_HZ = 16000
_GROUPS_PER_SECOND = 5
_ANSWER_SHARE = 4  # of the context: a quarter is kept for the answer while rounds can give way


class Conversation:
    """Turns, history and tools of one talk; who answers is a subclass's matter.

    Args:
        system: system prompt; None for the one the checkpoint was trained with.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._history: list[Turn] = []
        self._tools: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget the conversation."""
        self._history, self._tools = [], []

    def ask(
        self,
        audio_or_text: Any,
        instruction: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> Reply:
        """Ask and wait for the whole answer, its sound computed at once as the original does.

        See :meth:`stream` for arguments and errors.
        """
        return self._whole(self.stream(audio_or_text, instruction, tools, speech, sampling, None))

    def stream(
        self,
        audio_or_text: Any,
        instruction: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """Ask and take the answer as it is made; leave the loop to interrupt it.

        The history always holds what was given so far, so an answer that is interrupted or
        fails stays in it to that point, and a question that nothing was given for does not.
        Calls of the answer before that got no result are told to the model as failed.

        Args:
            audio_or_text: a text, or a sound as :func:`funaudiochat.audio.load_audio` takes it:
                a ``Path``, bytes, a binary file, or (samples, rate). A path must be a ``Path``:
                a plain string is text.
            instruction: text that goes with a sound.
            tools: function definitions the model may call; such an answer is text.
            speech: speak the answer.
            schedule: chunks of the streamed sound; None computes it at the end, at once.

        Yields:
            TextDelta, SpeechTokens, AudioChunk as they come, then ReplyDone.

        Raises:
            AudioError: the sound cannot be used, or the conversation exceeds the context.
        """
        if isinstance(audio_or_text, str):
            content = audio_or_text if instruction is None else f"{audio_or_text}\n{instruction}"
            turn = Turn("user", content)
        else:
            wave = load_audio(audio_or_text, _SAMPLE_RATE_HZ, max_seconds=self._max_seconds())
            turn = Turn("user", instruction or "", wave)
        return self.stream_turn(turn, tools, speech, sampling, schedule)

    def tool_result(
        self,
        result: Any,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
    ) -> Reply:
        """Give the result of the call the model asked for -> its answer.

        What kept a call from being run is a result too: give ``{"error": ...}``.
        """
        return self._whole(self.stream_tool_result(result, speech, sampling, None))

    def stream_tool_result(
        self,
        result: Any,
        speech: bool = True,
        sampling: Sampling = Sampling(),  # noqa: B008
        schedule: ChunkSchedule | None = ChunkSchedule(),  # noqa: B008
    ) -> Iterator[Event]:
        """:meth:`tool_result` as it is made; events and arguments are those of :meth:`stream`."""
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
        """Answer a turn of the user; events and other arguments are those of :meth:`stream`."""
        if not turn.results:
            turn = replace(turn, results=missing_results(self._history))
        return self._answer(turn, tools or [], speech and not tools, sampling, schedule)

    def resume(self, history: Sequence[Turn]) -> None:
        """Continue from these turns, which alternate between user and assistant."""
        self._history = list(history)

    def branch(self) -> Self:
        """A conversation that goes on from here and leaves this one as it is; models are shared."""
        return copy.copy(self)

    def correct_answer(self, heard: str) -> None:
        """Replace the last answer in the history by what of it was heard."""
        if self._history:
            self._history = [*self._history[:-1], Turn("assistant", heard)]

    def _max_seconds(self) -> float | None:
        """Longest sound that can be asked with."""
        raise NotImplementedError

    def _answer(
        self,
        turn: Turn,
        tools: list[dict[str, Any]],
        speech: bool,
        sampling: Sampling,
        schedule: ChunkSchedule | None,
    ) -> Iterator[Event]:
        """Answer a turn after those of the history, and remember both."""
        raise NotImplementedError

    def _whole(self, events: Iterator[Event]) -> Reply:
        """Take an answer to its end; where that fails nothing was given, so nothing was said."""
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
        """Return a function that remembers the turn with its answer so far, after a history.

        It gives the answer's turn, and remembers nothing once the conversation was reset or asked
        something else.
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
