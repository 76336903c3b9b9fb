# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Turn Nano's dialogues and answers into training rows for every stage.

    python -m training.nano.rows                       # after python -m training.nano.encode

Rows have the format of ``training/data/README.md``: system prompt, messages, and an audio entry for
every placeholder. Prompts are those of ``VoiceChat``. Earlier answers of a dialogue are text, as in
its history, and only the last one is trained on. The rows are written to ``rows`` below ``--work``.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
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
from training.nano.dialogue_writer import tool_call
from training.nano.domain import Domain
from training.nano.drawn import slots_in
from training.nano.intents import unit_hash
from training.nano.sizes import GROUP_SIZE
from training.nano.speech import LONGEST_SILENCE_S, SpeechStore
from training.nano.voices import QUESTION_HZ
from training.speech_tokens import spelled_answer

SILENCE_TOKEN, AUDIO_EOS_TOKEN = "<|sil|>", "<|audio_eos|>"
SAY = "Say: "
VOICE = "heart"
DELAY_TOKENS = 10
# Pauses before, between and after the words of a typed stand-in for a spoken question, as often as
# they are at two to three words a second.
PAUSES = (0, 0, 0, 1, 1, 1, 1, 2, 2, 3)
# Share of the words that take two positions of a stand-in, as they do in audio, and their longest
# length in letters: longer words can have several tokens, each of which would be held by itself.
HELD_SHARE, LONGEST_HELD = 0.16, 6
# Share of the recordings with up to 5 s of silence before and after, and of the stand-ins with as
# many pauses.
SILENT_SHARE = 0.15
LONGEST_SILENCE = round(LONGEST_SILENCE_S * TOKEN_FPS) // GROUP_SIZE
# Typed rows need no recordings, so there are more of them than recorded dialogues.
TYPED_DIALOGUES = 48_000
# Typed conversations; every complete answer in them is a row with all turns before it.
TYPED_CONVERSATIONS = 8_000
# Typed conversations of which every answer is trained in one row; rows of every single answer, with
# all turns before it, would cost four times as much.
WHOLE_CONVERSATIONS = 30_000
# Rows of random words to copy. No pattern of sentences helps to predict them, so that the model has
# to learn to look the next word up.
COPIED_ROWS = 20_000
# Exchanges in a row that joins unrelated ones, and the share of rows that are joined.
JOINED, JOINED_SHARE = 6, 0.7
# Further typed dialogues, of which only these intents are kept: arithmetic needs much practice.
DRILLED_DIALOGUES = 60_000
DRILLED = (
    "plus", "plus_large", "minus", "minus_large", "times", "times_large", "divide", "bigger",
    "bigger_large", "smaller", "next_number", "previous_number", "double", "half", "hour_later",
    "spell",
)  # fmt: skip
# Stages that train every answer of a row (``mask_history: false``).
WHOLE_STAGES = ("questions", "text", "prealign", "stage1")
# Those in which rows of one exchange are joined.
JOINED_STAGES = ("questions", "text")
# Share of the rows of each kind in each stage; rows with a tool prompt are long.
STAGES = {
    # Nothing to copy: what a question asks for has to be learned first (README).
    "questions": {
        "text_whole": 1.0, "text_tools_whole": 0.3, "text_whole_drill": 0.3,
        "text_whole_conversation": 0.5,
    },
    "text": {
        "text_whole": 0.6, "words_whole": 0.5, "text_tools_whole": 0.5, "words_tools_whole": 0.4,
        "words_transcribe": 0.3, "say": 0.6, "text_whole_drill": 0.6, "words_whole_drill": 0.5,
        "text_whole_conversation": 0.4, "words_whole_conversation": 0.4,
        "text_tools_whole_conversation": 0.6, "words_tools_whole_conversation": 0.5, "copy": 1.0,
    },
    # Typed questions only; the head learns to speak.
    "prealign": {
        "text_whole": 0.6, "words_whole": 0.45, "text_tools_whole": 0.3, "words_tools_whole": 0.3,
        "words_transcribe": 0.12, "say": 0.15, "text_whole_drill": 0.5, "words_whole_drill": 0.3,
        "text_whole_conversation": 0.4, "words_whole_conversation": 0.3, "text_talk": 0.8,
        "words_talk": 0.5, "say_aloud": 0.3,
    },
    # Half of the rows are heard, a quarter is spoken, and typed questions keep the text.
    "stage1": {
        "ask_whole": 1.0, "ask_tools_whole": 1.0, "transcribe": 0.25, "transcribe_scrambled": 0.5,
        "talk": 1.0, "ask_whole_conversation": 1.0, "ask_tools_whole_conversation": 1.0,
        "talk_conversation": 0.5, "transcribe_ears": 0.35, "ask_tools_ears": 1.0,
        "text_whole": 0.5, "words_whole": 0.25, "text_tools_whole": 0.4, "words_tools_whole": 0.2,
        "words_transcribe": 0.03, "say": 0.05, "text_talk": 0.6, "words_talk": 0.3,
        "say_aloud": 0.35, "text_whole_drill": 0.4, "words_whole_drill": 0.2,
    },
    "stage2": {
        "talk": 1.0, "ask": 0.5, "ask_tools": 0.7, "transcribe": 0.1, "transcribe_scrambled": 0.1,
        "say_aloud": 0.6, "text_talk": 0.12, "text": 0.2, "words": 0.1, "text_tools": 0.1,
        "say": 0.1, "text_drill": 0.35, "words_drill": 0.45, "text_tools_drill": 0.05,
        "words_tools_drill": 0.05, "talk_conversation": 0.3, "ask_conversation": 0.3,
        "ask_tools_conversation": 0.3, "words_conversation": 0.1, "transcribe_ears": 0.25,
        "ask_tools_ears": 0.6,
    },
    "ablation": {"talk": 0.5, "ask": 0.5},
}  # fmt: skip


@cache
def _tools() -> dict[str, str]:
    """Return the JSON definitions of the domain's tools by name."""
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
    """Return the JSON definition of one tool."""
    return _tools()[name]


def tool_prompt(names: Iterable[str]) -> str:
    """Format the function-calling prompt with these tools of the domain."""
    definitions = "\n".join(map(tool_definition, names))
    return FUNCTION_CALLING_PROMPT.replace("{tools_definition}", definitions)


def _entry(**fields: Any) -> str:
    return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def in_silence(audio: str, work: Path) -> str:
    """Store a copy of a recording with silence before and after it, once, and return its name."""
    name = f"in_silence/{audio}"
    if not (work / name).exists():
        rng = Random(name)
        waveform, rate_hz = soundfile.read(work / audio, dtype="float32")
        around = [round(rng.uniform(0, LONGEST_SILENCE_S) * rate_hz) for _ in range(2)]
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(work / name, np.pad(waveform, around), rate_hz)
    return name


def spoken_question(message: dict[str, Any], work: Path) -> str:
    """Format the audio entry of a user's recording."""
    path = (work / message["audio"]).resolve()
    pads = AUDIO_PAD_TOKEN * int(soundfile.info(path).duration * TOKEN_FPS)
    return _entry(path=str(path), token=pads, text="")


def spoken_answer(text: str, tokens: list[int]) -> str:
    """Format the audio entry of the assistant's speech: the delay, then the speech tokens."""
    return _entry(token=spelled_answer(tokens, DELAY_TOKENS), text=text)


def words(text: str) -> list[str]:
    """Split a sentence into words with their leading space and without punctuation."""
    found = (word.strip(".,?!") for word in text.split(" "))
    return [" " * (i > 0) + word for i, word in enumerate(w for w in found if w)]


def paused_words(text: str, rng: Random) -> str:
    """Build a typed stand-in for a spoken question: its words at the pace of 5 Hz audio.

    The mel encoder is trained to give one word or silence for every group (``train_encoder``), so
    the language model can learn to read this format before it is given any audio.
    """
    around = range(LONGEST_SILENCE + 1) if rng.random() < SILENT_SHARE else PAUSES
    pieces = [SILENCE_TOKEN * rng.choice(around)]
    for word in words(text):
        held = len(word.strip()) <= LONGEST_HELD and rng.random() < HELD_SHARE
        pieces += [word, f" {word.strip()}" * held, SILENCE_TOKEN * rng.choice(PAUSES)]
    pieces.append(SILENCE_TOKEN * (rng.choice(around) if around is not PAUSES else 0))
    return f"{AUDIO_BOS_TOKEN}{''.join(pieces)}{AUDIO_EOS_TOKEN}"


def _row(system: str, messages: list[dict[str, str]], audio: list[str]) -> dict[str, Any]:
    return {"system": system, "messages": messages, "audio": audio}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _typed_forms(rng: Random) -> dict[str, Callable[[str], str]]:
    """Return how a question is typed, by kind of row."""
    return {"text": str, "words": partial(paused_words, rng=rng)}


def _heard_in(turns: list[dict[str, str]], recordings: list[str]) -> list[str]:
    """Return the recordings, of all of a dialogue, that these first turns of it hold."""
    return recordings[: sum(turn["content"] == AUDIO_TEMPLATE for turn in turns)]


def _turns_before_answers(
    record: dict[str, Any], question: Callable[[str], str]
) -> Iterator[tuple[list[dict[str, str]], dict[str, Any], str]]:
    """Yield for every complete answer the turns before it, its message and the tool prompt."""
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
    speech: dict[str, list[int]],
    heard: list[str],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the rows that train one answer, with the suffixes of their kinds."""
    text = message["text"]
    written = [*turns, _turn("assistant", text)]
    yield "_tools" if tools else "", _row(tools or DEFAULT_S2T_PROMPT, written, heard)
    if message["spoken"] and text in speech:
        spoken = [*turns, _turn("assistant", AUDIO_TEMPLATE)]
        entry = spoken_answer(text, speech[text])
        yield "_talk", _row(DEFAULT_S2M_PROMPT, spoken, [*heard, entry])


def _written_history(row: dict[str, Any]) -> bool:
    """Whether a spoken answer has answers before it, of which a prompt holds only the text."""
    return row["system"] == DEFAULT_S2M_PROMPT and len(row["messages"]) > 2


def _transcript_row(question: str, text: str, heard: list[str]) -> dict[str, Any]:
    request, answer = _turn("user", f"{question}\n{TRANSCRIBE_PROMPT}"), _turn("assistant", text)
    return _row(DEFAULT_S2T_PROMPT, [request, answer], heard)


def typed_rows(
    record: dict[str, Any], speech: dict[str, list[int]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the rows of one dialogue that need no recording.

    Args:
        record: a dialogue, with or without recordings.
        speech: text of a spoken answer -> its speech tokens.

    Yields:
        kind and row: ``text`` (typed questions) and ``words`` (:func:`paused_words`), with the
        suffix ``_tools`` if the prompt offers tools and ``_talk`` if the answer is spoken, and
        ``words_transcribe``.
    """
    rng = Random(f"words/{record['id']}")
    for kind, question in _typed_forms(rng).items():
        for turns, message, tools in _turns_before_answers(record, question):
            for suffix, row in _answer_rows(turns, message, tools, speech, []):
                yield kind + suffix, row
    for message in record["messages"]:
        if message["role"] == "user":
            text = message["text"]
            yield "words_transcribe", _transcript_row(paused_words(text, rng), text, [])


def _whole_row(
    record: dict[str, Any], question: Callable[[str], str], heard: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the row of all turns of a dialogue, none if an answer in it was interrupted.

    Every answer of it is to be trained.
    """
    if any(message.get("cut") for message in record["messages"]):
        return
    found = list(_turns_before_answers(record, question))
    if found:
        turns, message, tools = found[-1]
        heard = _heard_in(turns, heard)
        messages = [*turns, _turn("assistant", message["text"])]
        yield (
            "_tools_whole" if tools else "_whole",
            _row(tools or DEFAULT_S2T_PROMPT, messages, heard),
        )


def whole_rows(record: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build a row of all turns of a dialogue for each form of typed questions.

    Yields:
        kind and row: ``text_whole`` and ``words_whole`` (:func:`paused_words`), or
        ``text_tools_whole`` and ``words_tools_whole``.
    """
    rng = Random(f"whole/{record['id']}")
    for kind, question in _typed_forms(rng).items():
        for suffix, row in _whole_row(record, question, []):
            yield kind + suffix, row


def copied_rows(vocabulary: Sequence[str], count: int) -> Iterator[dict[str, Any]]:
    """Build rows that ask to repeat or to transcribe random words."""
    rng = Random("copied")
    for _ in range(count):
        text = " ".join(rng.choice(vocabulary) for _ in range(rng.randint(3, 16)))
        text = f"{text[0].upper()}{text[1:]}."
        if rng.random() < 0.5:
            messages = [_turn("user", SAY + text), _turn("assistant", text)]
            yield _row(DEFAULT_S2T_PROMPT, messages, [])
        else:
            yield _transcript_row(paused_words(text, rng), text, [])


def joined(rows: Iterable[dict[str, Any]], rng: Random) -> list[dict[str, Any]]:
    """Join most rows of one exchange without tools to conversations of unrelated exchanges.

    They share the prompt, and the model learns that a question need not continue the one before.
    """
    kept: list[dict[str, Any]] = []
    single: list[dict[str, Any]] = []
    for row in rows:
        alone = len(row["messages"]) > 2 or row["system"] != DEFAULT_S2T_PROMPT
        (kept if alone or rng.random() >= JOINED_SHARE else single).append(row)
    for start in range(0, len(single), JOINED):
        messages = [turn for row in single[start : start + JOINED] for turn in row["messages"]]
        kept.append(_row(DEFAULT_S2T_PROMPT, messages, []))
    return kept


def heard_rows(
    record: dict[str, Any], speech: dict[str, list[int]], work: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the rows of one dialogue with its recordings.

    Args:
        record: a line of ``dialogues/SPLIT.jsonl``.
        speech: text of a spoken answer -> its speech tokens.
        work: data folder.

    Yields:
        kind and row: ``ask`` (speech to text), ``ask_tools`` (the same with tools in the prompt),
        ``talk`` (speech to speech), ``transcribe``, and ``ask_whole`` or ``ask_tools_whole`` with
        all turns.
    """
    asked = [message for message in record["messages"] if message["role"] == "user"]
    audio = []
    for number, message in enumerate(asked):
        recording = message["audio"]
        if unit_hash("silence", record["id"], str(number)) < SILENT_SHARE:
            recording = in_silence(recording, work)
        audio.append(spoken_question({"audio": recording}, work))
    for turns, message, tools in _turns_before_answers(record, lambda _: AUDIO_TEMPLATE):
        heard = _heard_in(turns, audio)
        for suffix, row in _answer_rows(turns, message, tools, speech, heard):
            yield "talk" if suffix == "_talk" else f"ask{suffix}", row
    for suffix, row in _whole_row(record, lambda _: AUDIO_TEMPLATE, audio):
        yield f"ask{suffix}", row
    for message, recording in zip(asked, audio, strict=True):
        yield "transcribe", _transcript_row(AUDIO_TEMPLATE, message["text"], [recording])


def say_rows(text: str, tokens: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build the rows that ask to repeat a sentence, in text and aloud."""
    request = _turn("user", SAY + text)
    yield "say", _row(DEFAULT_S2T_PROMPT, [request, _turn("assistant", text)], [])
    yield (
        "say_aloud",
        _row(
            DEFAULT_S2M_PROMPT,
            [request, _turn("assistant", AUDIO_TEMPLATE)],
            [spoken_answer(text, tokens)],
        ),
    )


def written(heard: str) -> str:
    """Write a transcript of the ears as the domain writes: "r u b i" becomes "R, U, B, I."."""
    text = re.sub(r"\b[a-z](?: [a-z]\b)+", lambda run: run[0].upper().replace(" ", ", "), heard)
    text = re.sub(r"\bi\b", "I", text)
    return f"{text[0].upper()}{text[1:]}."


def ears_rows(work: Path, domain: Domain) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build rows from the training speech of the ears: open text, orders, symbols, people.

    Their recordings are stored as FLAC files below ``ears`` once.

    Yields:
        kind and row: ``transcribe_ears``, and ``ask_tools_ears`` for coffee orders, which are
        answered with a call of the tool for them.
    """
    for name in ("synthetic", "real"):
        store = SpeechStore(work / "ears" / name)
        for number, record in enumerate(store.rows):
            if record.get("part", "train") != "train":
                continue
            audio = f"ears/{name}/{number // 1000:03d}/{number:06d}.flac"
            if not (work / audio).exists():
                (work / audio).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(work / audio, store.waveform(record).numpy(), QUESTION_HZ)
            heard = [spoken_question({"audio": audio}, work)]
            yield (
                "transcribe_ears",
                _transcript_row(AUDIO_TEMPLATE, written(record["text"]), heard),
            )
            slots = slots_in(record["text"]) if record["kind"] in ("order", "real") else {}
            if "coffeeDrink" in slots:
                rng = Random(f"ears/{name}/{number}")
                call = tool_call("order_coffee", slots)
                turns = [_turn("user", AUDIO_TEMPLATE), _turn("assistant", call)]
                yield (
                    "ask_tools_ears",
                    _row(tool_prompt(domain.offer(rng, "order_coffee")), turns, heard),
                )


def make_rows(
    work: Path,
    dialogues: int = TYPED_DIALOGUES,
    conversations: int = TYPED_CONVERSATIONS,
    drilled: int = DRILLED_DIALOGUES,
    whole: int = WHOLE_CONVERSATIONS,
    copied: int = COPIED_ROWS,
) -> None:
    """Write the rows of all stages and the ``dataset_info.json`` that LLaMA-Factory reads.

    Without recordings, only typed rows are written.

    Args:
        work: data folder.
        dialogues: number of dialogues to make typed rows from.
        conversations: number of conversations to make typed rows from.
        drilled: number of further dialogues, of which only :data:`DRILLED` intents are used.
        whole: number of conversations of which every answer is trained in one row.
        copied: number of rows of random words.
    """
    spoken = read_jsonl(work / "answers.jsonl")
    answers = [r for r in spoken if r["voice"] == VOICE and r["part"] == "train"]
    speech = {r["text"]: r["row_codes"] for r in answers}
    rows: list[tuple[str, dict[str, Any]]] = []
    domain = Domain()
    for index in range(dialogues + drilled):
        record = domain.dialogue("train", index).as_record()
        if index < dialogues:
            rows.extend(typed_rows(record, speech))
            rows.extend(whole_rows(record))
        elif record["intent"].partition("+")[0] in DRILLED:
            for kind, row in (*typed_rows(record, {}), *whole_rows(record)):
                rows.append((f"{kind}_drill", row))
    for index in range(max(conversations, whole)):
        record = domain.dialogue("conversation", index).as_record()
        typed = typed_rows(record, speech) if index < conversations else ()
        for kind, row in (*typed, *(whole_rows(record) if index < whole else ())):
            rows.append((f"{kind}_conversation", row))
    vocabulary = sorted({word.strip() for r in answers for word in words(r["text"])})
    if vocabulary:
        rows.extend(("copy", row) for row in copied_rows(vocabulary, copied))
    for record in read_jsonl(work / "dialogues" / "train.jsonl"):
        rows.extend(heard_rows(record, speech, work))
    for split in ("conversation", "scrambled"):
        for record in read_jsonl(work / "dialogues" / f"{split}.jsonl"):
            rows.extend((f"{kind}_{split}", row) for kind, row in heard_rows(record, speech, work))
    rows.extend(ears_rows(work, domain))
    for answer in answers:
        rows.extend(say_rows(answer["text"], answer["row_codes"]))
    folder = work / "rows"
    folder.mkdir(exist_ok=True)
    info = {}
    for stage, shares in STAGES.items():
        rng = Random(stage)
        chosen = [row for kind, row in rows if rng.random() < shares.get(kind, 0)]
        if stage in WHOLE_STAGES:
            chosen = [row for row in chosen if not _written_history(row)]
        rng.shuffle(chosen)  # so that max_samples takes a random sample
        if stage in JOINED_STAGES:
            chosen = joined(chosen, rng)
            rng.shuffle(chosen)
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
