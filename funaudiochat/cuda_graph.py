# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Capture a function of CUDA operations, and launch it again as one graph.

Captured by hand rather than by ``torch.compile(mode="reduce-overhead")``: this takes two passes
instead of minutes, needs neither Triton nor a compiler, and a server's batches, whose caches come
and go with the replies, are captured again without compiling them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from funaudiochat.errors import FunAudioChatError

SWITCH = "FUNAUDIOCHAT_CUDA_GRAPHS"  # the environment variable that turns capturing off by 0


class CaptureError(FunAudioChatError):
    """An operation that the device's driver or library cannot capture."""


class Recording(Protocol):
    """A captured function."""

    output: Tensor

    def replay(self) -> None:
        """Compute the output from what its inputs hold now, at the same addresses."""


@dataclass
class _CudaRecording:
    graph: Any
    output: Tensor

    def replay(self) -> None:
        self.graph.replay()


def available(device: torch.device) -> bool:
    """Return whether functions of this device are to be captured."""
    return device.type == "cuda" and os.environ.get(SWITCH) != "0"


def record(function: Callable[[], Tensor], device: torch.device) -> Recording:
    """Capture a function of a CUDA device without running it.

    The function has run before, so that the libraries it uses are loaded. It must neither read
    from the device nor depend on anything but what is in tensors that outlive the recording.

    Raises:
        CaptureError: it cannot be captured.
    """
    graph: Any = torch.cuda.CUDAGraph()
    stream, before = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(before)
    try:
        with torch.cuda.stream(stream):
            # Other threads, such as the detokenizer's, use the device meanwhile.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                output = function()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        raise CaptureError(f"a CUDA graph could not be captured ({error})") from error
    before.wait_stream(stream)
    return _CudaRecording(graph, output)
