# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Make the training speech of the ears: synthetic voices and, optionally, real speakers.

    python -m training.nano.speech --text common_voice_en.txt --count 12000 --jobs 2
    python -m training.nano.speech --text ... --real-speech FOLDER    # with real speakers

Writes ``synthetic``, ``real``, ``test_known`` and ``test_new`` into ``ears`` below ``--work``; each
is a file of 16 kHz samples and a manifest with a line per recording. A line is written after its
samples, so the same command resumes an interrupted run; a larger ``--count`` adds recordings.

``FOLDER`` or its subfolders hold ``rows.jsonl`` (``file``, ``split``, ``text``; only ``train`` is
read) or ``labels.json`` (name of a FLAC file -> ``heard``, its text, and ``complete``, whether the
text is complete).
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from training.nano.data import WORK, read_jsonl, write_jsonl
from training.nano.domain import Domain, unit_hash
from training.nano.features import read_waveform
from training.nano.rooms import Scene
from training.nano.sentences import Sentences, open_text, plain
from training.nano.voices import HELD_OUT_VOICES, QUESTION_HZ, TRAINING_VOICES, VOICES, speak

log = logging.getLogger(__name__)

LONGEST_SILENCE_S = 5.0
# Copies stored of every real recording: unchanged, then in various rooms and noises.
REAL_RENDERINGS = 4
# Share of the speakers, or of the recordings of unnamed speakers, held out for model selection.
VALID_SHARE = 0.1
TEST_COUNT = 120  # held-out sentences each by training voices and by held-out voices
CHUNK = 16

Recording = tuple[np.ndarray, dict[str, Any]]


class SpeechStore:
    """Recordings concatenated as 16-bit samples in ``STEM.raw``, with a manifest ``STEM.jsonl``.

    Args:
        stem: path without a suffix; missing files are an empty store.

    Attributes:
        rows: manifest records, each with ``start`` and ``samples``.
    """

    def __init__(self, stem: Path) -> None:
        self.raw, self.manifest = stem.with_suffix(".raw"), stem.with_suffix(".jsonl")
        self.rows = read_jsonl(self.manifest)
        self._samples = np.memmap(self.raw, np.int16, "r") if self.rows else None

    def waveform(self, row: dict[str, Any]) -> Tensor:
        """Read the samples [S] of a record, float32."""
        assert self._samples is not None
        part = self._samples[row["start"] : row["start"] + row["samples"]]
        return torch.from_numpy(part.astype(np.float32) / 32768)

    def extend(self, recordings: Iterable[Recording | None]) -> None:
        """Append recordings as they arrive, overwriting leftovers of an interrupted call."""
        self.raw.parent.mkdir(parents=True, exist_ok=True)
        self.raw.touch()
        write_jsonl(self.manifest, self.rows)
        end = self.rows[-1]["start"] + self.rows[-1]["samples"] if self.rows else 0
        with self.raw.open("r+b") as raw, self.manifest.open("a", encoding="utf-8") as manifest:
            raw.truncate(2 * end)
            raw.seek(0, 2)
            for recording in recordings:
                if recording is None:
                    continue
                waveform, record = recording
                raw.write(np.clip(waveform * 32768, -32768, 32767).astype("<i2").tobytes())
                raw.flush()
                record = {**record, "start": end, "samples": len(waveform)}
                manifest.write(json.dumps(record, ensure_ascii=False) + "\n")
                manifest.flush()
                self.rows.append(record)
                end += len(waveform)
                if len(self.rows) % 500 == 0:
                    log.info("%s: %d, %.2f h", self.raw.stem, len(self.rows), end / 5.76e7)
        self._samples = np.memmap(self.raw, np.int16, "r") if self.rows else None


def draw_scene(rng: Random) -> Scene:
    """Draw a scene with up to 5 s of silence before and after, usually far less."""
    lead, tail = (round(LONGEST_SILENCE_S * rng.random() ** 6, 3) for _ in range(2))
    scene = Scene.draw(rng)
    return replace(scene, lead_s=max(lead, scene.lead_s), tail_s=max(tail, scene.tail_s))


def render(index: int, sentences: Sentences, voices: list[str]) -> Recording | None:
    """Synthesise and record a numbered sentence; return None if the voice failed."""
    rng = Random(f"{sentences.seed}/speech/{sentences.wording}/{index}")
    sentence = sentences[index]
    weights = [VOICES[v].weight or 1 for v in voices]
    voice = rng.choices(voices, weights)[0]
    speed = rng.uniform(0.85, 1.15)
    trained = bool(VOICES[voice].weight)
    warp = 2 ** rng.uniform(-0.25, 0.25) if trained and rng.random() < 0.7 else 1.0
    try:
        waveform = speak(sentence.said, voice, QUESTION_HZ, rng, speed, warp)
    except RuntimeError as error:
        log.warning("skipped a sentence: %s", error)
        return None
    record = {"index": index, "kind": sentence.kind, "voice": voice, "text": sentence.heard}
    return draw_scene(rng).record(waveform, QUESTION_HZ), record


def make_synthetic(
    stem: Path, sentences: Sentences, voices: list[str], count: int, jobs: int
) -> None:
    """Render the missing sentences among 0 .. count-1, in ``jobs`` processes."""
    store = SpeechStore(stem)
    done = store.rows[-1]["index"] + 1 if store.rows else 0
    log.info("%s: %d of %d sentences exist", stem.name, done, count)
    job: Callable[[int], Recording | None] = partial(render, sentences=sentences, voices=voices)
    if done < count:
        with ProcessPoolExecutor(jobs) as pool:
            store.extend(pool.map(job, range(done, count), chunksize=CHUNK))


@dataclass(frozen=True)
class Person:
    """A recording of a person: file, text and speaker (the file's name if unknown)."""

    path: Path
    text: str
    speaker: str

    @property
    def part(self) -> str:
        """``valid`` for speakers held out for measuring, else ``train``."""
        return "valid" if unit_hash("person", self.speaker) < VALID_SHARE else "train"


def people(folder: Path) -> list[Person]:
    """List the training recordings in a folder and its subfolders.

    Raises:
        ValueError: there are none, or labels have no transcripts.
    """
    found = []
    for path in sorted([*folder.glob("rows.jsonl"), *folder.glob("*/rows.jsonl")]):
        rows = [row for row in read_jsonl(path) if row["split"] == "train"]
        found += [
            Person(path.parent / r["file"], plain(r["text"]), r.get("speaker", r["file"]))
            for r in rows
        ]
    for path in sorted([*folder.glob("labels.json"), *folder.glob("*/labels.json")]):
        for name, label in json.loads(path.read_text("utf-8")).items():
            if "heard" not in label:
                raise ValueError(
                    f"{path} has no transcript ('heard') of {name}; recordings with slots only "
                    "can be scored (training.nano.score_ears), but not trained on"
                )
            if label["complete"]:
                file = path.parent / f"{name}.flac"
                found.append(Person(file, plain(label["heard"]), name))
    if not found:
        raise ValueError(f"no recordings in {folder}: it needs a rows.jsonl or labels.json")
    return found


def render_person(numbered: tuple[int, int, Person]) -> Recording:
    """Read a real recording, unchanged (take 0) or at another pace in another scene."""
    index, take, person = numbered
    rng = Random(f"person/{person.path.name}/{take}")
    waveform = read_waveform(person.path, QUESTION_HZ).numpy()
    if take:
        waveform = soxr.resample(waveform, QUESTION_HZ * rng.uniform(0.9, 1.1), QUESTION_HZ)
        waveform = draw_scene(rng).record(waveform, QUESTION_HZ)
    record = {"index": index, "kind": "real", "part": person.part, "voice": person.speaker}
    return waveform, {**record, "text": person.text}


def make_real(stem: Path, folder: Path, jobs: int) -> None:
    """Store the recordings of real speakers that are still missing."""
    store = SpeechStore(stem)
    todo = [
        (take, person)
        for take in range(REAL_RENDERINGS)
        for person in people(folder)
        if take == 0 or person.part == "train"
    ]
    numbered = [(index, *item) for index, item in enumerate(todo)][len(store.rows) :]
    log.info("%s: %d recordings to add", stem.name, len(numbered))
    if numbered:
        with ProcessPoolExecutor(jobs) as pool:
            store.extend(pool.map(render_person, numbered, chunksize=CHUNK))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Make the training speech of the ears.")
    parser.add_argument("--work", type=Path, default=WORK, help="output folder")
    parser.add_argument(
        "--text", type=Path, nargs="*", default=[], help="files of open text, one sentence per line"
    )
    parser.add_argument("--real-speech", type=Path, help="folder of recordings of people")
    parser.add_argument("--count", type=int, default=12000, help="synthetic sentences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    domain, ears = Domain(seed=args.seed), args.work / "ears"
    if args.real_speech:
        make_real(ears / "real", args.real_speech, args.jobs)
    unheard = Sentences(open_text(args.text, held_out=True), domain, "test_paraphrase", args.seed)
    for name, voices in (("test_known", TRAINING_VOICES), ("test_new", HELD_OUT_VOICES)):
        make_synthetic(ears / name, unheard, voices, TEST_COUNT, args.jobs)
    sentences = Sentences(open_text(args.text), domain, seed=args.seed)
    make_synthetic(ears / "synthetic", sentences, TRAINING_VOICES, args.count, args.jobs)


if __name__ == "__main__":
    main()
