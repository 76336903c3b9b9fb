# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Write the trained joint model as it is published, in half precision.

    python -m training.nano.export_model               # to pretrained_models/Fun-Audio-Chat-Nano
"""

import argparse
from pathlib import Path

import torch

from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.nano.data import WORK
from training.nano.export import FOLDER as DETOKENIZER
from training.nano.export import write_checksums

FOLDER = DETOKENIZER.with_name("Fun-Audio-Chat-Nano")


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Write the joint model in half precision.")
    parser.add_argument("--model", type=Path, default=WORK / "models" / "stage2")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write")
    args = parser.parse_args()
    model = FunAudioChatForConditionalGeneration.from_pretrained(args.model, dtype=torch.float16)
    model.save_pretrained(args.output)
    FunAudioChatProcessor.from_pretrained(args.model).save_pretrained(args.output)
    write_checksums(args.output)


if __name__ == "__main__":
    main()
