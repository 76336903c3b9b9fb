# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Make training rows of a data set, or of a manifest of questions and answers.

    python process/data_process.py --debug                     # spoken-alpaca-gpt4, 1000 rows
    python process/data_process.py --datapath NAME_OR_FOLDER   # another one
    python process/data_process.py --manifest pairs.jsonl      # your own

A data set's audio files and a manifest of them go to ``data/NAME/`` first. The manifest and the
rows are described in ``data/README.md``. Rows keep the manifest's order. The same command resumes
where it stopped. A bad row is skipped and noted in ``OUTPUT.errors.jsonl``.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from funaudiochat.audio import load_audio  # noqa: E402
from funaudiochat.constants import (  # noqa: E402
    AUDIO_PAD_TOKEN,
    AUDIO_TEMPLATE,
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    INPUT_RATE_HZ,
    TOKEN_FPS,
)
from funaudiochat.cosyvoice3.speech_tokenizer import SpeechTokenizer  # noqa: E402
from funaudiochat.errors import FunAudioChatError  # noqa: E402
from funaudiochat.hub import resolve_tts  # noqa: E402
from training.check_data import DELAY_CODES  # noqa: E402
from training.process.hub_data import DATASET, export  # noqa: E402
from training.speech_tokens import spelled_answer, whole_groups  # noqa: E402

logger = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data"
DEBUG_ROWS = 1000
_FIELDS = {
    "system", "history", "question_audio", "question_text", "answer_audio", "answer_text",
    "instruction",
}  # fmt: skip
# Of a worker process, made by its initializer.
_tokenizer: SpeechTokenizer | None = None


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}, not text")
    return value


def _question(fields: dict[str, Any], folder: Path, audio: list[str]) -> dict[str, str]:
    """Build a user message; append its audio entry, if any, to ``audio``."""
    text, instruction = _text(fields, "question_text"), _text(fields, "instruction")
    if not fields.get("question_audio"):
        if not text:
            raise ValueError("has neither question_audio nor question_text")
        return {"role": "user", "content": f"{text}\n{instruction}" if instruction else text}
    path = folder / _text(fields, "question_audio")
    seconds = len(load_audio(path, INPUT_RATE_HZ)) / INPUT_RATE_HZ
    pads = AUDIO_PAD_TOKEN * int(seconds * TOKEN_FPS)
    # A "text" would be averaged into the user's audio in training, and never when answering.
    audio.append(_entry(path=str(path), ref_text=text, text="", token=pads))
    content = f"{AUDIO_TEMPLATE}\n{instruction}" if instruction else AUDIO_TEMPLATE
    return {"role": "user", "content": content}


def _entry(**fields: str) -> str:
    return json.dumps(
        {"ref_path": "", "ref_text": "", **fields}, sort_keys=True, ensure_ascii=False
    )


def make_row(
    fields: dict[str, Any],
    folder: Path,
    tokenizer: SpeechTokenizer | None,
    delay: int = DELAY_CODES,
) -> dict[str, Any]:
    """One training row.

    Args:
        fields: a row of the manifest.
        folder: what its paths are relative to.
        tokenizer: speech tokenizer for spoken answers.
        delay: start tokens before them.

    Raises:
        ValueError: the row is not a question with an answer, or its audio cannot be used.
    """
    if not isinstance(fields, dict) or fields.keys() - _FIELDS:
        raise ValueError(f"is not an object of {', '.join(sorted(_FIELDS))}")
    audio: list[str] = []
    messages = []
    for turn in fields.get("history") or []:
        answer = {"role": "assistant", "content": _text(turn, "answer_text")}
        messages += [_question(turn, folder, audio), answer]
    messages.append(_question(fields, folder, audio))
    text = _text(fields, "answer_text")
    if not text:
        raise ValueError("has no answer_text, which is learned also beside a spoken answer")
    content, prompt = text, DEFAULT_S2T_PROMPT
    if fields.get("answer_audio"):
        if tokenizer is None:
            raise ValueError("has a spoken answer: give --tts-path to make its speech tokens")
        path = folder / _text(fields, "answer_audio")
        waveform = load_audio(path, INPUT_RATE_HZ)
        codes = whole_groups(tokenizer.encode(waveform), waveform, tokenizer.encode, delay)
        audio.append(_entry(path=str(path), text=text, token=spelled_answer(codes, delay)))
        content, prompt = AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT
    messages.append({"role": "assistant", "content": content})
    return {"system": fields.get("system") or prompt, "messages": messages, "audio": audio}


def _start_worker(tts_path: Path | None, devices: list[str]) -> None:
    """Load a tokenizer on this worker's device."""
    global _tokenizer
    torch.set_num_threads(1)
    if tts_path is not None:
        number = (get_context("spawn").current_process()._identity or (1,))[0] - 1
        _tokenizer = SpeechTokenizer.from_pretrained(tts_path, devices[number % len(devices)])


def _work(line: str, folder: Path, delay: int) -> tuple[bool, str]:
    """Whether a manifest line is good, and the row or the reason as JSON."""
    try:
        row = make_row(json.loads(line), folder, _tokenizer, delay)
        return True, json.dumps(row, sort_keys=True, ensure_ascii=False)
    except (ValueError, TypeError, AttributeError, OSError) as error:
        return False, json.dumps({"error": str(error), "row": line.strip()[:500]})


def _whole_lines(path: Path) -> int:
    """Count the lines of a file, after removing an incomplete last line."""
    if not path.exists():
        return 0
    count = end = 0
    with path.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                count, end = count + 1, end + len(line)
        file.truncate(end)
    return count


def process(
    manifest: Path,
    output: Path,
    tts_path: Path | None,
    workers: int,
    limit: int | None = None,
    delay: int = DELAY_CODES,
    shard_rows: int | None = None,
) -> tuple[int, int]:
    """Write the rows that are still missing.

    Args:
        manifest: JSON lines that describe the rows.
        output: file of the rows, or folder of the shards.
        tts_path: folder of the speech tokenizer; None if no answer is spoken.
        workers: number of processes, distributed over the GPUs.
        limit: number of manifest rows to read.
        delay: start tokens before the speech tokens of an answer.
        shard_rows: rows of a shard; None for one file.

    Returns:
        The total numbers of rows and of skipped rows.
    """
    from tqdm import tqdm

    errors = output.with_name(output.name + ".errors.jsonl")
    (output.parent if shard_rows is None else output).mkdir(parents=True, exist_ok=True)
    existing = [output] if shard_rows is None else sorted(output.glob("rows-*.jsonl"))
    counts = [_whole_lines(errors), sum(map(_whole_lines, existing))]
    # onnxruntime's CUDA build is another package; torch only tells how many GPUs there are.
    devices = [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]

    def lines() -> Iterator[str]:
        with manifest.open(encoding="utf-8") as file:
            yield from islice((line for line in file if line.strip()), sum(counts), limit)

    def append(good: bool, text: str) -> None:
        path = output if good else errors
        if good and shard_rows is not None:
            path = output / f"rows-{counts[True] // shard_rows:05d}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        counts[good] += 1

    with get_context("spawn").Pool(workers, _start_worker, (tts_path, devices)) as pool:
        work = partial(_work, folder=manifest.parent.resolve(), delay=delay)
        results = pool.imap(work, lines(), chunksize=4)
        for good, text in tqdm(results, unit="row", initial=sum(counts)):
            append(good, text)
    return counts[1], counts[0]


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Make training rows from audio and text.")
    parser.add_argument("--manifest", type=Path, help="JSONL, see data/README.md")
    parser.add_argument(
        "--datapath",
        default=DATASET,
        help="on the hub, or a folder of parquet files or of save_to_disk",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="FIELD=COLUMN",
        help="columns of the data set, where their names do not tell",
    )
    parser.add_argument("--output", type=Path, help="default: data/train.jsonl")
    parser.add_argument("--tts-path", type=Path, help="folder with the speech tokenizer")
    parser.add_argument(
        "--num_workers",
        "--workers",
        dest="workers",
        type=int,
        default=max(1, torch.cuda.device_count()),
    )
    parser.add_argument("--num_samples", type=int, help="rows to read")
    parser.add_argument(
        "--delay_token_nums",
        type=int,
        default=DELAY_CODES,
        help="start tokens before an answer; checkpoints were trained with 10",
    )
    parser.add_argument("--debug", action="store_true", help="1000 rows, to data/train_1k.jsonl")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limit = args.num_samples or (DEBUG_ROWS if args.debug else None)
    output = args.output or DATA / ("train_1k.jsonl" if args.debug else "train.jsonl")
    manifest, tts_path = args.manifest, args.tts_path
    if manifest is None:
        tts_path = resolve_tts(tts_path)
        name = Path(args.datapath).name
        columns = dict(pair.split("=", 1) for pair in args.columns)
        manifest = export(args.datapath, output.parent / name, limit, columns or None)
    elif not manifest.is_file():
        parser.error(f"{manifest} does not exist")
    rows, skipped = process(manifest, output, tts_path, args.workers, limit, args.delay_token_nums)
    logger.info("%d rows in %s; %d skipped", rows, output, skipped)
    if skipped:
        logger.info("the reasons are in %s.errors.jsonl", output)


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
