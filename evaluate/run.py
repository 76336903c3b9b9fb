# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Run a model over benchmark items and store its predictions in a resumable run folder.

Items are keyed by their content and by the settings of the run, so only new items are run if the
data grows or changes. Every item has its own seed: its answer is the same alone, in a batch, in a
shard, or after an interruption.
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
from evaluate.sources import AnswerSource, ModelOutput, Prompt, read_audio, seed_of
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.errors import FunAudioChatError

PACKAGES = ("funaudiochat", "torch", "transformers", "numpy", "openai")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class InferOptions:
    """Options of a run.

    Attributes:
        data: root folder of the data sets.
        run: folder of the run.
        shard: (i, n) for the i-th of n shards, counted from 1.
        limit: maximum number of items per subset.
        retry_errors: whether to run items again that failed before.
        system_extra: whether to append the optional last line of an item's system prompt.
        longest_s: truncate questions to this many seconds; None for no truncation.
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
    """Counts of one call for a subset; unresolved failures of earlier calls are included.

    Attributes:
        attempted: items run by this call.
        skipped: items that already had a prediction.
        failed: items without an answer.
        first_failure: id and reason of the first of them.
        cut: answers truncated at the token limit.
    """

    benchmark: str
    subset: str
    attempted: int = 0
    skipped: int = 0
    failed: int = 0
    first_failure: str = ""
    cut: int = 0

    def fail(self, id_: str, error: str) -> None:
        """Count a failed item."""
        self.failed += 1
        self.first_failure = self.first_failure or f"{id_}: {error}"


def parse_shard(text: str) -> tuple[int, int]:
    """Parse a shard: ``2/4`` -> (2, 4).

    Raises:
        FunAudioChatError: the text is not i/n with 1 <= i <= n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise FunAudioChatError(f"--shard must be i/n with 1 <= i <= n, not {text!r}")
    return int(found[1]), int(found[2])


def inspect_subset(benchmark: Benchmark, subset: Subset, data: Path) -> dict[str, Any]:
    """Count the items of a subset, hash its files and find the first unusable row.

    Raises:
        LayoutError: the data is missing or does not follow the layout.
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
            missing.append(f"{item.id}: audio file not found: {item.audio}")
        content = _content_hash(item)
        copies[content] += 1
        keys[item.id] = f"{content}#{copies[content]}" if copies[content] > 1 else content
        digest.update(f"{item.id} {keys[item.id]}\n".encode())
    if not count:
        raise LayoutError(
            f"{benchmark.name}/{subset.name} contains no items; expected layout: {benchmark.layout}"
        )
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
    """Hash the prompt, the audio and the expected answer, independent of the item's position."""
    if isinstance(item.audio, bytes):
        audio = hashlib.sha256(item.audio).hexdigest()
    elif item.audio is not None and item.audio.is_file():
        audio = fingerprint(item.audio)
    else:
        audio = str(item.audio and item.audio.name)
    content = [item.instruction, item.system, item.fields, audio]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prompt_of(benchmark: Benchmark, subset: Subset, item: Item, seed: int) -> Prompt:
    """Build the prompt of an item, without its audio."""
    return Prompt(
        item.system or benchmark.system,
        item.instruction,
        None,
        benchmark.speech,
        seed_of(seed, (benchmark.name, subset.name, item.id)),
    )


def settings_of(
    benchmark: Benchmark, source: AnswerSource, options: InferOptions
) -> tuple[str, dict[str, Any]]:
    """Return the hash and the settings that the answers depend on besides the items."""
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
    """Store settings under their hash in ``run.json``."""
    path = run / "run.json"
    known = read_json(path) if path.is_file() else {"settings": {}}
    known["settings"][hash_] = settings
    known["versions"] = {"python": platform.python_version(), **versions_of(PACKAGES)}
    write_json(path, known)


def note_subset(folder: Path, found: dict[str, Any], hash_: str) -> None:
    """Store the result of :func:`inspect_subset` and the settings hash in ``subset.json``."""
    write_json(folder / "subset.json", {**found, "settings": hash_})


def select_shard(items: Iterator[Item], options: InferOptions) -> Iterator[Item]:
    """Yield the items of this call's shard."""
    first, shards = options.shard
    for position, item in enumerate(items):
        if options.limit is not None and position >= options.limit:
            return
        if position % shards != first - 1:
            continue
        if options.system_extra and item.system_extra is not None:
            item = replace(item, system=f"{item.system}\n{item.system_extra}")
        yield item


def infer(
    benchmark: Benchmark,
    subset: Subset,
    source: AnswerSource,
    options: InferOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Run the items of a subset that have no prediction yet.

    Args:
        benchmark: the benchmark.
        subset: one of its subsets.
        source: model that answers the prompts.
        options: data, run folder and settings.
        progress: called with the number of finished items and the size of this shard.

    Raises:
        LayoutError: the data is missing or does not follow the layout.
        FunAudioChatError: the source is unreachable, or another process writes the same file.
    """
    if benchmark.duplex:
        raise FunAudioChatError(
            "duplex benchmarks need the answers of a duplex model; pass them with --predictions"
        )
    found = inspect_subset(benchmark, subset, options.data)
    total = found["items"] if options.limit is None else min(options.limit, found["items"])
    first, shards = options.shard
    shard_size = len(range(first - 1, total, shards))
    folder = subset_folder(options.run, benchmark.name, subset.name)
    hash_, settings = settings_of(benchmark, source, options)
    note_settings(options.run, hash_, settings)
    note_subset(folder, found, hash_)
    outcome = Outcome(benchmark.name, subset.name)
    name = "predictions" if shards == 1 else f"predictions.{first}-of-{shards}"
    with appending(folder / f"{name}.jsonl") as journal:
        known = known_answers(folder, hash_)
        waiting: list[tuple[Item, Prompt]] = []
        keys: dict[str, str] = found["item_keys"]

        def flush() -> None:
            batch = [(item, prompt, keys[item.id]) for item, prompt in waiting]
            rows = _answer(benchmark, subset, source, folder, hash_, batch, options.longest_s)
            journal.append([asdict(row) for row in rows])
            for row in rows:
                outcome.attempted += 1
                outcome.cut += row.cut
                if row.error is not None:
                    outcome.fail(row.id, row.error)
            waiting.clear()
            progress(outcome.attempted + outcome.skipped, shard_size)

        for item in select_shard(subset.load(benchmark.data_folder(options.data)), options):
            prompt = prompt_of(benchmark, subset, item, options.seed)
            old = known.get(keys[item.id])
            if old is not None and _is_done(old, prompt, hash_, options.retry_errors):
                outcome.skipped += 1
                if (old.id, old.index) != (item.id, item.index):
                    journal.append([asdict(replace(old, id=item.id, index=item.index))])
                if old.error is not None:
                    outcome.fail(item.id, old.error)
                progress(outcome.attempted + outcome.skipped, shard_size)
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
    """Create the prediction of an item, still without the answer."""
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
    source: AnswerSource,
    folder: Path,
    hash_: str,
    batch: list[tuple[Item, Prompt, str]],
    longest_s: float | None,
) -> list[Prediction]:
    """Answer a batch of (item, prompt, key); predictions without an answer have an error."""
    rows, prompted = [], []
    for item, prompt, key in batch:
        row = blank_prediction(benchmark, subset, item, hash_, key)
        rows.append(row)
        if row.error is None:
            try:
                audio = read_audio(item.audio, longest_s)
            except FunAudioChatError as error:
                row.error = str(error)
            else:
                row.heard_s = round(len(audio) / INPUT_RATE_HZ, 3)
                prompted.append((row, replace(prompt, audio=audio)))
    began = time.monotonic()
    outputs = source.answer([prompt for _, prompt in prompted]) if prompted else []
    seconds = round((time.monotonic() - began) / max(1, len(prompted)), 3)
    for (row, _), output in zip(prompted, outputs, strict=True):
        row.seconds = seconds
        if isinstance(output, str):
            row.error = output
        else:
            _store(row, output, folder)
    return rows


def _store(row: Prediction, output: ModelOutput, folder: Path) -> None:
    """Copy an answer into its prediction and write its audio to a file."""
    row.text, row.raw_text = output.text, output.raw_text
    row.n_text_tokens, row.n_speech_codes = output.text_tokens, output.speech_tokens
    row.cut = output.cut
    if output.audio is not None and len(output.audio):
        # Different ids may become equal once unsafe characters are removed, and an id may refer
        # to another question when the data changes.
        named = f"{row.id}{row.item_key}".encode("utf-8", errors="replace")
        mark = hashlib.sha256(named).hexdigest()[:8]
        name = f"audio/{_UNSAFE.sub('_', row.id)[:80]}-{mark}.flac"
        (folder / "audio").mkdir(exist_ok=True)
        soundfile.write(folder / name, output.audio, output.rate_hz, subtype="PCM_16")
        row.audio_out = name
    elif output.audio is not None:
        row.n_speech_codes = 0
