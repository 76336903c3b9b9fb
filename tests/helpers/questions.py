# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""A spoken question, tools and settings that conversations are tested with."""

import numpy as np

from funaudiochat.sampling import Sampling

GREEDY = Sampling(greedy=True, max_new_tokens=12)

TOOLS = [{"name": "get_time", "parameters": {"type": "object", "properties": {}}}]


def question(seconds: float = 1.2, pitch_hz: float = 220.0):
    time = np.arange(int(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time)).astype(np.float32), 16000
