# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""How many sessions this machine can answer at once in real time, by a measurement."""

import time

from funaudiochat.events import SpeechTokens
from funaudiochat.sampling import Sampling
from web_demo.server.engine import Engine
from web_demo.server.opus import REPLY_RATE_HZ

UNMEASURED_SESSIONS = 4
MOST_SESSIONS = 64
SHARE = 0.9  # of the machine; voice detection and Opus take the rest
QUESTION = "Please count from one to ten."
WARM_UP_STEPS, STEPS = 5, 25  # at 5 Hz


async def measure_real_time_factor(engine: Engine) -> float | None:
    """Answer a question alone, after a shorter answer that warms caches and kernels up.

    Returns:
        Seconds of work for a second of audio; None where answers hold no audio.
    """
    if engine.models.detokenizer is None:
        return None
    await _answer(engine, WARM_UP_STEPS)
    began = time.monotonic()
    audio_s = await _answer(engine, STEPS)
    return (time.monotonic() - began) / audio_s if audio_s else None


async def _answer(engine: Engine, steps: int) -> float:
    """Make one answer as a turn does -> seconds of audio."""
    chat = engine.models.new_chat()
    sampling = Sampling(max_new_tokens=steps)
    job = engine.submit(lambda: chat.stream(QUESTION, sampling=sampling))
    samples = 0
    try:
        voice = await engine.voice(job, engine.models.begin_voice, None)
        async for event in job:
            if isinstance(event, SpeechTokens):
                samples += len(await engine.voice(job, voice.push, event.spoken))
        samples += len(await engine.voice(job, voice.finish))
    finally:
        job.cancel()
    return samples / REPLY_RATE_HZ


def sessions_for(real_time_factor: float | None) -> int:
    """Return how many can all be answered at the same time; one always is admitted."""
    if real_time_factor is None:
        return UNMEASURED_SESSIONS
    return max(1, min(MOST_SESSIONS, int(SHARE / real_time_factor)))
