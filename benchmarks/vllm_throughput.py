# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Text answers to spoken questions: ``vllm serve`` against our own batch, both on this machine.

    python benchmarks/vllm_throughput.py --model-path FOLDER [--url URL] [AUDIO ...]

AUDIO are files, folders or JSONL of dialogues; without any, questions are synthesised here. Every
answer has the same number of tokens (ends are ignored on both sides). The server gets its requests
over HTTP with the audio inline, with a fixed number in flight; our batch is one ``generate`` over
as many rows, in this process, mel features included. Without ``--url`` a server is started for the
folder, and stopped before our batch is timed; one that is given has to be idle, but takes memory
and cores beside ours. Needs the environment of ``requirements-vllm.txt``.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from openai import AsyncOpenAI  # noqa: E402

from funaudiochat.chat_protocol import audio_part  # noqa: E402
from funaudiochat.constants import DEFAULT_S2T_PROMPT  # noqa: E402
from funaudiochat.generation_funaudiochat import generate  # noqa: E402
from funaudiochat.generation_options import GenerationOptions  # noqa: E402
from funaudiochat.voice_chat import VoiceChat  # noqa: E402
from tests.serving.builders import QUESTIONS  # noqa: E402
from tests.serving.compare import RATE_HZ, prompt_of, read_audio  # noqa: E402
from tests.serving.vllm_server import vllm_server  # noqa: E402

CONCURRENCY = (1, 8, 32)
TOKENS = 32  # per answer
NO_END = -1  # no token has this id


@dataclass
class Result:
    """Result of one run: answers per second and the median time to the first text."""

    answers_per_s: float
    first_text_ms: float | None = None


async def _ask_all(url: str, waveforms: list[np.ndarray], at_once: int) -> list[float]:
    """Return the seconds until the first text of every answer."""
    # Closed inside its loop; closing it later would fail because the loop has ended.
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600
    ) as client:
        model = (await client.models.list()).data[0].id
        places = asyncio.Semaphore(at_once)
        return await asyncio.gather(
            *(_ask(client, model, waveform, places) for waveform in waveforms)
        )


async def _ask(
    client: AsyncOpenAI, model: str, waveform: np.ndarray, places: asyncio.Semaphore
) -> float:
    messages = [
        {"role": "system", "content": DEFAULT_S2T_PROMPT},
        {"role": "user", "content": [audio_part(waveform)]},
    ]
    async with places:
        start, first = time.perf_counter(), None
        async with await client.chat.completions.create(
            model=model, messages=messages, temperature=0, max_tokens=TOKENS, stream=True,
            extra_body={"ignore_eos": True, "repetition_penalty": 1.0},
        ) as answer:  # fmt: skip
            async for chunk in answer:
                if first is None and chunk.choices and chunk.choices[0].delta.content:
                    first = time.perf_counter() - start
        return first or time.perf_counter() - start


def server_run(url: str, waveforms: list[np.ndarray], at_once: int) -> Result:
    """Ask all questions over HTTP with a number of requests in flight."""
    start = time.perf_counter()
    first = asyncio.run(_ask_all(url, waveforms, at_once))
    seconds = time.perf_counter() - start
    return Result(len(waveforms) / seconds, 1000 * statistics.median(first))


def batch_run(chat: VoiceChat, waveforms: list[np.ndarray], rows: int) -> Result:
    """Answer all questions in batches of a number of rows."""
    text = prompt_of(chat)
    chat.processor.tokenizer.padding_side = "left"
    options = GenerationOptions.from_config(
        chat.model.generation_config, text_greedy=True, disable_speech=True
    )
    options = replace(options, max_new_tokens=TOKENS, eos_token_ids=(NO_END,))
    start = time.perf_counter()
    for index in range(0, len(waveforms), rows):
        part = waveforms[index : index + rows]
        inputs = chat.processor(text=[text] * len(part), audio=part, return_tensors="pt")
        generate(chat.model, dict(inputs), options)
    return Result(len(waveforms) / (time.perf_counter() - start))


def best(run: Callable[[], Result], repeats: int) -> Result:
    """Return the fastest of several runs after one warm-up run."""
    run()
    return max((run() for _ in range(repeats)), key=lambda result: result.answers_per_s)


def main() -> None:
    """Run the command line described in the module's docstring."""
    parser = argparse.ArgumentParser(description="Throughput of vllm serve and of our own batch.")
    parser.add_argument(
        "audio", nargs="*", type=Path, help="audio files, folders, JSONL of dialogues"
    )
    parser.add_argument("--model-path", type=Path, required=True, help="folder to serve")
    parser.add_argument("--url", help="URL of a running server of that folder")
    parser.add_argument("--questions", type=int, default=32, help="questions per run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each measurement")
    args = parser.parse_args()
    waveforms = read_audio(args.audio, args.questions)
    log = QUESTIONS.parent / "benchmark.log"
    start_or_use = nullcontext(args.url) if args.url else vllm_server(args.model_path, log)
    with start_or_use as url:
        theirs = [best(partial(server_run, url, waveforms, n), args.repeats) for n in CONCURRENCY]
    chat = VoiceChat.from_pretrained(args.model_path, device="cpu")
    ours = [best(partial(batch_run, chat, waveforms, n), args.repeats) for n in CONCURRENCY]
    print(
        f"{len(waveforms)} questions, {sum(map(len, waveforms)) / RATE_HZ:.0f} s of audio, "
        f"{TOKENS} tokens an answer"
    )
    print(
        "| at once | vLLM, answers/s | first text, ms | vLLM, tokens/s "
        "| our batch, answers/s | our batch, tokens/s |\n|---|---|---|---|---|---|"
    )
    for count, server, own in zip(CONCURRENCY, theirs, ours, strict=True):
        print(
            f"| {count} | {server.answers_per_s:.2f} | {server.first_text_ms:.0f} "
            f"| {TOKENS * server.answers_per_s:.0f} | {own.answers_per_s:.2f} "
            f"| {TOKENS * own.answers_per_s:.0f} |"
        )


if __name__ == "__main__":
    main()
