# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Small synthetic data in the layout of every benchmark: ``python -m evaluate.mini_data DIR``.

The questions are synthesised by espeak-ng or flite; if neither is installed they are tones, which
suffices to run everything. ``judge.jsonl`` and ``transcripts.jsonl`` contain made-up judge replies
and transcripts, so that every score can be computed. Scores on this data say nothing about a model.
"""

import csv
import io
import json
import shutil
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from evaluate.benchmarks import BENCHMARKS
from evaluate.scorers.vstyle import WEIGHTS
from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ

_QUESTIONS = (
    ("What is the capital of France?", "Paris"),
    ("How many legs does a spider have?", "eight"),
    ("Which planet is called the red planet?", "Mars"),
)
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "dict",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


@cache
def speak(text: str, language: str = "en") -> np.ndarray:
    """Synthesise a text as mono float32 [S] at 16 kHz; without a synthesiser, as a tone."""
    if shutil.which("espeak-ng"):
        voice = "cmn" if language == "zh" else "en"
        command = ["espeak-ng", "-v", voice, "--stdout", text]
        done = subprocess.run(command, capture_output=True, check=True)
        return load_audio(done.stdout, INPUT_RATE_HZ)
    if shutil.which("flite") and language == "en":
        command = ["flite", "-t", text, "-o", "/dev/stdout"]
        done = subprocess.run(command, capture_output=True, check=True)
        return load_audio(done.stdout, INPUT_RATE_HZ)
    seconds = np.arange(int(INPUT_RATE_HZ * (0.5 + 0.05 * len(text)))) / INPUT_RATE_HZ
    pitch_hz = 150 + zlib.crc32(text.encode()) % 200
    return (0.3 * np.sin(2 * np.pi * pitch_hz * seconds)).astype(np.float32)


def _write_audio(path: Path, text: str, language: str = "en") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speak(text, language), INPUT_RATE_HZ)


def _embedded(text: str) -> dict[str, Any]:
    file = io.BytesIO()
    soundfile.write(file, speak(text), INPUT_RATE_HZ, format="WAV")
    return {"bytes": file.getvalue(), "path": None}


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def _voicebench(root: Path) -> None:
    folder = root / "voicebench"
    options = "What is two plus two? A: three. B: four. C: five. D: six."
    for name in ("alpacaeval_full", "commoneval", "advbench"):
        rows = [{"prompt": q, "audio": _embedded(q)} for q, _ in _QUESTIONS]
        _parquet(folder / name / "test-00000.parquet", rows)
    rows = [{"prompt": q, "audio": _embedded(q), "reference": a} for q, a in _QUESTIONS]
    _parquet(folder / "sd-qa" / "usa-00000.parquet", rows)
    _parquet(folder / "sd-qa" / "aus-00000.parquet", rows)  # another region, which must not be read
    rows = [{"prompt": options, "audio": _embedded(options), "reference": "B"}] * 2
    _parquet(folder / "openbookqa" / "test-00000.parquet", rows)
    for domain in ("law", "physics"):
        _parquet(folder / "mmsu" / f"{domain}-00000.parquet", rows[:1])
    prompt = "Name three colours without a comma."
    kwargs = {"num_words": None, "relation": None, "keywords": None}
    _parquet(
        folder / "ifeval" / "test-00000.parquet",
        [
            {
                "prompt": prompt,
                "audio": _embedded(prompt),
                "key": 1,
                "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
                "kwargs": [kwargs, {**kwargs, "num_words": 3, "relation": "at least"}],
            }
        ],
    )


def _openaudiobench(root: Path) -> None:
    columns = {
        "alpaca_eval": ("instruction", "output"),
        "llama_questions": ("Questions", "Answer"),
        "reasoning_qa": ("Prompt", "参考答案"),
        "trivia_qa": ("question", "answer_normalized_aliases"),
        "web_questions": ("question", "answers"),
    }
    for name, (question, answer) in columns.items():
        folder = root / "OpenAudioBench" / "eval_datas" / name
        (folder / "audios").mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow([question, answer, "audio_filename"])
            for number, (text, reference) in enumerate(_QUESTIONS):
                table.writerow([text, str([reference]), f"{number}.mp3"])
                soundfile.write(folder / "audios" / f"{number}.mp3", speak(text), INPUT_RATE_HZ)


def _ultraeval(root: Path) -> None:
    from evaluate.benchmarks.ultraeval_audio import SETS

    for name, _, repository, (question, answer), _ in SETS:
        rows = [
            {question: q, answer: [a] if name == "web_questions" else a, "audio": _embedded(q)}
            for q, a in _QUESTIONS
        ]
        _parquet(root / "UltraEval-Audio" / repository / "data" / "test-00000.parquet", rows)


def _mmau(root: Path) -> None:
    rows = [
        {
            "id": f"mini-{i}",
            "audio_id": f"./test-mini-audios/mini-{i}.wav",
            "question": "What is heard?",
            "choices": ["A dog", "A person", "A car"],
            "answer": "A person",
            "task": "speech",
            "difficulty": "easy",
        }
        for i in range(2)
    ]
    for i, (text, _) in enumerate(_QUESTIONS[:2]):
        _write_audio(root / "MMAU" / "test-mini-audios" / f"mini-{i}.wav", text)
    text = json.dumps(rows, indent=1)
    (root / "MMAU" / "mmau-test-mini.json").write_text(text, encoding="utf-8")


def _mmau_pro(root: Path) -> None:
    folder = root / "MMAU-Pro"
    common: dict[str, Any] = {"kwargs": "{}", "task_identifier": None, "choices": None}
    rows: list[dict[str, Any]] = [
        {
            **common,
            "id": "closed",
            "category": "speech",
            "question": "Who speaks?",
            "choices": ["A dog", "A person"],
            "answer": "A person",
        },
        {
            **common,
            "id": "open",
            "category": "open",
            "question": "Describe it.",
            "answer": "a question",
        },
        {
            **common,
            "id": "follow",
            "category": "instruction following",
            "question": "Answer without commas.",
            "answer": "",
            "task_identifier": "No Commas",
        },
        {**common, "id": "two files", "category": "speech", "question": "?", "answer": ""},
    ]
    for row in rows:
        name = f"data/{row['id'].replace(' ', '-')}.wav"
        row["audio_path"] = [name] * (2 if row["id"] == "two files" else 1)
        _write_audio(folder / name, _QUESTIONS[0][0])
    _parquet(folder / "test.parquet", rows)


def _mmsu(root: Path) -> None:
    rows = [
        {
            "id": f"mini_{i}",
            "audio_path": f"audio/mini_{i}.wav",
            "task_name": "intonation",
            "question": "How does the tone move?",
            "choice_a": "rising",
            "choice_b": "falling",
            "answer_gt": "rising",
            "category": "Perception",
        }
        for i in range(2)
    ]
    for i in range(2):
        _write_audio(root / "MMSU" / "audio" / f"mini_{i}.wav", _QUESTIONS[i][0])
    _json_lines(root / "MMSU" / "mmsu.jsonl", rows)


def _recognition(root: Path) -> None:
    for name in ("test-clean", "test-other"):
        folder = root / "LibriSpeech" / name / "1" / "2"
        lines = []
        for number, (text, _) in enumerate(_QUESTIONS[:2]):
            _write_audio(folder / f"1-2-{number:04d}.flac", text)
            lines.append(f"1-2-{number:04d} {text.rstrip('?').upper()}\n")
        (folder / "1-2.trans.txt").write_text("".join(lines), encoding="utf-8")
    for language, text in (("en", "The weather is fine."), ("zh", "今天天气很好。")):
        folder = root / "CommonVoice" / language
        _write_audio(folder / "clips" / "mini.wav", text, language)
        (folder / "test.tsv").write_text(
            f"client_id\tpath\tsentence\nx\tmini.wav\t{text}\n", encoding="utf-8"
        )


def _speech_fc(root: Path) -> None:
    request = "What is the weather in Paris for two days?"
    for subset in BENCHMARKS["speech-fc"].subsets:
        folder = root / "SpeechFCEval" / subset.name
        expected: Any = [{"get_weather": {"city": ["Paris"], "days": [2, ""]}}]
        if "ACEBench" in subset.name:
            expected = {"get_weather": {"city": "Paris", "days": 2}}
        rows = []
        for number in range(2):
            _write_audio(folder / "wav" / f"{number}.wav", request)
            rows.append(
                {
                    "utterance": request,
                    "file_name": f"wav/{number}.wav",
                    "function": json.dumps([_TOOL]),
                    "time": "",
                    "ground_truth": json.dumps(expected),
                    "category": subset.name,
                    "dataset_key": f"mini_{number}",
                }
            )
        _json_lines(folder / "metadata.jsonl", rows)


def _vstyle(root: Path) -> None:
    texts = {"en": "Please say hello in a happy voice.", "zh": "请用开心的语气说你好。"}
    for language, text in texts.items():
        rows = []
        for number, ability in enumerate(WEIGHTS):
            _write_audio(root / "VStyle" / language / "wav" / f"{number}.wav", text, language)
            rows.append(
                {
                    "id": f"{language}-{number}",
                    "instruct_id": number,
                    "ability": ability,
                    "instruct_text": text,
                    "file_name": f"wav/{number}.wav",
                }
            )
        _json_lines(root / "VStyle" / language / "metadata.jsonl", rows)


def _duplex(root: Path) -> None:
    for subset in BENCHMARKS["duplex"].subsets:
        folder = root / "duplex" / subset.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, (question, answer) in enumerate(_QUESTIONS[:2]):
            spoken = speak(question)
            padded = np.concatenate([spoken, np.zeros(5 * INPUT_RATE_HZ, np.float32)])
            soundfile.write(folder / f"{number}.flac", padded, INPUT_RATE_HZ)
            rows.append(
                {
                    "file_name": f"{number}.flac",
                    "question": question,
                    "answer": [answer],
                    "user_end_s": round(len(spoken) / INPUT_RATE_HZ, 3),
                }
            )
        _json_lines(folder / "metadata.jsonl", rows)


# Possible judge replies for each prompt: a good and a bad one.
_JUDGED = {
    "rating_1_to_5": ("5", "2"),
    "same_answer": ("yes", "no"),
    "chosen_option": ("It is that option.\nResult: yes", "It is another.\nResult: no"),
    "rating_1_to_10": ("Rating: [[9]]", "Rating: [[3]]"),
    "score_is_correct": ("The score is [Correct]", "The score is [Incorrect]"),
    "grade_0_to_5": ("得分是[5]", "得分是[1]"),
    "judgment_json": (
        '{"analysis": "same", "judgment": "correct"}',
        '{"analysis": "another", "judgment": "incorrect"}',
    ),
    "open_answer": ("OVERALL: 4", "OVERALL: 2"),
    "vstyle": ("Lively. [[4]]", "Flat. [[2]]"),
}
_PROMPT_OF_SET = {
    "alpaca_eval": "rating_1_to_10",
    "llama_questions": "score_is_correct",
    "reasoning_qa": "grade_0_to_5",
    "trivia_qa": "judgment_json",
    "web_questions": "judgment_json",
    "alpacaeval_full": "rating_1_to_5",
    "commoneval": "rating_1_to_5",
    "sd-qa": "same_answer",
}
_PROMPT_OF_BENCHMARK = {"vstyle": "vstyle", "mmau-pro": "open_answer", "mmau": "chosen_option"}


def _recorded(root: Path) -> None:
    """Write made-up judge replies and transcripts for every item."""
    replies, transcripts = [], []
    for benchmark in BENCHMARKS.values():
        for subset in benchmark.subsets:
            prompt = _PROMPT_OF_SET.get(
                subset.name, _PROMPT_OF_BENCHMARK.get(benchmark.name, "chosen_option")
            )
            for item in subset.load(root / benchmark.folder):
                key = {"benchmark": benchmark.name, "subset": subset.name, "id": item.id}
                replies.append({**key, "reply": _JUDGED[prompt][item.index % 2]})
                if benchmark.speech:
                    reference = item.fields.get("references", "hello")
                    first = reference[0] if isinstance(reference, list) else reference
                    text = f"I think it is {first}." if item.index % 2 == 0 else "I do not know."
                    transcripts.append({**key, "text": text})
    _json_lines(root / "judge.jsonl", replies)
    _json_lines(root / "transcripts.jsonl", transcripts)


def build(root: Path) -> Path:
    """Write all data below ``root`` and return ``root``."""
    for write in (
        _voicebench,
        _openaudiobench,
        _ultraeval,
        _mmau,
        _mmau_pro,
        _mmsu,
        _recognition,
        _speech_fc,
        _vstyle,
        _duplex,
        _recorded,
    ):
        write(root)
    return root


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m evaluate.mini_data DIR")
    print(build(Path(sys.argv[1])))
