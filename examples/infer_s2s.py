# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Answer spoken questions with text and speech; several --audio files are one conversation."""

import argparse
import sys
from pathlib import Path

from funaudiochat import FunAudioChatError, Sampling, VoiceChat, save_wav
from funaudiochat.constants import WEIGHTS
from funaudiochat.hub import resolve_pair

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "--audio", type=Path, nargs="+", default=[Path(__file__).with_name("question.wav")]
)
parser.add_argument("--output", type=Path, default=Path("outputs"))
parser.add_argument("--voice")
parser.add_argument("--greedy", action="store_true")
parser.add_argument("--seed", type=int)
parser.add_argument("--model-path", type=Path)
parser.add_argument("--tts-path", type=Path)
parser.add_argument("--device", default="auto")
parser.add_argument("--weights", choices=WEIGHTS)
parser.add_argument("--tts-device")
parser.add_argument("--max-new-tokens", type=int)
parser.add_argument("--repetition-penalty", type=float)


def main() -> None:
    args = parser.parse_args()
    chat = VoiceChat.from_pretrained(
        *resolve_pair(args.model_path, args.tts_path),
        device=args.device,
        weights=args.weights,
        tts_device=args.tts_device,
        voice=args.voice,
    )
    sampling = Sampling(
        greedy=args.greedy,
        seed=args.seed,
        max_new_tokens=args.max_new_tokens,
        repetition_penalty=args.repetition_penalty,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    for number, audio in enumerate(args.audio, 1):
        reply = chat.ask(audio=audio, sampling=sampling)
        print(reply.text)
        if reply.audio is None or not len(reply.audio):
            print("the reply has no speech")
            continue
        path = args.output / f"answer_{number}.wav"
        save_wav(path, reply.audio, reply.sample_rate_hz)
        print(f"{path}: {reply.seconds:.2f} s of audio in {reply.latency.total_s:.2f} s")


if __name__ == "__main__":
    try:
        main()
    except (FunAudioChatError, OSError) as error:
        sys.exit(f"error: {error}")
