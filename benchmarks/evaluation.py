# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Items per second of `eval infer` against the bare model.

Both answer the same synthetic questions with text, in batches of eight, on a mid-size random model
in the official shape with the tiny fixture's processor; medians of interleaved pairs. The bare
model gets prepared waveforms and calls `generate`, nothing else. `--items` and `--steps` make a
short run.
"""

import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import THREADS, Report, command_line, parameters, ratio, seconds_of

from evaluate.benchmarks import select
from evaluate.local_model import LocalModel
from evaluate.run import InferOptions, infer
from evaluate.sources import Prompt
from funaudiochat.configuration_funaudiochat import FunAudioChatConfig
from funaudiochat.constants import DEFAULT_S2T_PROMPT, INPUT_RATE_HZ, TRANSCRIBE_PROMPT
from funaudiochat.generation_funaudiochat import generate
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.sampling import Sampling
from funaudiochat.turns import render_prompt

BATCH = 8
TINY = Path(__file__).parents[1] / "tests" / "golden" / "model" / "models" / "tiny_a"


def checkpoint(folder: Path) -> Path:
    """Write a folder with a model of about 50 M parameters and the tiny fixture's vocabulary."""
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    fields = json.loads((TINY / "config.json").read_text())
    head = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    fields["text_config"] |= {
        "hidden_size": 640,
        "num_hidden_layers": 8,
        "intermediate_size": 1920,
        **head,
    }
    fields["hidden_size"] = 640
    fields["audio_config"] |= {
        "d_model": 384,
        "encoder_layers": 6,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "output_dim": 640,
    }
    torch.manual_seed(0)
    model = FunAudioChatForConditionalGeneration(FunAudioChatConfig(**fields))
    model.save_pretrained(folder)
    return folder


def questions(folder: Path, count: int) -> list[np.ndarray]:
    """Write a LibriSpeech tree of 1 to 4 s of noise per item; return the waveforms."""
    chapter = folder / "LibriSpeech" / "test-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    generator, waveforms, lines = np.random.default_rng(0), [], []
    for index in range(count):
        seconds = 1 + 3 * index / max(1, count - 1)
        waveform = 0.1 * generator.standard_normal(int(INPUT_RATE_HZ * seconds)).astype(np.float32)
        soundfile.write(chapter / f"1-2-{index:04d}.flac", waveform, INPUT_RATE_HZ)
        lines.append(f"1-2-{index:04d} NOISE\n")
        waveforms.append(waveform)
    (chapter / "1-2.trans.txt").write_text("".join(lines))
    return waveforms


def bare(source: LocalModel, waveforms: list[np.ndarray], instruction: str) -> None:
    """Run the processor and `generate` on the same batches."""
    prompt = Prompt(DEFAULT_S2T_PROMPT, instruction, None, False, 0)
    text = render_prompt(source.chat.processor, prompt.turns)
    sampling = Sampling(text_greedy=True, max_new_tokens=source.max_new_tokens)
    for start in range(0, len(waveforms), BATCH):
        part = waveforms[start : start + BATCH]
        inputs = source.chat.processor(
            text=[text] * len(part), audio=part, return_tensors="pt", padding_side="left"
        )
        options = source.chat.generation_options(inputs["input_ids"].shape[1], False, sampling)
        generate(source.chat.model, dict(inputs), options)


def measure(folder: Path, items: int, steps: int) -> Report:
    """Time `infer` and the bare model on the same questions."""
    waveforms = questions(folder / "data", items)
    source = LocalModel(checkpoint(folder / "model"), None, device="cpu", max_new_tokens=steps)
    ((benchmark, subset),) = select("librispeech/test-clean")
    runs = itertools.count()

    def whole() -> None:
        run = folder / f"run-{next(runs)}"
        infer(benchmark, subset, source, InferOptions(folder / "data", run, BATCH))

    def plain() -> None:
        bare(source, waveforms, TRANSCRIBE_PROMPT)

    found = ratio(lambda: seconds_of(whole), lambda: seconds_of(plain))
    report = Report(
        f"random model of {parameters(source.chat.model) / 1e6:.0f} M parameters, {items} questions"
    )
    report.add("infer", items / found.first_s, "items/s")
    report.add("bare model", items / found.second_s, "items/s")
    report.add("time of infer over the bare model's", found.share, "")
    return report


def main() -> None:
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), args.items, args.steps).show(args.style)


if __name__ == "__main__":
    main()
