# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Does vLLM answer spoken questions with the tokens that this toolkit answers with?

    python tests/serving/compare.py --model-path FOLDER [--url URL] [AUDIO ...]

AUDIO are audio files, folders of them, or JSONL files of dialogues whose first question is spoken
(Nano's test questions); without any, fifty questions are spoken by ``hibari-tts``. vLLM's engine
runs in this process, or answers at ``--url``. Both sides are greedy. Where two answers part, the
tokens chosen there and the gap between their log-probabilities are printed, as each side has it:
a swap is rounding when both gaps are no larger than what the two sides' values differ by anyhow.
The command fails if one is not. Needs the environment of ``requirements-vllm.txt``.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from funaudiochat.audio import load_audio  # noqa: E402
from funaudiochat.chat_protocol import audio_part  # noqa: E402
from funaudiochat.constants import AUDIO_TEMPLATE, DEFAULT_S2T_PROMPT  # noqa: E402
from funaudiochat.generation_funaudiochat import generate  # noqa: E402
from funaudiochat.generation_options import GenerationOptions  # noqa: E402
from funaudiochat.voice_chat import VoiceChat  # noqa: E402
from tests.serving.builders import QUESTIONS, speak_questions  # noqa: E402
from tests.serving.vllm_server import ENVIRONMENT  # noqa: E402

RATE_HZ = 16000
NOISE = 1e-4  # of log-probabilities in float32, at most; seen are some 1e-5
_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
_AT_ONCE = 16


@dataclass(frozen=True)
class Answer:
    """Ids of a prompt and of its greedy answer.

    Attributes:
        top: of vLLM's answers, log-probabilities of each position's best tokens.
    """

    prompt: list[int]
    ids: list[int]
    top: tuple[dict[int, float], ...] = ()


@dataclass(frozen=True)
class Difference:
    """Where two answers part: index of the question and of the token, what each side chose.

    Attributes:
        own_gap, their_gap: by how much each side prefers its token, in log-probability.
    """

    question: int
    position: int
    own: int | None
    theirs: int | None
    own_gap: float
    their_gap: float

    @property
    def is_rounding(self) -> bool:
        """Neither side prefers its token by more than float noise."""
        return self.own_gap <= NOISE and self.their_gap <= NOISE


@dataclass(frozen=True)
class Comparison:
    """What fifty answers show.

    Attributes:
        prompts: how many prompts have the same ids.
        noise: largest difference of a token's two log-probabilities, after the same ids.
        margins: between vLLM's best two tokens, at every position.
    """

    answers: int
    prompts: int
    tokens: int
    noise: float
    margins: list[float]
    differences: list[Difference]

    @property
    def is_equal(self) -> bool:
        """The same prompts, scores that differ by float noise, answers that part only at ties."""
        return (
            self.prompts == self.answers
            and self.noise < NOISE
            and all(difference.is_rounding for difference in self.differences)
        )

    def __str__(self) -> str:
        equal = self.answers - len(self.differences)
        lines = [
            f"{self.prompts} of {self.answers} prompts have the same ids",
            f"{equal} of {self.answers} answers equal token for token ({self.tokens} tokens)",
            f"a token's log-probabilities differ by at most {self.noise:.1e}",
            f"the best two tokens are {min(self.margins):.1e} apart at the least, "
            f"{median(self.margins):.1e} in the median",
        ]
        lines += [
            f"question {d.question} parts at token {d.position}: ours {d.own} by {d.own_gap:.1e}, "
            f"theirs {d.theirs} by {d.their_gap:.1e}, "
            + ("rounding" if d.is_rounding else "NOT ROUNDING")
            for d in self.differences
        ]
        return "\n".join(lines)


def find_audio(sources: list[Path]) -> list[Path]:
    """List audio files, those of folders, and the first questions of JSONL files of dialogues."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += sorted(p for p in source.rglob("*") if p.suffix.lower() in _SUFFIXES)
        elif source.suffix == ".jsonl":
            dialogues = map(json.loads, source.read_text().splitlines())
            named = [d["messages"][0]["audio"] for d in dialogues if "audio" in d["messages"][0]]
            # Nano's paths begin at the work folder, beside "dialogues".
            base = next(b for b in source.resolve().parents if not named or (b / named[0]).exists())
            found += [base / name for name in named]
        else:
            found.append(source)
    return found


def read_audio(sources: list[Path], count: int) -> list[np.ndarray]:
    """The first so many questions, 16 kHz [samples]; spoken here if there are no sources."""
    paths = find_audio(sources)[:count] if sources else speak_questions(QUESTIONS, count)
    return [load_audio(path, RATE_HZ) for path in paths]


def prompt_of(chat: VoiceChat) -> str:
    """A spoken question for a text answer, its audio still a placeholder."""
    turns = [
        {"role": "system", "content": DEFAULT_S2T_PROMPT},
        {"role": "user", "content": AUDIO_TEMPLATE},
    ]
    return chat.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)


def own_answers(chat: VoiceChat, waveforms: list[np.ndarray], max_tokens: int) -> list[Answer]:
    """This toolkit's answers, one by one."""
    options = GenerationOptions.from_config(
        chat.model.generation_config, text_greedy=True, disable_speech=True
    )
    options = replace(options, max_new_tokens=max_tokens)
    answers = []
    for waveform in waveforms:
        inputs = dict(chat.processor(text=prompt_of(chat), audio=[waveform], return_tensors="pt"))
        ids = generate(chat.model, inputs, options)[0][0].tolist()
        length = inputs["input_ids"].shape[1]
        answers.append(Answer(ids[:length], ids[length:]))
    return answers


def engine_answers(
    folder: Path, chat: VoiceChat, waveforms: list[np.ndarray], max_tokens: int
) -> list[Answer]:
    """Answers of vLLM's engine in this process, batched as its scheduler likes."""
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder), dtype="float32", enforce_eager=True, skip_mm_profiling=True,
        max_model_len=1024, limit_mm_per_prompt={"audio": 1},
    )  # fmt: skip
    prompts = [
        {"prompt": prompt_of(chat), "multi_modal_data": {"audio": (waveform, RATE_HZ)}}
        for waveform in waveforms
    ]
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, logprobs=2)
    answers = []
    for result in llm.generate(prompts, sampling, use_tqdm=False):
        (output,) = result.outputs
        top = tuple({k: v.logprob for k, v in each.items()} for each in output.logprobs)
        answers.append(Answer(list(result.prompt_token_ids), list(output.token_ids), top))
    return answers


def served_answers(url: str, waveforms: list[np.ndarray], max_tokens: int) -> list[Answer]:
    """Answers of ``vllm serve``, asked by the official client, many at once."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id

    def ask(waveform: np.ndarray) -> Answer:
        reply = client.chat.completions.create(
            model=model, temperature=0, max_tokens=max_tokens, logprobs=True, top_logprobs=2,
            messages=[
                {"role": "system", "content": DEFAULT_S2T_PROMPT},
                {"role": "user", "content": [audio_part(waveform)]},
            ],
            extra_body={
                "repetition_penalty": 1.0, "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            },
        )  # fmt: skip
        (choice,) = reply.choices
        top = tuple(
            {int(each.token.removeprefix("token_id:")): each.logprob for each in place.top_logprobs}
            for place in choice.logprobs.content
        )
        return Answer(reply.model_extra["prompt_token_ids"], choice.model_extra["token_ids"], top)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(ask, waveforms))


def scores_along(chat: VoiceChat, waveform: np.ndarray, answer: list[int]) -> torch.Tensor:
    """Our log-probabilities [T, V] at every position of an answer."""
    inputs = dict(chat.processor(text=prompt_of(chat), audio=[waveform], return_tensors="pt"))
    ids = torch.cat([inputs.pop("input_ids"), torch.tensor([answer])], dim=1)
    inputs.pop("attention_mask")
    with torch.no_grad():
        logits = chat.model(input_ids=ids, disable_speech=True, **inputs).logits[0]
    return logits[-len(answer) - 1 : -1].float().log_softmax(-1)


def compare(
    chat: VoiceChat, waveforms: list[np.ndarray], ours: list[Answer], theirs: list[Answer]
) -> Comparison:
    """Hold the answers to the same questions against each other."""
    noise, margins, differences = 0.0, [], []
    for index, (waveform, own, other) in enumerate(zip(waveforms, ours, theirs, strict=True)):
        scores = scores_along(chat, waveform, other.ids)
        for position, top in enumerate(other.top):
            for token, found in top.items():
                noise = max(noise, abs(float(scores[position, token]) - found))
            best = sorted(top.values(), reverse=True)
            margins.append(best[0] - best[1])
        if own.ids != other.ids:
            differences.append(_difference(index, own, other, scores))
    return Comparison(
        answers=len(ours),
        prompts=sum(a.prompt == b.prompt for a, b in zip(ours, theirs, strict=True)),
        tokens=sum(len(each.ids) for each in theirs),
        noise=noise,
        margins=margins,
        differences=differences,
    )


def _difference(index: int, own: Answer, other: Answer, scores: torch.Tensor) -> Difference:
    shared = min(len(own.ids), len(other.ids))
    position = next((n for n in range(shared) if own.ids[n] != other.ids[n]), shared)
    a, b = (ids[position] if position < len(ids) else None for ids in (own.ids, other.ids))
    if a is None or b is None:  # one side ended without a token that says so
        return Difference(index, position, a, b, float("inf"), float("inf"))
    top = other.top[position]
    # A token outside vLLM's best two is at least as far off as the second.
    their_gap = top[b] - top.get(a, min(top.values()))
    return Difference(
        index, position, a, b, float(scores[position, a] - scores[position, b]), their_gap
    )


def main() -> None:
    """Run the command line described in the module's docstring."""
    parser = argparse.ArgumentParser(description="Are vLLM's answers ours, token for token?")
    parser.add_argument(
        "audio", nargs="*", type=Path, help="audio files, folders, JSONL of dialogues"
    )
    parser.add_argument("--model-path", type=Path, required=True, help="folder to compare")
    parser.add_argument("--url", help="a server of that folder; default: the engine, in-process")
    parser.add_argument("--count", type=int, default=50, help="questions")
    parser.add_argument("--max-tokens", type=int, default=64, help="of an answer")
    args = parser.parse_args()
    chat = VoiceChat.from_pretrained(args.model_path, device="cpu")
    waveforms = read_audio(args.audio, args.count)
    if args.url:
        theirs = served_answers(args.url, waveforms, args.max_tokens)
    else:
        theirs = engine_answers(args.model_path, chat, waveforms, args.max_tokens)
    comparison = compare(chat, waveforms, own_answers(chat, waveforms, args.max_tokens), theirs)
    print(comparison)
    if not comparison.is_equal:
        sys.exit(1)


if __name__ == "__main__":
    main()
