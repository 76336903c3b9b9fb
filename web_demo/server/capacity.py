# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Measure how many sessions this machine can serve at once in real time."""

import time

from funaudiochat.constants import OUTPUT_RATE_HZ
from funaudiochat.events import AudioChunk
from funaudiochat.sampling import Sampling
from web_demo.server.engine import Engine

UNMEASURED_SESSIONS = 4
MAX_SESSIONS = 64
SHARE = 0.9  # of the machine; voice detection and Opus need the rest
QUESTION = "Please count from one to ten."
WARM_UP_STEPS, STEPS = 5, 25  # at 5 Hz


async def measure_real_time_factor(engine: Engine) -> float | None:
    """Answer one question, after a shorter reply that warms up caches and kernels.

    Returns:
        Seconds of work per second of audio; None if replies are text only.
    """
    if engine.models.detokenizer is None:
        return None
    await _answer(engine, WARM_UP_STEPS)
    began = time.monotonic()
    audio_s = await _answer(engine, STEPS)
    return (time.monotonic() - began) / audio_s if audio_s else None


async def _answer(engine: Engine, steps: int) -> float:
    """Generate one reply as a turn does; return its seconds of audio."""
    chat = engine.models.new_chat()
    sampling = Sampling(max_new_tokens=steps)
    job = engine.submit(lambda: chat.stream(text=QUESTION, sampling=sampling))
    samples = 0
    try:
        async for event in engine.events(job, speech=True):
            if isinstance(event, AudioChunk):
                samples += len(event.samples)
    finally:
        job.cancel()
    return samples / OUTPUT_RATE_HZ


def sessions_for(real_time_factor: float | None) -> int:
    """Return how many sessions can be served at the same time, at least one."""
    if real_time_factor is None:
        return UNMEASURED_SESSIONS
    return max(1, min(MAX_SESSIONS, int(SHARE / real_time_factor)))
