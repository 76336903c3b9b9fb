# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Metrics for Prometheus."""

import asyncio
import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_STAGE_BUCKETS_S = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_RTF_BUCKETS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1, 1.2, 1.5, 2, 5)


class Metrics:
    """The metrics of one server, in a registry of their own: a process may run several.

    Args:
        sessions, queue, jobs: return the current numbers.
    """

    def __init__(
        self, sessions: Callable[[], int], queue: Callable[[], int], jobs: Callable[[], int]
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        for name, what, value in (
            ("sessions", "Open sessions", sessions),
            ("queue_length", "Connections waiting for a session", queue),
            ("jobs", "Replies being generated", jobs),
            ("threads", "Threads of the process", threading.active_count),
            ("tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks())),
        ):
            Gauge(f"funaudiochat_{name}", what, registry=self.registry).set_function(value)
        self.turns = self._counter("turns", "Turns by how they ended", "reason")
        self.cancels = self._counter("cancels", "Replies interrupted, by cause", "cause")
        self.errors = self._counter("errors", "Errors by code", "code")
        self.ignored = self._counter("ignored_messages", "Messages ignored, by reason", "why")
        self.feedback = self._counter("feedback", "Ratings", "value")
        self.stages = Histogram(
            "funaudiochat_stage_seconds",
            "Latency from the end of the question to the first text, speech tokens and audio",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.first_audio = Histogram(
            "funaudiochat_first_audio_seconds",
            "First-audio latency, from the end of the question",
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.real_time_factor = Histogram(
            "funaudiochat_real_time_factor",
            "Seconds of model work per second of audio",
            buckets=_RTF_BUCKETS,
            registry=self.registry,
        )

    def _counter(self, name: str, what: str, label: str) -> Counter:
        return Counter(f"funaudiochat_{name}", what, [label], registry=self.registry)
