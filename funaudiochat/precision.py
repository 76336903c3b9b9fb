# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Compute in float32 whatever precision the caller's code around it asks for."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def float32_only() -> Iterator[None]:
    """Suspend autocast, and make float32 the default dtype, for a block or a decorated function.

    Meant for computations that are float32 by design: audio features, and the detokenizer, whose
    noise is drawn in the default dtype. Do not use it on generator functions, as the default dtype
    belongs to the whole process.
    """
    devices = {"cpu"}
    if (accelerator := torch.accelerator.current_accelerator()) is not None:
        devices.add(accelerator.type)
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in devices:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if default != torch.float32:
            stack.callback(torch.set_default_dtype, default)
            torch.set_default_dtype(torch.float32)
        yield
