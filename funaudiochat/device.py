# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Resolution of device names."""

from __future__ import annotations

import torch

from funaudiochat.errors import FunAudioChatError


def resolve_device(device: str) -> torch.device:
    """Return the device of a name; ``auto`` is the first available of CUDA, MPS and CPU.

    Raises:
        FunAudioChatError: there is no such device on this machine.
    """
    if device == "auto":
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device_ = torch.device(device)
        torch.empty(1, device=device_)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FunAudioChatError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); use auto, cpu, "
            "cuda, cuda:N or mps; `funaudiochat doctor` lists the devices of this machine"
        ) from error
    return device_
