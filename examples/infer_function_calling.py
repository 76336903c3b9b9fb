# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Let the model call a function, run it, and get a spoken reply from its result."""

import argparse
import sys
from pathlib import Path

from funaudiochat import FunAudioChatError, Sampling, VoiceChat, save_wav
from funaudiochat.constants import WEIGHTS
from funaudiochat.hub import resolve_pair

TOOLS = [
    {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    }
]


def get_weather(city: str) -> dict[str, object]:
    """Return made-up weather, in place of a real service."""
    return {"condition": "sunny", "degrees": 20}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--audio", type=Path, default=Path(__file__).with_name("weather.wav"))
parser.add_argument("--output", type=Path, default=Path("outputs"))
parser.add_argument("--model-path", type=Path)
parser.add_argument("--tts-path", type=Path)
parser.add_argument("--device", default="auto")
parser.add_argument("--weights", choices=WEIGHTS)
parser.add_argument("--max-new-tokens", type=int)


def main() -> None:
    args = parser.parse_args()
    chat = VoiceChat.from_pretrained(
        *resolve_pair(args.model_path, args.tts_path), device=args.device, weights=args.weights
    )
    sampling = Sampling(max_new_tokens=args.max_new_tokens)
    reply = chat.ask(audio=args.audio, tools=TOOLS, sampling=sampling)
    print(reply.text)
    for problem in reply.problems:
        print(problem)
    for call in reply.tool_calls:
        if call.name == "get_weather":
            result = get_weather(str(call.arguments.get("city")))
        else:
            result = {"error": f"there is no function named {call.name}"}
        spoken = chat.tool_result(result, sampling=sampling)
        print(spoken.text)
        if spoken.audio is not None and len(spoken.audio):
            args.output.mkdir(parents=True, exist_ok=True)
            save_wav(args.output / "tool_answer.wav", spoken.audio, spoken.sample_rate_hz)


if __name__ == "__main__":
    try:
        main()
    except (FunAudioChatError, OSError) as error:
        sys.exit(f"error: {error}")
