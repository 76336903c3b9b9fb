# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Measure how intelligible speech is after tokenizer and detokenizer.

    python -m training.nano.resynthesis --limit 40     # on answers held out from training
    python -m training.nano.resynthesis --part open_test   # on held-out open text

Prints the word error rate of the original audio, of the vocoder on the true spectrogram, and of
speech tokens decoded with the exported folder, offline and streaming. ``--audio DIR`` keeps the
audio.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from funaudiochat.cosyvoice3.config import ChunkSchedule
from funaudiochat.cosyvoice3.detokenizer import CosyVoice3Detokenizer
from funaudiochat.cosyvoice3.voices import load_voices
from training.nano.answers import Answers
from training.nano.data import WORK
from training.nano.export import FOLDER
from training.nano.features import VOCODER_HZ, read_waveform
from training.nano.judge import judge


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Word error rate after resynthesis.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--model", type=Path, default=FOLDER, help="exported folder")
    parser.add_argument(
        "--voice", default="heart", help="voice of the answers and of the detokenizer"
    )
    parser.add_argument("--part", default="test", choices=["train", "valid", "test", "open_test"])
    parser.add_argument("--limit", type=int, default=100, help="number of answers")
    parser.add_argument("--audio", type=Path, help="folder for the judged audio")
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    args = parser.parse_args()
    torch.set_num_threads(1)
    answers = Answers(args.work, args.part, args.voice)
    detokenizer = CosyVoice3Detokenizer.from_pretrained(args.model)
    speaker = load_voices(args.model / "voices.safetensors")[args.voice]

    def original(number: int) -> Tensor:
        return read_waveform(args.work / answers.items[number][1]["audio"], VOCODER_HZ)

    def vocoder(number: int) -> Tensor:
        mel = answers.mel_and_f0(number)[0].T[None]
        return detokenizer.vocode(detokenizer.vocoder_state(), mel, final=True)

    def resynthesised(schedule: ChunkSchedule | None) -> Callable[[int], Tensor]:
        return lambda n: detokenizer.decode(answers.items[n][1]["codes"], speaker, schedule)

    ways = {
        "original": original,
        "vocoder": vocoder,
        "speech tokens, offline": resynthesised(None),
        "speech tokens, streaming": resynthesised(ChunkSchedule()),
    }
    step = max(1, len(answers.items) // args.limit)
    numbers = range(0, step * min(args.limit, len(answers.items)), step)
    texts = [answers.items[n][1]["text"] for n in numbers]
    scores = {}
    for name, way in ways.items():
        waveforms = [way(n).numpy() for n in numbers]
        if args.audio:
            args.audio.mkdir(parents=True, exist_ok=True)
            for number, waveform in zip(numbers, waveforms, strict=True):
                soundfile.write(args.audio / f"{number:04d} {name}.wav", waveform, VOCODER_HZ)
        verdict = judge((t, w, VOCODER_HZ) for t, w in zip(texts, waveforms, strict=True))
        scores[name] = {
            "wer_percent": round(verdict.wer_percent, 1),
            "exact_percent": round(verdict.exact_percent, 1),
        }
        print(f"{name:24} {len(texts)} answers: {scores[name]}", flush=True)
    if args.output:
        args.output.write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
