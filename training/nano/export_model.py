# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Export the trained joint model in the published layout, in half precision.

python -m training.nano.export_model               # to pretrained_models/Fun-Audio-Chat-Nano
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig

from funaudiochat import capabilities
from funaudiochat.modeling_funaudiochat import FunAudioChatForConditionalGeneration
from funaudiochat.processing_funaudiochat import FunAudioChatProcessor
from training.nano.data import WORK
from training.nano.export import FOLDER as DETOKENIZER
from training.nano.export import write_checksums

FOLDER = DETOKENIZER.with_name("Fun-Audio-Chat-Nano")
DEMO = Path(__file__).with_name(capabilities.FILE_NAME)  # what Nano can do
# With the reference's penalty for repeated tokens and its temperature of 0.8, the word error rate
# is one and a half times as high (training/nano/README.md).
SPEECH_SAMPLING = {"temperature": 0.3, "repetition_penalty": 1.0}


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Write the joint model in half precision.")
    parser.add_argument("--model", type=Path, default=WORK / "models" / "stage2")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write")
    args = parser.parse_args()
    model = FunAudioChatForConditionalGeneration.from_pretrained(args.model, dtype=torch.float16)
    model.config.detokenizer = DETOKENIZER.name  # inherited by models trained from this folder
    known = model.generation_config
    model.generation_config = GenerationConfig(
        eos_token_id=known.eos_token_id,
        pad_token_id=known.pad_token_id,
        speech_sampling=SPEECH_SAMPLING,
    )
    model.save_pretrained(args.output)
    FunAudioChatProcessor.from_pretrained(args.model).save_pretrained(args.output)
    shutil.copy(DEMO, args.output)
    write_checksums(args.output)


if __name__ == "__main__":
    main()
