# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Device names."""

from __future__ import annotations

import torch

from funaudiochat.errors import FunAudioChatError


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first of CUDA, MPS and CPU that is there.

    Raises:
        FunAudioChatError: no such device, or not on this machine.
    """
    if device == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device_ = torch.device(device)
        torch.empty(1, device=device_)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FunAudioChatError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); take auto, cpu, "
            "cuda, cuda:N or mps; `funaudiochat doctor` lists what there is"
        ) from error
    return device_
