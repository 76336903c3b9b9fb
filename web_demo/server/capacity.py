# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Measure how many sessions this machine can serve at once in real time."""

import asyncio
import time

from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.events import AudioChunk
from funaudiochat.sampling import Sampling
from web_demo.server.engine import Engine

UNMEASURED_SESSIONS = 4
MAX_SESSIONS = 64
SHARE = 0.9  # of the machine; voice detection and Opus need the rest
QUESTION = "Please count from one to ten."
ROUNDING = 1e-9  # of the floating-point interpolation
WARM_UP_STEPS, STEPS = 5, 25  # at 5 Hz


async def measure_capacity(engine: Engine) -> tuple[int, float | None]:
    """Measure how many sessions can all be answered at once, in real time.

    Twice as many sessions are measured each time, as long as the machine serves them; between the
    last two numbers the real-time factor is taken to grow evenly.

    Returns:
        The number of sessions, and the real-time factor of one; None if replies are text only.
    """
    alone = factor = await measure_real_time_factor(engine)
    if alone is None or factor is None:
        return UNMEASURED_SESSIONS, None
    sessions = 1
    while sessions < MAX_SESSIONS and factor < SHARE:
        twice = await measure_real_time_factor(engine, 2 * sessions)
        if twice is None:
            break
        if twice > SHARE:
            sessions += int(sessions * (SHARE - factor) / (twice - factor) + ROUNDING)
            break
        sessions, factor = 2 * sessions, twice
    return sessions, alone


async def measure_real_time_factor(engine: Engine, sessions: int = 1) -> float | None:
    """Answer one question in several sessions, after shorter replies that warm up the models.

    Returns:
        Seconds until all replies are complete per second of audio of each; None if replies are text
        only.
    """
    if engine.models.detokenizer is None:
        return None
    await _answer_all(engine, sessions, WARM_UP_STEPS)
    began = time.monotonic()
    audio_s = await _answer_all(engine, sessions, STEPS)
    return (time.monotonic() - began) / audio_s if audio_s else None


async def _answer_all(engine: Engine, sessions: int, steps: int) -> float:
    """Generate the same reply in every session; return the seconds of audio of each."""
    return max(await asyncio.gather(*(_answer(engine, steps) for _ in range(sessions))))


async def _answer(engine: Engine, steps: int) -> float:
    """Generate one reply as a turn does; return its seconds of audio."""
    chat = engine.models.new_chat()
    sampling = Sampling(max_new_tokens=steps, seed=0)  # replies of equal length
    job = engine.submit(lambda: chat.stream(text=QUESTION, sampling=sampling))
    samples = 0
    try:
        async for event in engine.events(job, speech=True):
            if isinstance(event, AudioChunk):
                samples += len(event.samples)
    finally:
        job.cancel()
    return samples / OUTPUT_RATE_HZ
