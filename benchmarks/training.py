# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Speed of training on a mid-size random model: `python benchmarks/training.py`.

Needs `make train-setup`. Two threads, float32, AdamW. First the plugin: tokens per second of
loading, collating and stepping against the same steps on batches made beforehand. Then group size
5 against 1: a step on equal seconds of audio, models otherwise the same. Last, preference training:
a step of DPO on the rows of one of fine-tuning, half of them chosen and half rejected. `--batches 1
--pairs 1` makes a short run.
"""

import contextlib
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    PAIRS,
    THREADS,
    Report,
    chat_model,
    command_line,
    parameters,
    ratio,
    seconds_of,
)

sys.path.insert(0, str(Path(__file__).parents[1]))

from funaudiochat.audio import save_wav  # noqa: E402
from funaudiochat.constants import (  # noqa: E402
    AUDIO_TEMPLATE,
    CODEBOOK_SIZE,
    DEFAULT_S2M_PROMPT,
    INPUT_RATE_HZ,
    TOKEN_FPS,
)
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration  # noqa: E402
from funaudiochat.register import register_funaudiochat  # noqa: E402
from training.check_data import DELAY_CODES  # noqa: E402
from training.init_model import speech_tokenizer  # noqa: E402
from training.launch import prepare_llamafactory  # noqa: E402
from training.speech_tokens import spelled_answer  # noqa: E402

FIXTURE = Path(__file__).parents[1] / "tests" / "golden" / "model" / "models" / "tiny_a"
ROWS = 4
QUESTION_SECONDS, ANSWER_SECONDS = 6, 8


def write_rows(folder: Path, count: int) -> None:
    """Write spoken questions and answers in the layout of data_process."""
    draw = np.random.default_rng(0)
    info = Path(__file__).parents[1] / "training" / "data" / "dataset_info.json"
    layout = json.loads(info.read_text())["spoken_alpaca"]
    lines = []
    for index in range(count):
        path = folder / f"{index}.wav"
        save_wav(path, 0.1 * draw.standard_normal(INPUT_RATE_HZ * QUESTION_SECONDS), INPUT_RATE_HZ)
        tokens = draw.integers(0, CODEBOOK_SIZE, TOKEN_FPS * ANSWER_SECONDS)
        token = spelled_answer(tokens, DELAY_CODES)
        lines.append(
            json.dumps(
                {
                    "system": DEFAULT_S2M_PROMPT,
                    "messages": [
                        {"role": role, "content": AUDIO_TEMPLATE} for role in ("user", "assistant")
                    ],
                    "audio": [
                        json.dumps({"path": str(path), "token": "<|audio_pad|>" * 150, "text": ""}),
                        json.dumps({"token": token, "text": "a short answer"}),
                    ],
                }
            )
        )
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    info = {"rows": {**layout, "file_name": "rows.jsonl"}}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def plugin_parts(model: Any, model_folder: Path, data: Path) -> tuple[Any, Any]:
    """Return LLaMA-Factory's rows and collator with our plugin, as in a training run."""
    prepare_llamafactory()
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset
    from llamafactory.data import get_template_and_fix_tokenizer as get_template
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    from training.plugin import NAME

    model_args, data_args, training_args, _, _ = get_train_args({
        "model_name_or_path": str(model_folder), "stage": "sft", "do_train": True,
        "template": NAME, "dataset": "rows", "dataset_dir": str(data), "use_cpu": True,
        "output_dir": str(data / "out"), "report_to": "none", "cutoff_len": 2048,
    })  # fmt: skip
    tokens = load_tokenizer(model_args)
    template = get_template(tokens["tokenizer"], data_args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokens)
    collate = SFTDataCollatorWith4DAttentionMask(
        template=template, model=model, pad_to_multiple_of=8, label_pad_token_id=-100, **tokens
    )
    return rows["train_dataset"], collate


def train_step(model: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> None:
    model(**batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def plugin_overhead(report: Report, folder: Path, batches: int) -> None:
    """Add the cost of loading and collating relative to bare steps."""
    from transformers import AutoProcessor

    register_funaudiochat()
    model = training_model(5)
    model.save_pretrained(folder / "model")
    # The fixture's text tokenizer with the official speech tokens; its special ids must be the
    # model's.
    processor = AutoProcessor.from_pretrained(FIXTURE)
    processor.speech_tokenizer = speech_tokenizer()
    processor.save_pretrained(folder / "model")
    (folder / "data").mkdir()
    write_rows(folder / "data", ROWS * batches)
    with contextlib.redirect_stdout(sys.stderr):  # LLaMA-Factory's log
        rows, collate = plugin_parts(model, folder / "model", folder / "data")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    loading, stepping, tokens = [], [], 0
    for start in range(0, len(rows), ROWS):
        made: dict[str, Any] = {}
        loading.append(seconds_of(
            lambda start=start, made=made: made.update(
                collate([dict(rows[i]) for i in range(start, start + ROWS)])
            )
        ))  # fmt: skip
        made.pop("row_names", None)  # a training run's loss log takes them
        tokens += int(made["attention_mask"].sum())
        stepping.append(seconds_of(lambda made=made: train_step(model, optimizer, made)))
    report.add("bare steps", tokens / sum(stepping), "tokens/s")
    whole = tokens / (sum(loading) + sum(stepping))
    report.add("steps with loading and collating", whole, "tokens/s")
    share = statistics.median(a / (a + b) for a, b in zip(loading, stepping, strict=True))
    report.add("share of loading and collating", share, "", aim=0.05)


def training_model(group_size: int) -> FunAudioChatForConditionalGeneration:
    """Build the mid-size model for training with a group size and the fixture's special ids."""
    config = chat_model().config
    config.audio_config.group_size = group_size
    config.audio_token_index = 387
    config.text_config.audio_bos_index, config.text_config.audio_eos_index = 388, 389
    config.text_config.sil_index, config.text_config.eos_token_id = 391, 380
    torch.manual_seed(0)
    model = FunAudioChatForConditionalGeneration(config).train()
    model.lean_losses = True  # as in a training run
    return model


def spoken_batch(group_size: int) -> dict[str, torch.Tensor]:
    """Build a batch whose question and answer durations do not depend on the group size."""
    counts = [TOKEN_FPS * QUESTION_SECONDS, TOKEN_FPS * ANSWER_SECONDS]
    text = torch.arange(40)
    question, answer = (torch.full((n // group_size,), 387) for n in counts)
    ids = torch.cat([text, question, text[:8], torch.tensor([388]), answer, torch.tensor([389])])
    labels = ids.clone()
    labels[: len(text) + len(question) + 8] = -100
    tokens = torch.randint(0, CODEBOOK_SIZE, (2 * ROWS, max(counts)))
    mask = torch.zeros_like(tokens)
    for row in range(2 * ROWS):
        mask[row, : counts[row % 2]] = 1
    frames = 100 * QUESTION_SECONDS
    return {
        "input_ids": ids.repeat(ROWS, 1),
        "labels": labels.repeat(ROWS, 1),
        "attention_mask": torch.ones(ROWS, len(ids), dtype=torch.long),
        "speech_ids": tokens.masked_fill(mask == 0, 6563),
        "speech_attention_mask": mask,
        "input_features": torch.randn(ROWS, 128, frames),
        "feature_attention_mask": torch.ones(ROWS, frames, dtype=torch.long),
        "feature_exist_mask": torch.tensor([True, False] * ROWS),
        "text_ids": torch.full((2 * ROWS, 10), 5),
        "text_attention_mask": torch.tensor([False, True] * ROWS),
    }


def group_sizes(report: Report, pairs: int) -> None:
    """Add a step at group size 5 against one at group size 1."""
    runs = []
    for size in (5, 1):
        model, batch = training_model(size), spoken_batch(size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        step = partial(train_step, model, optimizer, batch)
        runs.append(partial(seconds_of, step))
    taken = ratio(*runs, pairs)
    seconds = ROWS * (QUESTION_SECONDS + ANSWER_SECONDS)
    report.add(f"step on {seconds} s of audio, group size 5", taken.first_s, "s")
    report.add(f"step on {seconds} s of audio, group size 1", taken.second_s, "s")
    report.add("group size 5 over 1 (paper: about half the GPU hours)", taken.share, "")


def preference_step(model: Any, start: Any, optimizer: Any, batch: dict[str, torch.Tensor]) -> None:
    """Take one step of DPO, text and speech weighed equally, with its frozen start."""

    def log_probs(by: Any) -> torch.Tensor:
        output = by(**batch, row_log_probs=True, use_cache=False)
        return output.text_log_probs + output.speech_log_probs

    with torch.no_grad():
        before = log_probs(start)
    chosen, rejected = (log_probs(model) - before).chunk(2)
    (-torch.nn.functional.logsigmoid(0.1 * (chosen - rejected))).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def preference(report: Report, pairs: int) -> None:
    """Add tokens per second of fine-tuning and of DPO on the same rows."""
    model, start, batch = training_model(5), training_model(5).eval(), spoken_batch(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    steps = (
        partial(preference_step, model, start, optimizer, batch),
        partial(train_step, model, optimizer, batch),
    )
    taken = ratio(*(partial(seconds_of, step) for step in steps), pairs)
    tokens = int(batch["attention_mask"].sum())
    report.add("fine-tuning", tokens / taken.second_s, "tokens/s")
    report.add("DPO on the same rows", tokens / taken.first_s, "tokens/s")
    report.add("a step of DPO over one of fine-tuning", taken.share, "")


def main() -> None:
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    size = parameters(training_model(5))
    report = Report(f"training, random model of {size / 1e6:.0f} M parameters, {ROWS} rows a step")
    with tempfile.TemporaryDirectory() as folder:
        plugin_overhead(report, Path(folder), args.batches)
    group_sizes(report, args.pairs)
    preference(report, args.pairs)
    report.show(args.style)


if __name__ == "__main__":
    main()
