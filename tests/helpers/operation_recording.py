# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""What a CUDA graph does, on a CPU: repeat the same operations on the same memory."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# A captured stream cannot be waited for.
WAITING = (aten._local_scalar_dense.default, aten.nonzero.default, aten.is_nonzero.default)


class OperationRecording(TorchDispatchMode):
    """Notes every operation with its arguments, numbers and addresses alike, and its results."""

    def __init__(self, function):
        super().__init__()
        self._operations, self.replays = [], 0
        with self:
            self.output = function()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in WAITING:
            raise RuntimeError(f"{operation} is not permitted when a stream is captured")
        results = operation(*args, **(kwargs or {}))
        self._operations.append((operation, args, kwargs or {}, _tensors(results)))
        return results

    def replay(self):
        self.replays += 1
        for operation, args, kwargs, results in self._operations:
            fresh = _tensors(operation(*args, **kwargs))
            for old, new in zip(results, fresh, strict=True):
                if old.data_ptr() != new.data_ptr():  # else a view, or computed in place
                    old.copy_(new)


def _tensors(results):
    return [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]


def record(function, device):
    return OperationRecording(function)
