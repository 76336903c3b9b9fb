# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""``decoder_kernel.cpp``: compiled at first use for this processor, kept, and called by ctypes.

It knows nothing of torch, so that a compiler needs two seconds and no header of it; an extension
of ``torch.utils.cpp_extension`` would take half a minute and be bound to one release.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("decoder_kernel.cpp")
# Not -ffast-math: a library linked with it flushes denormals in the whole process.
FLAGS = (
    "-O3", "-march=native", "-fPIC", "-shared", "-Wno-psabi", "-fno-math-errno",
    "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
)  # fmt: skip
KINDS = {torch.float32: 0, torch.int16: 1, torch.int8: 2}  # int16 holds the bits of bfloat16
ROWS = 8  # more rows of a batch are matrix products, which torch's operators do better


class Matrix(ctypes.Structure):
    """Weights [rows, size]; int8 ones with a scale a row."""

    _fields_ = [
        ("weight", ctypes.c_void_p), ("scale", ctypes.c_void_p),
        ("rows", ctypes.c_int32), ("size", ctypes.c_int32), ("kind", ctypes.c_int32),
    ]  # fmt: skip

    @classmethod
    def of(cls, linear: Any) -> "Matrix":
        """Point to the weights of an ``nn.Linear`` or a ``CompactLinear``."""
        weight, scale = linear.weight, getattr(linear, "scale", None)
        return cls(address(weight), address(scale), *weight.shape, KINDS[weight.dtype])


class Layer(ctypes.Structure):
    """One layer of a :class:`Stack`."""

    _fields_ = [(name, Matrix) for name in ("qkv", "out", "gate_up", "down")] + [
        (name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")
    ]


class Head(ctypes.Structure):
    """The projections around the layers of the refined head."""

    _fields_ = [(name, Matrix) for name in ("input", "output", "tokens")]


class Choice(ctypes.Structure):
    """How the next speech tokens of one row are chosen."""

    _fields_ = [
        ("noise", ctypes.c_void_p), ("noise_stride", ctypes.c_int64),
        ("history", ctypes.c_void_p), ("history_size", ctypes.c_int64),
        *[(name, ctypes.c_int32) for name in ("elsewhere", "top_k")],
        *[(name, ctypes.c_float) for name in ("penalty", "temperature", "top_p", "min_p")],
    ]  # fmt: skip


class Row(ctypes.Structure):
    """Caches of one row; the row of a batch may have any length and room."""

    _fields_ = [
        ("caches", ctypes.POINTER(ctypes.c_void_p)), ("length", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
    ]  # fmt: skip


class Stack(ctypes.Structure):
    """Layers, their final norm and the rotary table.

    Attributes:
        table: keeps the cosines and sines in memory.
    """

    table: tuple[Tensor, Tensor]
    _fields_ = [
        ("layers", ctypes.POINTER(Layer)),
        *[(name, ctypes.c_void_p) for name in ("norm", "cosine", "sine")],
        *[(name, ctypes.c_int32) for name in ("count", "width", "heads", "key_heads", "head_size")],
        ("epsilon", ctypes.c_float),
        ("scaling", ctypes.c_float),
    ]


def address(tensor: Tensor | None) -> int | None:
    """Return the address of a contiguous tensor's data; the caller keeps the tensor alive."""
    if tensor is None:
        return None
    assert tensor.is_contiguous() and tensor.device.type == "cpu"
    return tensor.data_ptr()


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """Load the compiled kernel; return None, with a log message, if there is no compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        log.info("no C++ compiler (c++, g++ or $CXX): decoding uses PyTorch's operations")
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        log.warning("%s does not compile %s (%s): decoding uses PyTorch's operations",
                    compiler, SOURCE.name, said)  # fmt: skip
        return None
    library.run.argtypes = [
        ctypes.POINTER(Stack), ctypes.POINTER(Row), ctypes.c_void_p, *[ctypes.c_int32] * 3,
    ]  # fmt: skip
    library.choose_group.argtypes = [
        *map(ctypes.POINTER, (Stack, Head, Row, Choice)),
        *[ctypes.c_void_p] * 3, *[ctypes.c_int32] * 3,
    ]  # fmt: skip
    library.multiply.argtypes = [
        ctypes.POINTER(Matrix), *[ctypes.c_void_p] * 2, *[ctypes.c_int32] * 2,
    ]  # fmt: skip
    for function in (library.run, library.multiply):
        function.restype = None
    return library


def _built(compiler: str) -> Path:
    """Return the library compiled for this processor, compiling it if it is not cached."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True)
    parts = (SOURCE.read_text(), " ".join(FLAGS), version.stdout, _processor())
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "funaudiochat"
    built = cache / f"decoder_kernel-{name}.so"
    if built.exists():
        return built
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:  # several processes may compile at once
        partial = Path(folder) / built.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(partial)]
        try:
            subprocess.run([*command, "-fopenmp"], capture_output=True, text=True, check=True)
        except subprocess.CalledProcessError:  # Apple's compiler comes without OpenMP: one thread
            subprocess.run(command, capture_output=True, text=True, check=True)
        partial.replace(built)
    return built


def _processor() -> str:
    """Describe the processor, as a shared home folder may serve several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x for x in lines if x.startswith(("flags", "Features"))), platform.machine())
