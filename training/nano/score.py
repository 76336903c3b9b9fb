# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Score Nano on held-out questions, for the table of its model card.

    python -m training.nano.score --before training/nano/work/models/text

Missing held-out questions are generated (``training.nano.data``). Text answers must match word for
word, punctuation included; spoken ones are streamed and transcribed by ``training.nano.judge``.
``--before`` names the text model from which speech training started.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from funaudiochat.events import Reply, ReplyDone
from funaudiochat.sampling import Sampling
from funaudiochat.voice_chat import VoiceChat
from training.nano.data import WORK, make_dialogues, read_jsonl
from training.nano.domain import Domain
from training.nano.export import FOLDER as DETOKENIZER
from training.nano.export_model import FOLDER as MODEL
from training.nano.judge import hear, judge_available, score
from training.nano.rows import tool_definition
from training.nano.wordings import holds_keys
from training.nano.words import normalized_words

Record = dict[str, Any]


def _questions(record: Record) -> list[Record]:
    return [message for message in record["messages"] if message["role"] == "user"]


def _answers(record: Record) -> list[str]:
    return [m["text"] for m in record["messages"] if m["role"] == "assistant"]


def written_answers(chat: VoiceChat, record: Record, work: Path, typed: bool = False) -> list[str]:
    """Return the model's text answers to a dialogue, with its own answers as history."""
    chat.reset()
    return [
        chat.ask(
            text=q["text"] if typed else None,
            audio=None if typed else work / q["audio"],
            speech=False,
        ).text
        for q in _questions(record)
    ]


def is_right(chat: VoiceChat, record: Record, work: Path) -> bool:
    """Check whether the text answer to the last spoken question is correct."""
    return written_answers(chat, record, work)[-1] == _answers(record)[-1]


def says_right(text: str, answer: Record) -> bool:
    """Check whether a text or transcript contains what a correct answer has to say.

    Args:
        text: the text or transcript.
        answer: the assistant's message of a dialogue; without ``keys``, all its words are required.
    """
    if answer["keys"]:
        return holds_keys(text, answer["keys"])
    return normalized_words(text) == normalized_words(answer["text"])


def is_right_typed(chat: VoiceChat, record: Record, work: Path) -> bool:
    """Check whether the text answer to the last question, typed, is correct."""
    return written_answers(chat, record, work, typed=True)[-1] == _answers(record)[-1]


def tools_offered(names: Iterable[str]) -> list[Record]:
    """Return the definitions of tools of the domain in the form that a conversation takes."""
    return [json.loads(tool_definition(name)) for name in names]


def is_right_call(chat: VoiceChat, record: Record, work: Path) -> bool:
    """Check whether the tool call, or the answer if the tool is not offered, matches exactly."""
    chat.reset()
    tools = tools_offered(record["tools"])
    question = work / _questions(record)[0]["audio"]
    return chat.ask(audio=question, tools=tools, speech=False).text == _answers(record)[0]


def spoken_reply(chat: VoiceChat, record: Record, work: Path, sampling: Sampling) -> Reply:
    """Stream the answer to the first question of a dialogue and return the reply."""
    chat.reset()
    events = chat.stream(audio=work / _questions(record)[0]["audio"], sampling=sampling)
    return next(event.reply for event in events if isinstance(event, ReplyDone))


def score_speech(
    chat: VoiceChat, records: list[Record], work: Path, sampling: Sampling
) -> dict[str, float]:
    """Score the judge's transcripts against the model's own text and the correct answer."""
    replies = [spoken_reply(chat, record, work, sampling) for record in records]
    heard = [
        hear(r.audio, r.sample_rate_hz) if r.audio is not None and len(r.audio) else ""
        for r in replies
    ]
    own = score([r.text if normalized_words(r.text) else "nothing" for r in replies], heard)
    answers = [next(m for m in r["messages"] if m["role"] == "assistant") for r in records]
    exact = [
        normalized_words(h) == normalized_words(answer["text"])
        for h, answer in zip(heard, answers, strict=True)
    ]
    keyed = [says_right(h, answer) for h, answer in zip(heard, answers, strict=True)]
    timed = [r for r in replies if r.seconds and r.latency.first_audio_s is not None]
    return {
        "items": len(records),
        "wer_percent": round(own.wer_percent, 1),
        "right_as_heard_percent": round(100 * sum(exact) / len(exact), 1),
        "keys_as_heard_percent": round(100 * sum(keyed) / len(keyed), 1),
        "first_audio_ms": round(1000 * median(r.latency.first_audio_s or 0 for r in timed)),
        "real_time_factor": round(median(r.latency.total_s / r.seconds for r in timed), 3),
    }


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Score Nano on held-out questions.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    parser.add_argument("--model", type=Path, default=MODEL, help="joint model")
    parser.add_argument("--tts", type=Path, default=DETOKENIZER, help="detokenizer")
    parser.add_argument("--before", type=Path, help="text model from which speech training started")
    parser.add_argument("--texts", type=int, default=200, help="questions per text score")
    parser.add_argument("--spoken", type=int, default=100, help="questions per speech score")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the scores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    chat = VoiceChat.from_pretrained(args.model, args.tts, device="cpu")
    domain, scores = Domain(), {}

    def held_out(split: str, count: int) -> list[Record]:
        path = args.work / "dialogues" / f"{split}.jsonl"
        if len(read_jsonl(path)) < count:
            make_dialogues(domain, split, count, args.work)
        return read_jsonl(path)[:count]

    def note(name: str, value: Any) -> None:
        scores[name] = value
        print(f"{name:32} {value}", flush=True)

    def share(name: str, test: Callable[[VoiceChat, Record, Path], bool], split: str) -> None:
        records = held_out(split, args.texts)
        right = sum(test(who, record, args.work) for record in records)
        note(name, round(100 * right / len(records), 1))

    who = chat
    share("text, wordings", is_right, "test_paraphrase")
    share("text, voices", is_right, "test_voice")
    share("text, slot values", is_right, "test_slot")
    share("text, follow-ups", is_right, "test_follow_up")
    share("tool calls", is_right_call, "test_tool")
    share("no call without its tool", is_right_call, "test_no_tool")
    share("typed, wordings", is_right_typed, "test_paraphrase")
    if args.before:
        who = VoiceChat.from_pretrained(args.before, device="cpu")
        share("typed, before speech training", is_right_typed, "test_paraphrase")
    if judge_available():
        for split in ("test_paraphrase", "test_slot"):
            records = held_out(split, args.spoken)
            note(f"speech, {split}", score_speech(chat, records, args.work, Sampling(seed=0)))
    else:
        print("speech is not scored; install the judge as described in training/nano/README.md")
    if args.output:
        args.output.write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    main()
