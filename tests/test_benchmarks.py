# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The module calls that the benchmark of decoding takes for a step's own are those of a step."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import generation  # noqa: E402
from common import chat_model  # noqa: E402


def test_bare_calls_run_what_the_decode_loop_runs(monkeypatch):
    monkeypatch.setattr(generation, "STEPS", 4)
    model, inputs = chat_model(), generation.prompt(1)
    rows, speech = generation.generate(model, inputs, generation.options(True))
    seen = []
    for name, module in (
        ("backbone", model.language_model.model), ("head", model.audio_invert_tower.crq_transformer)
    ):
        module.register_forward_hook(
            lambda _, __, out, name=name: seen.append((name, out.last_hidden_state.shape))
        )
    generation.decode_loop(model, inputs)
    expected = seen[:]
    seen.clear()
    generation.bare_calls(model, inputs, rows, speech[0])
    assert len(seen) == 4 * (1 + 5) and seen == expected
