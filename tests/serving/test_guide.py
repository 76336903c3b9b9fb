# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The memory figures of ``docs/serving.md`` follow from the published sizes."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
GIB, BYTES_BF16 = 2**30, 2


def test_memory_of_the_8b_model():
    golden = ROOT / "tests" / "golden"
    sizes = json.loads((golden / "manifest_8b.json").read_text())
    text = json.loads((golden / "config_8b.json").read_text())["text_config"]
    served = sizes["total_parameters_unique"] - sizes["parameters_by_top_module"][
        "audio_invert_tower"
    ]
    weights = BYTES_BF16 * served
    position = BYTES_BF16 * 2 * text["num_hidden_layers"] * (
        text["num_key_value_heads"] * text["head_dim"]
    )
    row = (
        f"| 8B | {weights / GIB:.1f} GiB | {position // 1024} KiB a position "
        f"| {8192 * position / GIB:.1f} GiB |"
    )
    guide = (ROOT / "docs" / "serving.md").read_text()
    assert row in guide
    for memory_gib, positions in ((24, 20_000), (40, 120_000), (80, 367_000)):
        left = (0.85 * memory_gib - 1) * GIB - weights
        assert abs(left / position / positions - 1) < 0.05
        assert f"{positions:,}".replace(",", " ") in guide
