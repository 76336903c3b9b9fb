# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Building blocks of a benchmark.

A :class:`Benchmark` holds subsets. A :class:`Subset` knows how to read its items (:class:`Item`)
from disk, which metrics (:class:`Metric`) score the answers, and which rows (:class:`Row`) of the
paper's tables they fill. Everything is declared as data and pure functions, so a new benchmark is
a single module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.scoring_tools import ScoringTools
from evaluate.statistics import Weights, equal_weights
from evaluate.verdict import Answer, NotScored, Verdict, invalid
from funaudiochat.constants import DEFAULT_S2T_PROMPT
from funaudiochat.errors import FunAudioChatError

logger = logging.getLogger(__name__)


class LayoutError(FunAudioChatError):
    """Benchmark data that is missing or does not follow the expected layout."""


@dataclass(frozen=True)
class Item:
    """One benchmark item.

    Attributes:
        id: unique within its subset.
        index: position in the data, starting at 0.
        audio: audio file, or the bytes of one.
        instruction: text that follows the audio.
        system: system prompt; None for the benchmark's own.
        system_extra: optional last line of the system prompt.
        fields: what the scorers need (reference, choices, ...); must be JSON.
        problem: why the row cannot be used; such an item is recorded but not run.
        source: file that contains the row.
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


# Maps the answers of one subset to verdicts, in the same order.
Scorer = Callable[[list[Answer], ScoringTools], list[Verdict]]


@dataclass(frozen=True)
class Metric:
    """One way to score a subset.

    Attributes:
        scorer: returns one verdict per answer, or raises NotScored.
        scale: factor applied to the mean, 100 for per cent.
        weights: how the means of several parts are combined into one value.
        note: a choice made by this toolkit, stated in the report.
        libraries: packages whose version may affect the value.
        step: rounding step of the published value; 0 for no rounding.
        highest: largest possible value.
        version: incremented whenever the rule changes.
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


def per_answer(rule: Callable[[Answer], Verdict]) -> Scorer:
    """Turn a rule for one answer into a scorer.

    An answer on which the rule crashes is excluded from the denominator.
    """

    def scorer(answers: list[Answer], tools: ScoringTools) -> list[Verdict]:
        verdicts = []
        for answer in answers:
            try:
                verdicts.append(rule(answer))
            except ModuleNotFoundError as error:
                raise NotScored(
                    f"the package that provides {error.name} is missing: run make eval-setup, or "
                    "pip install 'funaudiochat[eval]'"
                ) from error
            except NotScored:
                raise
            except Exception as error:  # third-party rules on third-party data
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
        choices: metrics whose mean is the value; the first choice that can be computed is used.
        part: the single part of the metric that the row shows; None for the whole value.
        note: printed if a choice other than the first was used.
        fallback_complete: whether a choice other than the first is also a complete value.
        unlike: why no run's value is comparable with the paper's; empty if it can be.
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
    """A set of items that is scored on its own.

    Attributes:
        load: maps the benchmark's data folder to the items.
        count: number of items of the published set; None if unknown.
    """

    name: str
    load: Callable[[Path], Iterator[Item]]
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    count: int | None = None


@dataclass(frozen=True)
class HubData:
    """A data set on the hub, and its destination below the benchmark's folder.

    Attributes:
        layouts: file patterns of each layout that the repository may have. The first layout for
            which every pattern matches a file is downloaded; if none matches, all files are.
        subset: the only subset that needs it; None if all do.
    """

    repository: str
    folder: str = ""
    layouts: tuple[tuple[str, ...], ...] = ()
    subset: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the paper.

    Attributes:
        name: name on the command line.
        folder: folder below the data root.
        layout: human-readable description of the files in that folder.
        system: system prompt of every item without one of its own.
        speech: whether the model answers with text and speech.
        needs: judge, weights or packages that the scores require.
        notes: caveats printed below its first table.
        hub: what ``eval fetch`` downloads.
        manual: manual steps needed to obtain the data.
        duplex: whether it needs a model that listens while it speaks.
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
        """Return the benchmark's folder below ``root``, or ``root`` itself if there is none.

        Raises:
            LayoutError: ``root`` does not exist.
        """
        own = root / self.folder
        found = own if own.is_dir() else root
        if not found.is_dir():
            raise LayoutError(
                f"no folder {root}; --data must name the folder that contains {self.folder}/ "
                f"(download it with: funaudiochat eval fetch --benchmark {self.name} "
                f"--data {root})"
            )
        return found


CHOICE_SENTENCE = "Choose the correct option from the following options:"


def choice_instruction(question: str, choices: list[str]) -> str:
    """Format a multiple-choice question as in the paper.

    Raises:
        ValueError: there are fewer than two choices.
    """
    if len(choices) < 2:
        raise ValueError(f"a multiple-choice question needs choices, got {choices}")
    options = "\n".join(f"({chr(ord('A') + i)}){choice}" for i, choice in enumerate(choices))
    return f"{question} {CHOICE_SENTENCE}\n{options}"
