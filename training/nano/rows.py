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
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import soundfile

from training.nano.data import WORK, read_jsonl
from training.nano.domain import Domain
from utils.constant import (
    AUDIO_BOS_TOKEN,
    AUDIO_PAD_TOKEN,
    AUDIO_TEMPLATE,
    DEFAULT_S2M_PROMPT,
    DEFAULT_S2T_PROMPT,
    FUNCTION_CALLING_PROMPT,
    TOKEN_FPS,
)

TRANSCRIBE = "Please help me transcribe the audio."
SAY = "Say: "
VOICE = "heart"
DELAY_CODES = 10
# A tool prompt offers so many tools, the right one among them; which ones is drawn per dialogue.
MOST_TOOLS = 3
# Share of the rows of each kind in each stage; rows with a tool prompt are long.
STAGES = {
    "text": {"text": 1.0, "text_tools": 0.5, "say": 1.0},
    "prealign": {"transcribe": 1.0, "say_aloud": 1.0, "ask": 0.3},
    "stage1": {
        "talk": 1.0, "ask": 1.0, "ask_tools": 0.5, "transcribe": 0.3, "say_aloud": 1.0,
        "text": 0.3, "say": 0.3, "text_tools": 0.1,
    },
    "stage2": {
        "talk": 1.0, "ask": 0.5, "ask_tools": 0.5, "transcribe": 0.1, "say_aloud": 0.5,
        "text": 0.2, "say": 0.1, "text_tools": 0.1,
    },
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
                    "required": list(tool["parameters"]),
                },
            }
        )
        for name, tool in Domain().spec["tools"].items()
    }


def tool_definition(name: str) -> str:
    """JSON definition of one tool."""
    return _tools()[name]


def tool_prompt(names: Iterable[str]) -> str:
    """The function-calling prompt with these tools of the domain."""
    definitions = "\n".join(map(tool_definition, names))
    return FUNCTION_CALLING_PROMPT.replace("{tools_definition}", definitions)


def offered_tools(record: dict[str, Any]) -> list[str]:
    """Names of the tools in a dialogue's system prompt."""
    rng = Random(record["id"])
    names = rng.sample(list(_tools()), rng.randint(1, MOST_TOOLS))
    called = [
        name
        for name in _tools()
        for message in record["messages"]
        if message["role"] == "assistant" and f'"name": "{name}"' in message["text"]
    ]
    if called and called[0] not in names:
        names[rng.randrange(len(names))] = called[0]
    return names


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


def _row(system: str, messages: list[dict[str, str]], audio: list[str]) -> dict[str, Any]:
    return {"system": system, "messages": messages, "audio": audio}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def dialogue_rows(
    record: dict[str, Any], codes: dict[str, list[int]], work: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one dialogue with their kinds, one of each kind for every answer.

    Args:
        record: of ``dialogues/SPLIT.jsonl``.
        codes: text of a spoken answer -> its codes.

    Yields:
        ``text`` (typed question), ``ask`` (speech to text), both with ``_tools`` behind the name if
        the prompt offers some, ``talk`` (speech to speech) and ``transcribe``.
    """
    typed: list[dict[str, str]] = []
    heard: list[dict[str, str]] = []
    audio: list[str] = []
    for message in record["messages"]:
        text = message["text"]
        if message["role"] == "assistant":
            answer = _turn("assistant", text)
            called = any("<tool_response>" in turn["content"] for turn in typed)
            offered = record["tools"] and not called
            system = tool_prompt(offered_tools(record)) if offered else DEFAULT_S2T_PROMPT
            kind = "_tools" if offered else ""
            yield "text" + kind, _row(system, [*typed, answer], [])
            yield "ask" + kind, _row(system, [*heard, answer], list(audio))
            if message["spoken"] and text in codes:
                spoken = [*heard, _turn("assistant", AUDIO_TEMPLATE)]
                sound = spoken_answer(text, codes[text])
                yield "talk", _row(DEFAULT_S2M_PROMPT, spoken, [*audio, sound])
            typed.append(answer)
            heard.append(answer)
        elif message["role"] == "tool":
            result = _turn("user", f"<tool_response>\n{text}\n</tool_response>")
            typed.append(result)
            heard.append(result)
        else:
            typed.append(_turn("user", text))
            heard.append(_turn("user", AUDIO_TEMPLATE))
            audio.append(spoken_question(message, work))
            request = _turn("user", f"{AUDIO_TEMPLATE}\n{TRANSCRIBE}")
            yield "transcribe", _row(
                DEFAULT_S2T_PROMPT, [request, _turn("assistant", text)], [audio[-1]]
            )


def say_rows(text: str, codes: list[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows that ask for a sentence word by word, written and aloud."""
    request = _turn("user", SAY + text)
    yield "say", _row(DEFAULT_S2T_PROMPT, [request, _turn("assistant", text)], [])
    yield "say_aloud", _row(
        DEFAULT_S2M_PROMPT,
        [request, _turn("assistant", AUDIO_TEMPLATE)],
        [spoken_answer(text, codes)],
    )


def make_rows(work: Path) -> None:
    """Write the rows of all stages and the ``dataset_info.json`` that LLaMA-Factory reads."""
    spoken = read_jsonl(work / "answers.jsonl")
    answers = [r for r in spoken if r["voice"] == VOICE and r["part"] == "train"]
    codes = {r["text"]: r["codes"] for r in answers}
    rows: list[tuple[str, dict[str, Any]]] = []
    for record in read_jsonl(work / "dialogues" / "train.jsonl"):
        rows.extend(dialogue_rows(record, codes, work))
    for answer in answers:
        rows.extend(say_rows(answer["text"], answer["codes"]))
    folder = work / "rows"
    folder.mkdir(exist_ok=True)
    info = {}
    for stage, shares in STAGES.items():
        rng = Random(stage)
        chosen = [row for kind, row in rows if rng.random() < shares.get(kind, 0)]
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
