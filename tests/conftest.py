# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Run tests on one thread (on tiny models, more only wait for one another); shared fixtures."""

import os

import pytest
import torch

from funaudiochat import decoder_kernel

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)


@pytest.fixture(params=["kernel", "torch"])
def way(request, monkeypatch):
    """Decode by the compiled kernel, and as where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(decoder_kernel, "kernel", lambda: None)
    elif decoder_kernel.kernel() is None:
        pytest.skip("no C++ compiler")
    return request.param
