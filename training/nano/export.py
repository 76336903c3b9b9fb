# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Export the trained detokenizer in the official layout.

    python -m training.nano.export                     # to pretrained_models/Fun-CosyVoice3-Nano

Writes ``cosyvoice3.yaml``, ``flow.pt`` and ``hift.pt`` (half precision, which loaders convert to
float32), ``voices.safetensors`` with the speaker vectors, and ``SHA256SUMS`` of all files.
``train_tokenizer`` has already written ``speech_tokenizer_v3.onnx``.
"""

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from funaudiochat.cosyvoice3 import checkpoint
from funaudiochat.cosyvoice3.flow import Flow
from funaudiochat.cosyvoice3.hift import Hift
from training.nano.data import WORK
from training.nano.train_flow import CONFIG, DigitEmbedding, new_flow, speaker_vectors
from training.nano.train_tokenizer import OUTPUT
from training.nano.train_vocoder import new_vocoder

FOLDER = OUTPUT.parent
# Few steps and little guidance: the model knows only two voices, and strong guidance distorts them.
SOLVER_STEPS, GUIDANCE_RATE, TEMPERATURE = 6, 0.3, 0.7


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def load_trained(work: Path) -> tuple[Flow, Hift]:
    """Load the newest checkpoints of both runs for inference.

    Raises:
        FileNotFoundError: a run has not saved a checkpoint yet.
    """
    trained = new_flow()
    trained.load_state_dict(_weights(work / "flow.pt"))
    digits = trained.input_embedding
    assert isinstance(digits, DigitEmbedding)
    trained.input_embedding = digits.table()
    config = replace(
        CONFIG,
        solver_steps=SOLVER_STEPS,
        cfg_scale=GUIDANCE_RATE,
        temperature=TEMPERATURE,
    )
    flow = Flow(config)
    flow.load_state_dict(trained.state_dict())
    hift = new_vocoder()
    hift.load_state_dict(_weights(work / "vocoder.pt"))
    return flow.eval(), hift.eval()


def write_checksums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of a checkpoint's files, for ``sha256sum --check``."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("SHA256SUMS", "README.md")
    )
    digests = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names)
    lines = (f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    (folder / "SHA256SUMS").write_text("".join(lines))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Export the detokenizer in the official layout.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write")
    args = parser.parse_args()
    flow, hift = load_trained(args.work)
    checkpoint.save(args.output, flow.half(), hift.half())
    save_file(speaker_vectors(), args.output / "voices.safetensors")
    write_checksums(args.output)


if __name__ == "__main__":
    main()
