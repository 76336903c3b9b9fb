# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a benchmark is made of.

A :class:`Benchmark` holds subsets; a :class:`Subset` knows how to read its :class:`Item` s from
disk, which :class:`Metric` s score the answers, and which :class:`Row` s of the paper's tables they
fill. Everything is data and pure functions, so that a new benchmark is one module that declares
itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluate.statistics import Weights, equal_weights
from funaudiochat.constants import DEFAULT_S2T_PROMPT
from funaudiochat.errors import FunAudioChatError

logger = logging.getLogger(__name__)


class LayoutError(FunAudioChatError):
    """Data that does not lie as the benchmark's layout says."""


class NotScored(Exception):  # noqa: N818 - no error: the report shows the reason
    """A metric that cannot be computed here; its text is the reason."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique within its subset.
        index: place in the data, from 0 on.
        audio: sound file or the bytes of one.
        instruction: text that follows the sound.
        system: system prompt; None for the benchmark's.
        system_extra: a last line of it that is only there on demand.
        fields: what the scorers need to know: reference, choices, ...; must be JSON.
        problem: why the row cannot be used; such an item is recorded, not asked.
        source: file that holds the row.
    """

    id: str
    index: int
    audio: Path | bytes | None = None
    instruction: str | None = None
    system: str | None = None
    system_extra: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None
    source: Path | None = None


@dataclass(frozen=True)
class Answer:
    """An answered item as the scorers see it.

    Attributes:
        text: reply without special tokens and ``<think>`` blocks.
        raw_text: reply with them.
        sound: file of the spoken reply.
        question: file of the question's sound, where it is one; it may be gone by now.
        silent: a model that speaks said nothing.
    """

    benchmark: str
    subset: str
    id: str
    fields: dict[str, Any]
    instruction: str | None
    text: str
    raw_text: str
    sound: Path | None = None
    question: Path | None = None
    silent: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a metric says of one answer.

    Attributes:
        parts: name of a mean -> (numerator, denominator) this answer adds to it; empty where the
            answer leaves the denominator.
        extracted: what was read from the reply.
        reason: why it is wrong or has no verdict.
        missing: a judge or tool gave nothing for this answer, so the score is incomplete.
    """

    parts: dict[str, tuple[float, float]] = field(default_factory=dict)
    extracted: str = ""
    reason: str = ""
    missing: bool = False

    def as_part(self, name: str) -> Verdict:
        """The same verdict, counted in a mean of its own."""
        return replace(self, parts={name: self.parts[""]} if self.parts else {})


@dataclass(frozen=True)
class Unheard:
    """Why a spoken reply cannot be listened to."""

    reason: str

    @property
    def verdict(self) -> Verdict:
        return Verdict(reason=self.reason, missing=True)


def points(value: float | bool, extracted: Any = "", reason: str = "") -> Verdict:
    """A verdict that counts once, with this value."""
    return Verdict({"": (float(value), 1.0)}, str(extracted), reason)


def invalid(reason: str, extracted: Any = "") -> Verdict:
    """A verdict that leaves the denominator."""
    return Verdict(extracted=str(extracted), reason=reason)


# Scores the answers of one subset, in their order; ``tools`` is an ``evaluate.score.Tools``.
Scorer = Callable[[list[Answer], Any], list[Verdict]]


@dataclass(frozen=True)
class Metric:
    """One way to score a subset.

    Attributes:
        scorer: gives one verdict an answer, or raises NotScored.
        scale: what the mean is multiplied with, 100 for percent.
        weights: how the means of several parts make one value.
        note: a choice of ours that the report states.
        libraries: packages whose version the value may depend on.
        step: what the benchmark rounds the value to; 0 for not at all.
        highest: value there can be.
        version: changes whenever the rule does.
    """

    name: str
    scorer: Scorer
    scale: float = 100.0
    weights: Callable[[list[Verdict]], Weights] = equal_weights
    note: str = ""
    libraries: tuple[str, ...] = ()
    version: int = 1
    step: float = 0.0
    highest: float = 100.0


def each(rule: Callable[[Answer], Verdict]) -> Scorer:
    """A scorer that looks at one answer at a time; one that it fails on leaves the denominator."""

    def scorer(answers: list[Answer], tools: Any) -> list[Verdict]:
        verdicts = []
        for answer in answers:
            try:
                verdicts.append(rule(answer))
            except ModuleNotFoundError as error:
                raise NotScored(
                    f"the package of {error.name} is missing: make eval-setup, or "
                    "pip install 'funaudiochat[eval]'"
                ) from error
            except NotScored:
                raise
            except Exception as error:  # a rule of somebody else's on data of somebody else's
                logger.warning("%s/%s %s: %r", answer.benchmark, answer.subset, answer.id, error)
                verdicts.append(invalid(f"the scorer failed: {error!r}"))
        return verdicts

    return scorer


@dataclass(frozen=True)
class Row:
    """A row of a table of the paper.

    Attributes:
        group: the table, as in ``tables/paper.json``.
        name: its row there.
        choices: metrics whose mean is the value; the first choice that can be computed is taken.
        part: one part of the metric only.
        note: printed when another choice than the first was taken.
        fallback_complete: whether another choice is a full value too.
        unlike: why no run's value can be compared with the paper's, where none can.
    """

    group: str
    name: str
    choices: tuple[tuple[str, ...], ...]
    part: str | None = None
    note: str = ""
    fallback_complete: bool = True
    unlike: str = ""


@dataclass(frozen=True)
class Subset:
    """A set of questions that is scored by itself.

    Attributes:
        load: folder of the benchmark's data -> its items.
        count: how many the published set has; None where that is not known.
    """

    name: str
    load: Callable[[Path], Iterator[Item]]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    count: int | None = None


@dataclass(frozen=True)
class HubData:
    """A data set on the hub, and where under the benchmark's folder it goes.

    Attributes:
        layouts: patterns of the files that are needed, for each form in which the repository may
            hold the data; the first form of which every pattern has a file is fetched, or else
            all files. Without any, all files are needed.
        subset: the only subset that needs it; None for all.
    """

    repository: str
    folder: str = ""
    layouts: tuple[tuple[str, ...], ...] = ()
    subset: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the paper.

    Attributes:
        name: on the command line.
        folder: under the data root.
        layout: what lies there, for people.
        system: system prompt of every item that has none of its own.
        speech: whether the model answers with text and speech.
        needs: judge, weights or packages its scores take.
        notes: caveats that are printed under its first table.
        hub: what ``eval fetch`` downloads.
        manual: what a person has to do for the data.
        duplex: needs a model that listens while it speaks.
    """

    name: str
    title: str
    folder: str
    layout: str
    subsets: tuple[Subset, ...]
    system: str = DEFAULT_S2T_PROMPT
    speech: bool = False
    needs: str = ""
    notes: tuple[str, ...] = ()
    hub: tuple[HubData, ...] = ()
    manual: str = ""
    duplex: bool = False

    def data_folder(self, root: Path) -> Path:
        """The benchmark's own folder under ``root``, or ``root`` itself where there is none.

        Raises:
            LayoutError: there is no such folder.
        """
        own = root / self.folder
        found = own if own.is_dir() else root
        if not found.is_dir():
            raise LayoutError(
                f"no folder {root}; --data names the folder that holds {self.folder}/ "
                f"(funaudiochat eval fetch --benchmark {self.name} --data {root})"
            )
        return found


CHOICE_SENTENCE = "Choose the correct option from the following options:"


def choice_instruction(question: str, choices: list[str]) -> str:
    """The paper's form of a multiple-choice question.

    Raises:
        ValueError: there is nothing to choose from.
    """
    if len(choices) < 2:
        raise ValueError(f"a multiple-choice question needs choices, not {choices}")
    options = "\n".join(f"({chr(ord('A') + i)}){choice}" for i, choice in enumerate(choices))
    return f"{question} {CHOICE_SENTENCE}\n{options}"
