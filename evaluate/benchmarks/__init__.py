# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The benchmarks, in the order of the paper's tables."""

from evaluate.benchmarks import (
    common_voice,
    duplex,
    librispeech,
    mmau,
    mmau_pro,
    mmsu,
    openaudiobench,
    speech_fc,
    ultraeval_audio,
    voicebench,
    vstyle,
)
from evaluate.core import Benchmark, Subset
from funaudiochat.errors import FunAudioChatError

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        openaudiobench.BENCHMARK,
        voicebench.BENCHMARK,
        ultraeval_audio.BENCHMARK,
        mmau.BENCHMARK,
        mmau_pro.BENCHMARK,
        mmsu.BENCHMARK,
        librispeech.BENCHMARK,
        common_voice.BENCHMARK,
        speech_fc.BENCHMARK,
        vstyle.BENCHMARK,
        duplex.BENCHMARK,
    )
}


def select(names: str) -> list[tuple[Benchmark, Subset]]:
    """Select subsets by a comma-separated list of ``NAME``, ``NAME/SUBSET`` or ``all``.

    Raises:
        FunAudioChatError: a name is unknown; the message lists the known ones.
    """
    chosen: dict[tuple[str, str], tuple[Benchmark, Subset]] = {}
    for name in names.split(","):
        first, _, second = name.strip().partition("/")
        found = [
            (benchmark, subset)
            for benchmark in BENCHMARKS.values()
            for subset in benchmark.subsets
            # `all` excludes the duplex sets, as there is no duplex model yet.
            if (first == "all" and not benchmark.duplex or benchmark.name == first)
            and second in ("", subset.name)
        ]
        if not found:
            known = ", ".join(BENCHMARKS)
            subsets = BENCHMARKS[first].subsets if first in BENCHMARKS else ()
            if subsets:
                known = ", ".join(f"{first}/{subset.name}" for subset in subsets)
            raise FunAudioChatError(
                f"unknown benchmark {name.strip()!r}; known benchmarks: {known}"
            )
        chosen |= {(pair[0].name, pair[1].name): pair for pair in found}
    return list(chosen.values())
