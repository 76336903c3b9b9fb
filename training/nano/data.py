# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Make Nano's data: spoken questions of all splits and the assistant's spoken answers.

    python -m training.nano.data                       # everything, about 30 minutes of one core
    python -m training.nano.data --jobs 2              # the same on two cores
    python -m training.nano.data --train 2000          # a smaller training split, which can grow
    python -m training.nano.data --only answers --text FILE...   # and read open text aloud

Writes below ``--work``: ``dialogues/SPLIT.jsonl`` (one dialogue a line; spoken user messages have
``audio``, ``voice``, ``phones``, ``seconds``, ``scene``), ``answers.jsonl`` (one spoken sentence of
an answer voice a line) and FLAC files. A line is written after its audio file, so every line stands
for a finished item and an interrupted run can be resumed.
"""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile

from training.nano.domain import SPLITS, Dialogue, Domain, unit_hash
from training.nano.rooms import Scene
from training.nano.sentences import open_text
from training.nano.voices import (
    ANSWER_HZ,
    ANSWER_VOICES,
    HELD_OUT_VOICES,
    QUESTION_HZ,
    TRAINING_VOICES,
    VOICES,
    phones,
    speak,
)

log = logging.getLogger(__name__)

WORK = Path(__file__).with_name("work")
SAMPLES_PER_TOKEN = 960  # at 24 kHz
DIALOGUES = 16000  # of the training split
CONVERSATIONS = 2000  # dialogues of two to eight questions
SCRAMBLED = 8000  # scrambled questions, without answers
HELD_OUT_SIZE = 300  # dialogues of every split but training
SECOND_VOICE_SHARE = 0.25  # share of the sentences also spoken by the second answer voice
OPEN_SENTENCES, OPEN_HELD_OUT = 8000, 100  # of open text, read aloud
CHUNK = 16  # items a process renders at a time


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file, ignoring an incomplete last line; a missing file has no records."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    partial.replace(path)


def _append(path: Path, todo: Iterator[dict[str, Any]]) -> None:
    """Append records as they arrive, flushing each line before the next record is made."""
    with path.open("a", encoding="utf-8") as file:
        for count, record in enumerate(todo, 1):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            if count % 500 == 0:
                log.info("%s: %d more", path.name, count)


def _reopen(path: Path) -> list[dict[str, Any]]:
    """Cut an interrupted file back to its finished records and return them."""
    records = read_jsonl(path)
    write_jsonl(path, records)
    return records


def render_question(text: str, voice: str, path: Path, rng: Random) -> dict[str, Any]:
    """Synthesise and record one question; return its fields for the manifest.

    Training voices vary in pace and vocal-tract length; held-out voices only in pace.
    """
    trained = bool(VOICES[voice].weight)
    speed = rng.uniform(0.85, 1.15)
    warp = 2 ** rng.uniform(-0.25, 0.25) if trained and rng.random() < 0.7 else 1.0
    scene = Scene.draw(rng)
    waveform = scene.record(speak(text, voice, QUESTION_HZ, rng, speed, warp), QUESTION_HZ)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, QUESTION_HZ)
    return {
        "voice": voice,
        "phones": "".join(phones(text)),
        "seconds": round(len(waveform) / QUESTION_HZ, 3),
        "speed": round(speed, 3),
        "warp": round(warp, 3),
        "scene": scene.as_record(),
    }


def render_dialogue(dialogue: Dialogue, work: Path, seed: int) -> dict[str, Any]:
    """Record every spoken user message of a dialogue, all in one voice."""
    rng = Random(f"{seed}/sound/{dialogue.split}/{dialogue.index}")
    if dialogue.split == "test_voice":
        voice = rng.choice(HELD_OUT_VOICES)
    else:
        voice = rng.choices(TRAINING_VOICES, [VOICES[v].weight for v in TRAINING_VOICES])[0]
    record = dialogue.as_record()
    for turn, message in enumerate(record["messages"]):
        if message["role"] == "user":
            folder = f"questions/{dialogue.split}/{dialogue.index // 1000:03d}"
            message["audio"] = f"{folder}/{dialogue.index:06d}-{turn}.flac"
            message |= render_question(message["text"], voice, work / message["audio"], rng)
    return record


def _render_numbered(index: int, domain: Domain, split: str, work: Path) -> dict[str, Any]:
    return render_dialogue(domain.dialogue(split, index), work, domain.seed)


def make_dialogues(domain: Domain, split: str, count: int, work: Path, jobs: int = 1) -> None:
    """Render the missing dialogues among 0 .. count-1 of a split, in ``jobs`` processes."""
    path = work / "dialogues" / f"{split}.jsonl"
    done = len(_reopen(path))
    log.info("%s: %d of %d dialogues exist", split, done, count)
    render = partial(_render_numbered, domain=domain, split=split, work=work)
    with ProcessPoolExecutor(jobs) as pool:
        _append(path, pool.map(render, range(done, count), chunksize=CHUNK))


def _drawn(sentences: list[str], count: int) -> list[str]:
    return Random("open").sample(sentences, min(count, len(sentences)))


def answer_parts(
    domain: Domain, counts: dict[str, int], read_aloud: int, open_files: Sequence[Path] = ()
) -> dict[str, str]:
    """Map every sentence that the assistant may say to its part of the answers.

    Args:
        domain: source of the answers.
        counts: dialogues of each split.
        read_aloud: number of further sentences of the domain.
        open_files: open text, one sentence per line.

    Returns:
        ``train``, ``valid``, ``test``, or ``open_test`` for held-out open text, by sentence.
    """

    def said(split: str) -> list[str]:
        dialogues = (domain.dialogue(split, i) for i in range(counts[split]))
        messages = [m for d in dialogues for m in d.messages]
        return [m.text for m in messages if m.role == "assistant" and m.spoken and not m.cut]

    texts = {
        "train": domain.answers("train")
        + said("train")
        + said("conversation")
        + list(map(domain.read_aloud, range(read_aloud)))
        + _drawn(open_text(open_files), OPEN_SENTENCES),
        "valid": domain.answers("valid"),
        "test": domain.answers("test") + said("test_tool") + said("test_conversation"),
        "open_test": _drawn(open_text(open_files, held_out=True), OPEN_HELD_OUT),
    }
    parts: dict[str, str] = {}
    for part, sentences in texts.items():
        for text in sentences:
            parts.setdefault(text, part)
    return parts


def render_answer(text: str, part: str, voice: str, work: Path) -> dict[str, Any]:
    """Synthesise one answer at 24 kHz, padded to whole tokens; return its manifest record."""
    rng = Random(f"{voice}/{text}")
    waveform = speak(text, voice, ANSWER_HZ, rng)
    waveform = np.pad(
        waveform * (0.6 / np.abs(waveform).max()), (0, -len(waveform) % SAMPLES_PER_TOKEN)
    )
    name = f"{int(unit_hash(text) * 2**53):014x}"
    audio = f"answers/{voice}/{name[:1]}/{name}.flac"
    (work / audio).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(work / audio, waveform, ANSWER_HZ)
    return {
        "id": f"{voice}-{name}",
        "part": part,
        "voice": voice,
        "text": text,
        "phones": "".join(phones(text)),
        "audio": audio,
        "seconds": len(waveform) / ANSWER_HZ,
    }


def _render_listed(item: tuple[str, str, str], work: Path) -> dict[str, Any]:
    return render_answer(*item, work)


def make_answers(parts: dict[str, str], work: Path, jobs: int) -> None:
    """Render the missing answers: all in the first answer voice, a share in the second.

    Args:
        parts: part of every sentence, as :func:`answer_parts` returns it.
        work: output folder.
        jobs: processes.
    """
    first, second = ANSWER_VOICES
    path = work / "answers.jsonl"
    done = {(r["text"], r["voice"]) for r in _reopen(path)}
    todo = [(t, part, first) for t, part in parts.items()]
    todo += [
        (t, part, second) for t, part in parts.items() if unit_hash(second, t) < SECOND_VOICE_SHARE
    ]
    todo = [item for item in todo if item[::2] not in done]
    log.info("answers: %d exist, %d to make", len(done), len(todo))
    with ProcessPoolExecutor(jobs) as pool:
        _append(path, pool.map(partial(_render_listed, work=work), todo, chunksize=CHUNK))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Make Nano's dialogues and speech.")
    parser.add_argument("--work", type=Path, default=WORK, help="output folder")
    parser.add_argument("--train", type=int, default=DIALOGUES, help="training dialogues")
    parser.add_argument(
        "--conversations",
        type=int,
        default=CONVERSATIONS,
        help="training conversations of two to eight questions",
    )
    parser.add_argument(
        "--scrambled", type=int, default=SCRAMBLED, help="scrambled questions, for transcription"
    )
    parser.add_argument("--read-aloud", type=int, default=2500, help="further sentences")
    parser.add_argument(
        "--text", type=Path, nargs="*", default=[], help="files of open text, read aloud, too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", choices=["answers", *SPLITS], help="make one part")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    domain = Domain(seed=args.seed)
    counts = {split: HELD_OUT_SIZE for split in SPLITS}
    counts |= {"train": args.train, "scrambled": args.scrambled}
    counts["conversation"] = args.conversations
    if args.only in (None, "answers"):
        parts = answer_parts(domain, counts, args.read_aloud, args.text)
        make_answers(parts, args.work, args.jobs)
    for split, count in reversed(counts.items()):
        if args.only in (None, split):
            make_dialogues(domain, split, count, args.work, args.jobs)


if __name__ == "__main__":
    main()
