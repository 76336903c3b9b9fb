# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Memory and first step of training from many rows: `python benchmarks/training_data.py`.

Needs `make train-setup`. Runs of one step on a tiny random model, from shards of synthetic rows
with eight seconds of speech tokens: few and many rows, read at once and streamed. `--rows 2000`
makes a short run.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from common import Report, command_line

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from funaudiochat.constants import AUDIO_TEMPLATE, DEFAULT_S2M_PROMPT, TOKEN_FPS  # noqa: E402
from training.check_data import DELAY_CODES  # noqa: E402
from training.speech_tokens import spelled_answer  # noqa: E402

MODEL = ROOT / "tests" / "golden" / "model" / "models" / "tiny_a"
FEW, MANY = 1000, 100_000
SHARD_ROWS, ANSWER_SECONDS, CODES = 5000, 8, 125


def write_shards(folder: Path, count: int) -> None:
    """Write typed questions with spoken answers, and their ``dataset_info.json``."""
    info = json.loads((ROOT / "training" / "data" / "dataset_info.json").read_text())
    (folder / "rows").mkdir(parents=True)
    for first in range(0, count, SHARD_ROWS):
        path = folder / "rows" / f"rows-{first // SHARD_ROWS:05d}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for index in range(first, min(count, first + SHARD_ROWS)):
                tokens = ((index * 7 + step) % CODES for step in range(TOKEN_FPS * ANSWER_SECONDS))
                spelled = spelled_answer(tokens, DELAY_CODES)
                row = {
                    "system": DEFAULT_S2M_PROMPT,
                    "messages": [
                        {"role": "user", "content": f"question {index}"},
                        {"role": "assistant", "content": AUDIO_TEMPLATE},
                    ],
                    "audio": [json.dumps({"token": spelled, "text": "a short answer"})],
                }
                file.write(json.dumps(row) + "\n")
    (folder / "dataset_info.json").write_text(
        json.dumps({"rows": {**info["spoken_alpaca"], "file_name": "rows"}})
    )


def run(data: Path, out: Path, streaming: bool) -> tuple[float, float]:
    """Train one step -> seconds of the whole run, MiB of its largest process at its peak."""
    fields = {
        "model_name_or_path": MODEL, "dataset_dir": data, "dataset": "rows", "output_dir": out,
        "max_steps": 1, "plot_loss": "false", "per_device_train_batch_size": 4,
        "streaming": str(streaming).lower(),
    }  # fmt: skip
    config = ROOT / "training" / "configs" / "tiny" / "sft.yaml"
    command = [sys.executable, "-m", "training.launch", str(config)]
    command += [f"{name}={value}" for name, value in fields.items()]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(out.with_suffix(".cache"))}
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    seconds = time.monotonic() - began
    # Of all processes that were waited for; this one has run nothing else.
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=MANY, help="rows of the large data set")
    args = parser.parse_args()
    report = Report("training data, one step of a tiny model")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peaks = {}
        for count in (FEW, args.rows):
            write_shards(folder / str(count), count)
            for streaming in (True, False):
                how = "streamed" if streaming else "read at once"
                # A process of its own for each, as the peak is that of all children so far.
                with get_context("spawn").Pool(1) as pool:
                    seconds, mib = pool.apply(
                        run, (folder / str(count), folder / f"{count}-{how}", streaming)
                    )
                peaks[count, streaming] = mib
                report.add(f"{count} rows {how}: run with one step", seconds, "s")
                report.add(f"{count} rows {how}: peak memory", mib, "MiB")
        for streaming, how in ((True, "streamed"), (False, "read at once")):
            share = peaks[args.rows, streaming] / peaks[FEW, streaming]
            report.add(f"memory of {args.rows} rows over {FEW}, {how}", share, "")
    report.show(args.style)


if __name__ == "__main__":
    main()
