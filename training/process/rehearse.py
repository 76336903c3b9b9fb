# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Let a model answer questions, as rows that keep these answers while it learns others.

    python process/rehearse.py QUESTIONS.jsonl --model-path MODEL --out data/rehearsal.jsonl

Reads typed questions in the form of those of ``make-pairs`` (``data/README.md``). The rows have the
model's own spoken answers, text and speech tokens; trained on beside new rows, they keep the model
from forgetting. An answer that does not end by itself, or whose text is longer than its speech, is
left out.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from funaudiochat.constants import (  # noqa: E402
    AUDIO_TEMPLATE,
    DEFAULT_S2M_PROMPT,
    GROUP_SIZE,
)
from funaudiochat.errors import FunAudioChatError  # noqa: E402
from funaudiochat.plain_text import encode_text  # noqa: E402
from funaudiochat.sampling import Sampling  # noqa: E402
from funaudiochat.voice_chat import VoiceChat  # noqa: E402
from training.check_data import DELAY_CODES  # noqa: E402
from training.make_pairs import KINDS, read_questions  # noqa: E402
from training.nano.data import write_jsonl  # noqa: E402
from training.speech_tokens import spelled_answer  # noqa: E402

_MAX_NEW_TOKENS = 150


def rehearse(chat: VoiceChat, questions: list[str], out: Path) -> int:
    """Write a row for every usable answer; return their number."""
    rows = []
    for question in questions:
        chat.reset()
        reply = chat.ask(text=question, sampling=Sampling(seed=0, max_new_tokens=_MAX_NEW_TOKENS))
        tokens = reply.speech_tokens.tolist()
        groups = (DELAY_CODES + len(tokens)) // GROUP_SIZE
        tokens = tokens[: groups * GROUP_SIZE - DELAY_CODES]
        length = len(encode_text(chat.processor.tokenizer, reply.text))
        if reply.finish_reason != "stop" or not tokens or not 0 < length <= groups:
            continue
        entry = {"text": reply.text, "token": spelled_answer(tokens, DELAY_CODES)}
        turns = [
            {"role": "user", "content": question},
            {"role": "assistant", "content": AUDIO_TEMPLATE},
        ]
        row = {"system": DEFAULT_S2M_PROMPT, "messages": turns, "audio": [json.dumps(entry)]}
        rows.append(row)
    write_jsonl(out, rows)
    return len(rows)


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Make rows of a model's own answers.")
    parser.add_argument("questions", type=Path, help="JSONL file of typed questions")
    parser.add_argument("--model-path", type=Path, required=True, help="model that answers")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    args = parser.parse_args()
    questions = [q.text for q in read_questions(args.questions, list(KINDS)) if not q.audio]
    if not questions:
        raise FunAudioChatError(f"{args.questions} has no typed questions")
    rows = rehearse(VoiceChat.from_pretrained(args.model_path), questions, args.out)
    print(f"{rows} answers of {len(questions)} questions: {args.out}")


if __name__ == "__main__":
    try:
        main()
    except FunAudioChatError as error:
        sys.exit(f"error: {error}")
