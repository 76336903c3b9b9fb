# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Figures for Prometheus."""

import asyncio
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_STAGE_BUCKETS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_RTF_BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.2, 1.5, 2, 5)


class Metrics:
    """One server's own registry, so that several can live in a process.

    Args:
        sessions, queue, jobs: give the present numbers.
    """

    def __init__(
        self, sessions: Callable[[], int], queue: Callable[[], int], jobs: Callable[[], int]
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for name, what, value in (
            ("sessions", "Talks going on", sessions),
            ("queue_length", "Talkers waiting for a place", queue),
            ("jobs", "Answers in the making", jobs),
            ("threads", "Threads of the process", threading.active_count),
            ("tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks())),
        ):
            Gauge(f"funaudiochat_{name}", what, registry=self.registry).set_function(value)
        self.turns = self._counter("turns", "Turns by how they ended", "reason")
        self.cancels = self._counter("cancels", "Answers cancelled, by cause", "cause")
        self.errors = self._counter("errors", "Errors by code", "code")
        self.ignored = self._counter("ignored_messages", "Messages without meaning", "why")
        self.feedback = self._counter("feedback", "Ratings", "value")
        self.stages = Histogram(
            "funaudiochat_stage_seconds",
            "From the end of the question to first text, codes and sound",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.first_sound = Histogram(
            "funaudiochat_first_sound_seconds",
            "From the end of the question to the first sound message",
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.real_time_factor = Histogram(
            "funaudiochat_real_time_factor",
            "Seconds the models worked for a second of sound",
            buckets=_RTF_BUCKETS,
            registry=self.registry,
        )

    def _counter(self, name: str, what: str, label: str) -> Counter:
        return Counter(f"funaudiochat_{name}", what, [label], registry=self.registry)
