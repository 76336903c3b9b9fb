# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn Nano's dialogues and answers into training rows for every stage.

    python -m training.nano.rows                       # needs codes: python -m training.nano.encode

A row is what ``training/data/README.md`` describes: system prompt, messages, and an audio entry for
every placeholder. Prompts are those that ``VoiceChat`` uses. Earlier answers of a dialogue are
text, as in its history, and only the last one is learned. Written to ``rows`` below ``--work``.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import soundfile

from funaudiochat.constants import (
    AUDIO_BOS_TOKEN,
    AUDIO_PAD_TOKEN,
    AUDIO_TEMPLATE,
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    FUNCTION_CALLING_PROMPT,
    TOKEN_FPS,
    TRANSCRIBE_PROMPT,
)
from training.nano.data import WORK, read_jsonl
from training.nano.domain import Domain

SILENCE_TOKEN, AUDIO_EOS_TOKEN = "<|sil|>", "<|audio_eos|>"
SAY = "Say: "
VOICE = "heart"
DELAY_CODES = 10
# The most pauses before, between and after the words of a question that stands for a heard one.
MOST_PAUSES = 3
# Typed rows need no recording, so there are more of them than of the recorded dialogues.
TYPED_DIALOGUES = 48_000
# Typed conversations: every whole answer in them is a row with all turns before it.
TYPED_CONVERSATIONS = 8_000
# Further typed dialogues, of which only these intents are taken: sums have to be done often.
DRILLED_DIALOGUES = 60_000
DRILLED = (
    "plus", "plus_large", "minus", "minus_large", "times", "times_large", "divide", "bigger",
    "bigger_large", "smaller", "next_number", "previous_number", "double", "half", "hour_later",
    "spell",
)  # fmt: skip
# Share of the rows of each kind in each stage; rows with a tool prompt are long.
STAGES = {
    "text": {
        "text": 0.7, "text_tools": 0.15, "words": 0.9, "words_tools": 0.2,
        "words_transcribe": 0.15, "say": 0.5, "text_drill": 0.35, "words_drill": 0.45,
        "text_conversation": 0.25, "words_conversation": 0.35, "text_tools_conversation": 0.1,
        "words_tools_conversation": 0.15,
    },
    "prealign": {
        "text_talk": 0.3, "words_talk": 0.2, "say_aloud": 1.0, "words": 0.1, "text": 0.05,
        "text_tools": 0.03, "words_tools": 0.03, "text_talk_conversation": 0.1,
    },
    # First of all to hear, which takes the longest to learn; rows without speech are cheap.
    "stage1": {
        "ask": 1.0, "ask_tools": 1.0, "transcribe": 0.5, "transcribe_scrambled": 0.7, "talk": 0.1,
        "say_aloud": 0.25, "text": 0.1, "words": 0.1, "text_tools": 0.12, "words_tools": 0.12,
        "ask_conversation": 0.5, "ask_tools_conversation": 0.5, "transcribe_conversation": 0.2,
        "words_conversation": 0.1,
    },
    "stage2": {
        "talk": 1.0, "ask": 0.5, "ask_tools": 0.7, "transcribe": 0.1, "transcribe_scrambled": 0.1,
        "say_aloud": 0.6, "text_talk": 0.12, "text": 0.2, "words": 0.1, "text_tools": 0.1,
        "say": 0.1, "text_drill": 0.35, "words_drill": 0.45, "text_tools_drill": 0.05,
        "words_tools_drill": 0.05, "talk_conversation": 0.3, "ask_conversation": 0.3,
        "ask_tools_conversation": 0.3, "words_conversation": 0.1,
    },
    "ablation": {"talk": 0.5, "ask": 0.5},
}  # fmt: skip


@cache
def _tools() -> dict[str, str]:
    """Name -> JSON definition of the domain's tools."""
    return {
        name: json.dumps(
            {
                "name": name,
                "description": tool["description"],
                "parameters": {
                    "type": "object",
                    "properties": {key: {"type": kind} for key, kind in tool["parameters"].items()},
                    "required": [
                        key for key in tool["parameters"] if key not in tool.get("optional", [])
                    ],
                },
            }
        )
        for name, tool in Domain().spec["tools"].items()
    }


def tool_definition(name: str) -> str:
    """JSON definition of one tool."""
    return _tools()[name]


def tool_prompt(names: Iterable[str]) -> str:
    """Format the function-calling prompt with these tools of the domain."""
    definitions = "\n".join(map(tool_definition, names))
    return FUNCTION_CALLING_PROMPT.replace("{tools_definition}", definitions)


def _entry(**fields: Any) -> str:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def spoken_question(message: dict[str, Any], work: Path) -> str:
    """Audio entry of a user's recording."""
    path = (work / message["audio"]).resolve()
    pads = AUDIO_PAD_TOKEN * int(soundfile.info(path).duration * TOKEN_FPS)
    return _entry(path=str(path), token=pads, text="")


def spoken_answer(text: str, codes: list[int]) -> str:
    """Audio entry of the assistant's speech: the delay, then the codes."""
    spelled = "".join(f"[AU{code:04d}]" for code in codes)
    return _entry(token=AUDIO_BOS_TOKEN * DELAY_CODES + spelled, text=text)


def words(text: str) -> list[str]:
    """Words with the space before them and without marks: what there is to hear of a sentence."""
    found = (word.strip(".,?!") for word in text.split(" "))
    return [" " * (i > 0) + word for i, word in enumerate(w for w in found if w)]


def paused_words(text: str, rng: Random) -> str:
    """Build a typed stand-in for a spoken question: its words at the pace of 5 Hz audio.

    The mel encoder is trained to write a word or nothing in every group (``train_encoder``), so the
    language model can learn to read that before there is any sound.
    """
    pieces = [SILENCE_TOKEN * rng.randint(0, MOST_PAUSES)]
    for word in words(text):
        pieces += [word, SILENCE_TOKEN * rng.randint(0, MOST_PAUSES)]
    return f"{AUDIO_BOS_TOKEN}{''.join(pieces)}{AUDIO_EOS_TOKEN}"


def _row(system: str, messages: list[dict[str, str]], audio: list[str]) -> dict[str, Any]:
    return {"system": system, "messages": messages, "audio": audio}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _turns_before_answers(
    record: dict[str, Any], question: Callable[[str], str]
) -> Iterator[tuple[list[dict[str, str]], dict[str, Any], str]]:
    """Every whole answer: the turns before it, its message, and the prompt with tools or none."""
    turns: list[dict[str, str]] = []
    tools = tool_prompt(record["tools"]) if record["tools"] else ""
    for message in record["messages"]:
        text = message["text"]
        if message["role"] == "assistant":
            if not message.get("cut"):
                yield turns, message, tools
            turns = [*turns, _turn("assistant", text)]
        elif message["role"] == "tool":
            turns = [*turns, _turn("user", f"<tool_response>\n{text}\n</tool_response>")]
        else:
            turns = [*turns, _turn("user", question(text))]


def _answer_rows(
    turns: list[dict[str, str]],
    message: dict[str, Any],
    tools: str,
    codes: dict[str, list[int]],
    heard: list[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the rows that train one answer, with the suffixes of their kinds."""
    text = message["text"]
    written = [*turns, _turn("assistant", text)]
    yield "_tools" if tools else "", _row(tools or DEFAULT_S2T_PROMPT, written, heard)
    if message["spoken"] and text in codes:
        spoken = [*turns, _turn("assistant", AUDIO_TEMPLATE)]
        speech = spoken_answer(text, codes[text])
        yield "_talk", _row(DEFAULT_S2M_PROMPT, spoken, [*heard, speech])


def _transcript_row(question: str, text: str, heard: list[str]) -> dict[str, Any]:
    request, answer = _turn("user", f"{question}\n{TRANSCRIBE_PROMPT}"), _turn("assistant", text)
    return _row(DEFAULT_S2T_PROMPT, [request, answer], heard)


def typed_rows(
    record: dict[str, Any], codes: dict[str, list[int]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one dialogue that need no recording.

    Args:
        record: a dialogue, with or without its sound.
        codes: text of a spoken answer -> its codes.

    Yields:
        kind and row: ``text`` (typed questions) and ``words`` (:func:`paused_words`), with
        ``_tools`` behind it if the prompt offers some, ``_talk`` if the answer is spoken, and
        ``words_transcribe``.
    """
    rng = Random(f"words/{record['id']}")
    forms: dict[str, Callable[[str], str]] = {"text": str, "words": partial(paused_words, rng=rng)}
    for kind, question in forms.items():
        for turns, message, tools in _turns_before_answers(record, question):
            for suffix, row in _answer_rows(turns, message, tools, codes, []):
                yield kind + suffix, row
    for message in record["messages"]:
        if message["role"] == "user":
            text = message["text"]
            yield "words_transcribe", _transcript_row(paused_words(text, rng), text, [])


def heard_rows(
    record: dict[str, Any], codes: dict[str, list[int]], work: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one dialogue with its recordings.

    Args:
        record: of ``dialogues/SPLIT.jsonl``.
        codes: text of a spoken answer -> its codes.

    Yields:
        kind and row: ``ask`` (speech to text), ``ask_tools`` if the prompt offers some, ``talk``
        (speech to speech) and ``transcribe``.
    """
    audio = [spoken_question(m, work) for m in record["messages"] if m["role"] == "user"]
    for turns, message, tools in _turns_before_answers(record, lambda _: AUDIO_TEMPLATE):
        heard = audio[: sum(turn["content"] == AUDIO_TEMPLATE for turn in turns)]
        for suffix, row in _answer_rows(turns, message, tools, codes, heard):
            yield "talk" if suffix == "_talk" else f"ask{suffix}", row
    asked = (m for m in record["messages"] if m["role"] == "user")
    for message, sound in zip(asked, audio, strict=True):
        yield "transcribe", _transcript_row(AUDIO_TEMPLATE, message["text"], [sound])


def say_rows(text: str, codes: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows that ask for a sentence word by word, written and aloud."""
    request = _turn("user", SAY + text)
    yield "say", _row(DEFAULT_S2T_PROMPT, [request, _turn("assistant", text)], [])
    yield (
        "say_aloud",
        _row(
            DEFAULT_S2M_PROMPT,
            [request, _turn("assistant", AUDIO_TEMPLATE)],
            [spoken_answer(text, codes)],
        ),
    )


def make_rows(
    work: Path,
    dialogues: int = TYPED_DIALOGUES,
    conversations: int = TYPED_CONVERSATIONS,
    drilled: int = DRILLED_DIALOGUES,
) -> None:
    """Write the rows of all stages and the ``dataset_info.json`` that LLaMA-Factory reads.

    Typed rows are made of so many dialogues and conversations, and are all there is before there
    are recordings; of so many further dialogues, those of :data:`DRILLED` intents.
    """
    spoken = read_jsonl(work / "answers.jsonl")
    answers = [r for r in spoken if r["voice"] == VOICE and r["part"] == "train"]
    codes = {r["text"]: r["row_codes"] for r in answers}
    rows: list[tuple[str, dict[str, Any]]] = []
    domain = Domain()
    for index in range(dialogues + drilled):
        record = domain.dialogue("train", index).as_record()
        if index < dialogues:
            rows.extend(typed_rows(record, codes))
        elif record["intent"].partition("+")[0] in DRILLED:
            rows.extend((f"{kind}_drill", row) for kind, row in typed_rows(record, {}))
    for index in range(conversations):
        record = domain.dialogue("conversation", index).as_record()
        rows.extend((f"{kind}_conversation", row) for kind, row in typed_rows(record, codes))
    for record in read_jsonl(work / "dialogues" / "train.jsonl"):
        rows.extend(heard_rows(record, codes, work))
    for split in ("conversation", "scrambled"):
        for record in read_jsonl(work / "dialogues" / f"{split}.jsonl"):
            rows.extend((f"{kind}_{split}", row) for kind, row in heard_rows(record, codes, work))
    for answer in answers:
        rows.extend(say_rows(answer["text"], answer["row_codes"]))
    folder = work / "rows"
    folder.mkdir(exist_ok=True)
    info = {}
    for stage, shares in STAGES.items():
        rng = Random(stage)
        chosen = [row for kind, row in rows if rng.random() < shares.get(kind, 0)]
        rng.shuffle(chosen)  # so that the first of them (max_samples) are a sample of all
        lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in chosen)
        (folder / f"{stage}.jsonl").write_text("".join(lines), encoding="utf-8")
        info[stage] = {
            "file_name": f"{stage}.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "system": "system", "audios": "audio"},
            "tags": {
                "role_tag": "role", "content_tag": "content", "user_tag": "user",
                "assistant_tag": "assistant", "system_tag": "system",
            },
        }  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Write the training rows of every stage.")
    parser.add_argument("--work", type=Path, default=WORK, help="data folder")
    make_rows(parser.parse_args().work)


if __name__ == "__main__":
    main()
