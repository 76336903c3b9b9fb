# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Ask a model the questions of benchmarks, into a run folder that can be gone on with.

Every item is keyed by its content and the settings it was asked with, so that data that grows or
changes is asked only what is new. It has its own seed, and is answered the same alone, in a batch,
in a shard, or after the process was killed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import soundfile

from evaluate.core import Benchmark, Item, LayoutError, Subset
from evaluate.records import (
    Prediction,
    appending,
    fingerprint,
    known_answers,
    read_json,
    subset_folder,
    versions_of,
    write_json,
)
from evaluate.sources import (
    QUESTION_RATE_HZ,
    Produced,
    Prompt,
    Source,
    read_wave,
    seed_of,
)
from funaudiochat.errors import FunAudioChatError

PACKAGES = ("funaudiochat", "torch", "transformers", "numpy", "openai")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class InferOptions:
    """What to ask and how.

    Attributes:
        shard: (i, n): the i-th of n shares, from 1 on.
        limit: items of each subset at most.
        retry_errors: ask again what failed before.
        system_extra: add the line that some items' system prompt may end with.
        longest_s: seconds of a question that the model hears, counted from its start; None for all.
    """

    data: Path
    run: Path
    batch_size: int = 8
    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    seed: int = 0
    retry_errors: bool = False
    system_extra: bool = False
    longest_s: float | None = None


@dataclass
class Outcome:
    """What one call did for a subset; failures of earlier calls that still stand count too."""

    benchmark: str
    subset: str
    asked: int = 0
    skipped: int = 0
    failed: int = 0
    first_failure: str = ""
    cut: int = 0

    def fail(self, id_: str, error: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or f"{id_}: {error}"


def parse_shard(text: str) -> tuple[int, int]:
    """``2/4`` -> (2, 4).

    Raises:
        FunAudioChatError: it is not i/n with 1 <= i <= n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise FunAudioChatError(f"--shard is i/n with i from 1 to n, not {text!r}")
    return int(found[1]), int(found[2])


def survey(benchmark: Benchmark, subset: Subset, data: Path) -> dict[str, Any]:
    """Count the items of a subset, hash its files and find the first row that cannot be used.

    Raises:
        LayoutError: the data is not there, or not of the layout.
    """
    digest, count, problems, missing = hashlib.sha256(), 0, [], []
    files: dict[Path, None] = {}
    keys: dict[str, str] = {}
    copies: Counter[str] = Counter()
    for item in subset.load(benchmark.data_folder(data)):
        count += 1
        if item.source is not None:
            files[item.source] = None
        if item.problem is not None:
            problems.append(item.problem)
        elif isinstance(item.audio, Path) and not item.audio.is_file():
            missing.append(f"{item.id}: no sound file {item.audio}")
        content = _content_hash(item)
        copies[content] += 1
        keys[item.id] = f"{content}#{copies[content]}" if copies[content] > 1 else content
        digest.update(f"{item.id} {keys[item.id]}\n".encode())
    if not count:
        raise LayoutError(f"{benchmark.name}/{subset.name} holds no items; {benchmark.layout}")
    return {
        "items": count,
        "expected": subset.count,
        "broken_rows": len(problems),
        "missing_sounds": len(missing),
        "first_problem": next(iter(problems + missing), None),
        "items_sha256": digest.hexdigest(),
        "item_keys": keys,
        "files_sha256": {str(path): _sha256(path) for path in files},
    }


def _content_hash(item: Item) -> str:
    """Hash of all that is asked and expected, wherever in the data it stands."""
    if isinstance(item.audio, bytes):
        sound = hashlib.sha256(item.audio).hexdigest()
    elif item.audio is not None and item.audio.is_file():
        sound = fingerprint(item.audio)
    else:
        sound = str(item.audio and item.audio.name)
    content = [item.instruction, item.system, item.fields, sound]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prompt_of(benchmark: Benchmark, subset: Subset, item: Item, seed: int) -> Prompt:
    """The question without its sound."""
    return Prompt(
        item.system or benchmark.system,
        item.instruction,
        None,
        benchmark.speech,
        seed_of(seed, (benchmark.name, subset.name, item.id)),
    )


def settings_of(
    benchmark: Benchmark, source: Source, options: InferOptions
) -> tuple[str, dict[str, Any]]:
    """Everything a benchmark's answers depend on beside the question, and its hash."""
    settings = {**source.description, "seed": options.seed}
    if benchmark.speech:
        settings |= source.speech_description
    if options.system_extra:
        settings["system_extra"] = True
    if options.longest_s is not None:
        settings["longest_question_s"] = options.longest_s
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16], settings


def note_settings(run: Path, hash_: str, settings: dict[str, Any]) -> None:
    """Keep the settings in ``run.json``."""
    path = run / "run.json"
    known = read_json(path) if path.is_file() else {"settings": {}}
    known["settings"][hash_] = settings
    known["versions"] = {"python": platform.python_version(), **versions_of(PACKAGES)}
    write_json(path, known)


def note_subset(folder: Path, found: dict[str, Any], hash_: str) -> None:
    """Keep what :func:`survey` found, and the settings asked with, in ``subset.json``."""
    write_json(folder / "subset.json", {**found, "settings": hash_})


def shown(items: Iterator[Item], options: InferOptions) -> Iterator[Item]:
    """The items of this call's share."""
    first, shares = options.shard
    for place, item in enumerate(items):
        if options.limit is not None and place >= options.limit:
            return
        if place % shares != first - 1:
            continue
        if options.system_extra and item.system_extra is not None:
            item = replace(item, system=f"{item.system}\n{item.system_extra}")
        yield item


def infer(
    benchmark: Benchmark,
    subset: Subset,
    source: Source,
    options: InferOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Answer a subset's items that have no answer yet.

    Args:
        progress: called with how many items of this share are done, and their number.

    Raises:
        LayoutError: the data is not there, or not of the layout.
        FunAudioChatError: the source is gone, or another process writes to the same file.
    """
    if benchmark.duplex:
        raise FunAudioChatError(
            "the duplex set-up needs a duplex model's answers; give them with --predictions"
        )
    found = survey(benchmark, subset, options.data)
    total = found["items"] if options.limit is None else min(options.limit, found["items"])
    first, shares = options.shard
    share = len(range(first - 1, total, shares))
    folder = subset_folder(options.run, benchmark.name, subset.name)
    hash_, settings = settings_of(benchmark, source, options)
    note_settings(options.run, hash_, settings)
    note_subset(folder, found, hash_)
    outcome = Outcome(benchmark.name, subset.name)
    name = "predictions" if shares == 1 else f"predictions.{first}-of-{shares}"
    with appending(folder / f"{name}.jsonl") as journal:
        known = known_answers(folder, hash_)
        waiting: list[tuple[Item, Prompt]] = []
        keys: dict[str, str] = found["item_keys"]

        def flush() -> None:
            asked = [(item, prompt, keys[item.id]) for item, prompt in waiting]
            rows = _answer(benchmark, subset, source, folder, hash_, asked, options.longest_s)
            journal.append([asdict(row) for row in rows])
            for row in rows:
                outcome.asked += 1
                outcome.cut += row.cut
                if row.error is not None:
                    outcome.fail(row.id, row.error)
            waiting.clear()
            progress(outcome.asked + outcome.skipped, share)

        for item in shown(subset.load(benchmark.data_folder(options.data)), options):
            prompt = prompt_of(benchmark, subset, item, options.seed)
            old = known.get(keys[item.id])
            if old is not None and _is_done(old, prompt, hash_, options.retry_errors):
                outcome.skipped += 1
                if (old.id, old.index) != (item.id, item.index):
                    journal.append([asdict(replace(old, id=item.id, index=item.index))])
                if old.error is not None:
                    outcome.fail(item.id, old.error)
                progress(outcome.asked + outcome.skipped, share)
                continue
            waiting.append((item, prompt))
            if len(waiting) == options.batch_size:
                flush()
        if waiting:
            flush()
    return outcome


def _is_done(old: Prediction, prompt: Prompt, hash_: str, retry_errors: bool) -> bool:
    return (
        old.settings_hash == hash_
        and (old.system, old.instruction) == (prompt.system, prompt.instruction)
        and not (retry_errors and old.error is not None)
    )


def blank_prediction(
    benchmark: Benchmark, subset: Subset, item: Item, hash_: str, key: str
) -> Prediction:
    """A row with everything but the answer."""
    return Prediction(
        id=item.id,
        index=item.index,
        benchmark=benchmark.name,
        subset=subset.name,
        audio=str(item.audio.absolute()) if isinstance(item.audio, Path) else None,
        system=item.system or benchmark.system,
        instruction=item.instruction,
        fields=item.fields,
        item_key=key,
        settings_hash=hash_,
        error=item.problem,
    )


def _answer(
    benchmark: Benchmark,
    subset: Subset,
    source: Source,
    folder: Path,
    hash_: str,
    waiting: list[tuple[Item, Prompt, str]],
    longest_s: float | None,
) -> list[Prediction]:
    """Rows of a batch; what cannot be asked or answered has its reason."""
    rows, asked = [], []
    for item, prompt, key in waiting:
        row = blank_prediction(benchmark, subset, item, hash_, key)
        rows.append(row)
        if row.error is None:
            try:
                wave = read_wave(item.audio, longest_s)
            except FunAudioChatError as error:
                row.error = str(error)
            else:
                row.heard_s = round(len(wave) / QUESTION_RATE_HZ, 3)
                asked.append((row, replace(prompt, audio=wave)))
    began = time.monotonic()
    produced = source.answer([prompt for _, prompt in asked]) if asked else []
    seconds = round((time.monotonic() - began) / max(1, len(asked)), 3)
    for (row, _), answer in zip(asked, produced, strict=True):
        row.seconds = seconds
        if isinstance(answer, str):
            row.error = answer
        else:
            _fill(row, answer, folder)
    return rows


def _fill(row: Prediction, answer: Produced, folder: Path) -> None:
    row.text, row.raw_text = answer.text, answer.raw_text
    row.n_text_tokens, row.n_speech_codes = answer.text_tokens, answer.speech_codes
    row.cut = answer.cut
    if answer.audio is not None and len(answer.audio):
        # Different ids may look the same once unsafe characters are gone, and an id may come to
        # name another question when the data changes.
        named = f"{row.id}{row.item_key}".encode("utf-8", errors="replace")
        mark = hashlib.sha256(named).hexdigest()[:8]
        name = f"audio/{_UNSAFE.sub('_', row.id)[:80]}-{mark}.flac"
        (folder / "audio").mkdir(exist_ok=True)
        soundfile.write(folder / name, answer.audio, answer.rate_hz, subtype="PCM_16")
        row.audio_out = name
    elif answer.audio is not None:
        row.n_speech_codes = 0
