# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Checks of `funaudiochat doctor`."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from funaudiochat.cosyvoice3.voices import installed_voices
from funaudiochat.errors import FunAudioChatError
from funaudiochat.hub import (
    IN_CHECKOUT,
    NANO_MODEL,
    NANO_TTS,
    REPOSITORIES,
    missing_files,
    models_folder,
    resolve_tts,
)

_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "soundfile",
    "soxr",
    "onnxruntime",
    "kaldi-native-fbank",
)
# Only some options need these.
_OPTIONAL = {"accelerate": "device_map", "bitsandbytes": "8-bit and 4-bit weights"}
# transformers imports these when they are present, and then fails if they are broken.
_HARMFUL_WHEN_BROKEN = ("torchaudio", "torchvision", "torchcodec")


@dataclass(frozen=True)
class Finding:
    """One line of the report; an empty ``remedy`` means that nothing is wrong."""

    what: str
    found: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Yield versions, devices, memory, checkpoints and voices, with a remedy for each problem."""
    yield Finding("Python", platform.python_version())
    for name in _PACKAGES:
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", f"pip install {name}")
    for name, use in _OPTIONAL.items():
        try:
            yield Finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, f"missing; only needed for {use} (pip install {name})")
    yield from _devices()
    for name in _HARMFUL_WHEN_BROKEN:
        yield from _import_check(name)
    for repository in REPOSITORIES.values():
        folder = models_folder() / repository.name
        if not folder.is_dir():
            yield Finding(repository.name, "not found", "funaudiochat download")
        elif missing := missing_files(repository, folder):
            yield Finding(
                repository.name,
                f"{folder} without {', '.join(missing)}",
                "funaudiochat download, which resumes where it stopped",
            )
        else:
            yield Finding(repository.name, str(folder))
    if IN_CHECKOUT:
        for folder in (NANO_MODEL, NANO_TTS):
            found = folder.is_dir()
            remedy = "" if found else "git checkout pretrained_models"
            yield Finding(folder.name, str(folder) if found else "not found", remedy)
    for variable in ("FUNAUDIOCHAT_MODEL", "FUNAUDIOCHAT_TTS"):
        if named := os.environ.get(variable):
            remedy = "" if os.path.isdir(named) else f"set {variable} to a folder, or unset it"
            yield Finding(variable, named, remedy)
    try:
        folder = resolve_tts(None)
        yield Finding("voices", f"{', '.join(installed_voices(folder))} ({folder.name})")
    except FunAudioChatError as error:
        yield Finding("voices", "none", str(error))


def _devices() -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("CPU", f"{os.cpu_count()} cores, {memory:.0f} GiB of memory")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        total = properties.total_memory / 2**30
        yield Finding(
            f"cuda:{index}",
            f"{properties.name}, {total:.0f} GiB",
            ""
            if total > 23
            else "the 8B checkpoint needs 24 GiB; use device_map or 8-bit weights "
            "(pip install accelerate bitsandbytes)",
        )
    if not torch.cuda.is_available():
        found = "none; Apple MPS" if torch.backends.mps.is_available() else "none"
        yield Finding("CUDA", found)


def _import_check(name: str) -> Iterator[Finding]:
    """Try an import in a separate process, since a broken extension may crash it."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(name, f"{version}, broken: {reason}", f"pip uninstall {name}")
    else:
        yield Finding(name, f"{version} (not needed)")
