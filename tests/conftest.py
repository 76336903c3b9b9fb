# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Run tests on one thread (on tiny models, more only wait for one another); shared fixtures."""

import os

import pytest
import torch

from funaudiochat import cuda_graph, decoder_kernel
from tests.helpers.operation_recording import record

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)


@pytest.fixture(params=["kernel", "torch", "captured"])
def way(request, monkeypatch):
    """Decode by the compiled kernel, as where there is no compiler, and as on a CUDA GPU."""
    if request.param in ("torch", "captured"):
        monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)
        if request.param == "captured":
            monkeypatch.setattr(cuda_graph, "available", lambda device: True)
            monkeypatch.setattr(cuda_graph, "record", record)
    elif decoder_kernel.kernel() is None:
        pytest.skip("no C++ compiler")
    return request.param
