# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Draw assets/architecture.png: `pip install matplotlib && python assets/draw_architecture.py`."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

BOXES = {  # name: (x, y, width, height, colour, text)
    "wave": (0.0, 3.2, 1.7, 0.8, "#f3f3f3", "question\n16 kHz audio"),
    "mel": (2.3, 3.2, 2.2, 0.8, "#dbe9f6", "mel encoder\n50 Hz to 25 Hz"),
    "codes": (2.3, 1.6, 2.2, 0.8, "#dbe9f6", "token encoder\n25 Hz tokens"),
    "group": (5.1, 2.4, 1.8, 0.8, "#dbe9f6", "mean of five\n5 Hz vectors"),
    "llm": (7.5, 2.0, 2.2, 1.6, "#fbe3c8", "shared LLM\n5 Hz"),
    "text": (10.4, 3.2, 1.9, 0.8, "#f3f3f3", "text"),
    "head": (10.4, 1.6, 1.9, 0.8, "#dff0d8", "refined head\nfive tokens a step"),
    "tts": (10.4, 0.0, 1.9, 0.9, "#dff0d8", "CosyVoice3\nflow and HiFT"),
    "sound": (7.5, 0.0, 2.2, 0.9, "#f3f3f3", "answer\n24 kHz audio"),
}
ARROWS = [
    ((1.7, 3.6), (2.3, 3.6)),
    ((4.5, 3.6), (5.1, 3.0)),
    ((4.5, 2.0), (5.1, 2.6)),
    ((6.9, 2.8), (7.5, 2.8)),
    ((9.7, 3.3), (10.4, 3.6)),
    ((9.7, 2.3), (10.4, 2.0)),
    ((11.35, 1.6), (11.35, 0.9)),
    ((10.4, 0.45), (9.7, 0.45)),
]

figure, axes = plt.subplots(figsize=(10, 3.8), dpi=110)
for x, y, width, height, colour, text in BOXES.values():
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.03", fc=colour, ec="#555555")
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)
for start, stop in ARROWS:
    axes.annotate("", stop, start, arrowprops={"arrowstyle": "->", "color": "#555555"})
axes.plot([10.9, 10.9, 3.4], [1.6, 1.25, 1.25], color="#999999")
axes.annotate("", (3.4, 1.6), (3.4, 1.23), arrowprops={"arrowstyle": "->", "color": "#999999"})
axes.text(3.6, 1.0, "(text + speech) / 2 of the last step", color="#777777", fontsize=8)
axes.set(xlim=(-0.1, 12.5), ylim=(-0.2, 4.2))
axes.axis("off")
figure.savefig(Path(__file__).with_name("architecture.png"), bbox_inches="tight")
