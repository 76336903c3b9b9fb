# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Detect voice activity with the network packaged in silero-vad."""

from importlib.resources import as_file, files

import numpy as np
import onnxruntime

from funaudiochat.constants import INPUT_RATE_HZ

WINDOW_SAMPLES = 512  # the network's input size: 32 ms at 16 kHz
_CONTEXT_SAMPLES = 64


def load_network() -> onnxruntime.InferenceSession | None:
    """Load the network, which all sessions share; return None if silero-vad is not installed.

    It runs in onnxruntime: the package's own loader keeps the state of a single stream.
    """
    try:
        weights = files("silero_vad.data") / "silero_vad.onnx"
    except ModuleNotFoundError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with as_file(weights) as path:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class VoiceActivity:
    """Computes speech probabilities for one microphone."""

    def __init__(self, network: onnxruntime.InferenceSession) -> None:
        self._network = network
        self.reset()

    def reset(self) -> None:
        """Reset to the beginning of a stream."""
        self._state = np.zeros((2, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._rest = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """Take 16 kHz samples [S]; return the windows they complete, each with its probability."""
        self._rest = np.concatenate([self._rest, samples])
        found = []
        while len(self._rest) >= WINDOW_SAMPLES:
            window, self._rest = self._rest[:WINDOW_SAMPLES], self._rest[WINDOW_SAMPLES:]
            seen = np.concatenate([self._context, window])[None]
            score, self._state = self._network.run(
                None, {"input": seen, "state": self._state, "sr": np.array(INPUT_RATE_HZ)}
            )
            self._context = window[-_CONTEXT_SAMPLES:]
            found.append((window, float(score[0, 0])))
        return found
