# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Answer a spoken question with text."""

import argparse
import sys
from pathlib import Path

from funaudiochat import FunAudioChatError, Sampling, VoiceChat
from funaudiochat.constants import WEIGHTS
from funaudiochat.hub import resolve_model

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--audio", type=Path, default=Path(__file__).with_name("question.wav"))
parser.add_argument("--instruction", help="text instruction that follows the audio")
parser.add_argument("--model-path", type=Path)
parser.add_argument("--device", default="auto")
parser.add_argument("--weights", choices=WEIGHTS)
parser.add_argument("--max-new-tokens", type=int)


def main() -> None:
    args = parser.parse_args()
    chat = VoiceChat.from_pretrained(
        resolve_model(args.model_path), device=args.device, weights=args.weights
    )
    sampling = Sampling(max_new_tokens=args.max_new_tokens)
    reply = chat.ask(text=args.instruction, audio=args.audio, speech=False, sampling=sampling)
    print(reply.text)


if __name__ == "__main__":
    try:
        main()
    except (FunAudioChatError, OSError) as error:
        sys.exit(f"error: {error}")
