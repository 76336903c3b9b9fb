# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Voices: speaker vectors by name, and new ones from a prompt wave."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from funaudiochat.audio import load_audio
from funaudiochat.errors import VoiceError
from funaudiochat.hub import VOICES_FILE

DEFAULT_VOICE = "中文女"
SPEAKER_DIM = 192
VOICES_NAME, CAMPPLUS_NAME = "voices.safetensors", "campplus.onnx"  # in a detokenizer's folder
_SAMPLE_RATE_HZ = 16000
_REMEDY = (
    "get the default voice with `funaudiochat download --only voices`, or make one with "
    "`funaudiochat voices add NAME prompt.wav`"
)


def installed_voices(tts_path: str | Path) -> dict[str, Tensor]:
    """Voices of a detokenizer, name -> [192]: the downloaded ones and those of its folder.

    The downloaded voices are vectors of ``campplus.onnx``, so a folder that has voices but not
    that network keeps to its own.

    Raises:
        VoiceError: there are none, or a file is damaged.
    """
    own, files = Path(tts_path) / VOICES_NAME, []
    foreign = own.is_file() and not (Path(tts_path) / CAMPPLUS_NAME).is_file()
    if VOICES_FILE.is_file() and not foreign:
        files.append(VOICES_FILE)
    if own.is_file():
        files.append(own)
    if not files:
        raise VoiceError(f"no voice is installed; {_REMEDY}")
    return {name: vector for path in files for name, vector in load_voices(path).items()}


def load_voices(path: str | Path) -> dict[str, Tensor]:
    """Voices of a file, name -> [192].

    Reads safetensors and the original's ``new_spk2info.pt``, of which only ``embedding`` is used.

    Raises:
        VoiceError: missing or damaged, or a voice that is not 192 finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise VoiceError(f"voice file {path} not found; {_REMEDY}")
    try:
        stored: dict[str, Any]
        if path.suffix == ".safetensors":
            stored = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
            stored = {name: info["embedding"] for name, info in found.items()}
        return {name: check_voice(name, vector) for name, vector in stored.items()}
    except VoiceError:
        raise
    except Exception as error:  # torch.load raises many kinds
        raise VoiceError(f"{path} cannot be read as a voice file ({error}); {_REMEDY}") from error


def check_voice(name: str, vector: Tensor) -> Tensor:
    """The vector as float32 [192].

    Raises:
        VoiceError: it is not 192 finite numbers, or all are zero.
    """
    flat = torch.as_tensor(vector).float().flatten()
    if flat.numel() != SPEAKER_DIM or not bool(flat.isfinite().all()) or not bool(flat.any()):
        raise VoiceError(
            f"voice {name!r} is not {SPEAKER_DIM} finite numbers, not all zero; {_REMEDY}"
        )
    return flat


def choose_voice(voices: dict[str, Tensor], name: str | None = None) -> Tensor:
    """The voice of this name; without one the default voice, else the file's first.

    Raises:
        VoiceError: no such voice; the message lists those there are.
    """
    if name is None:
        name = DEFAULT_VOICE if DEFAULT_VOICE in voices else next(iter(voices), "")
    if name not in voices:
        raise VoiceError(
            f"no voice named {name!r}; there are: {', '.join(voices) or 'none'}; {_REMEDY}"
        )
    return voices[name]


def speaker_vector(wave: Any, campplus: str | Path) -> Tensor:
    """Speaker vector [192] of a 16 kHz wave [samples] by ``campplus.onnx`` (CAM++).

    Features are Kaldi's filter banks (80 bins, 25 ms / 10 ms, Povey window), mean removed.

    Raises:
        VoiceError: the network's file is missing, damaged or another network's.
    """
    import kaldi_native_fbank
    import onnxruntime

    if not Path(campplus).is_file():
        raise VoiceError(
            f"{campplus} is missing; it is part of the detokenizer's folder, which "
            "`funaudiochat download` fetches"
        )
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = _SAMPLE_RATE_HZ
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    banks = kaldi_native_fbank.OnlineFbank(options)
    banks.accept_waveform(_SAMPLE_RATE_HZ, wave.tolist())
    banks.input_finished()
    features = torch.stack(
        [torch.from_numpy(banks.get_frame(i).copy()) for i in range(banks.num_frames_ready)]
    )
    features = features - features.mean(dim=0)
    try:
        session = onnxruntime.InferenceSession(str(campplus), providers=["CPUExecutionProvider"])
        (vector,) = session.run(None, {session.get_inputs()[0].name: features[None].numpy()})
    except Exception as error:  # onnxruntime's own exceptions share no base
        raise VoiceError(
            f"{campplus} is damaged or another network ({error}); fetch it again with "
            "`funaudiochat download`"
        ) from error
    return check_voice(str(campplus), torch.from_numpy(vector))


def add_voice(name: str, prompt: str | Path, campplus: str | Path, voices_file: str | Path) -> None:
    """Make a voice from a prompt wave and put it into a safetensors voice file.

    Raises:
        AudioError: the prompt cannot be used. VoiceError: the file or the network cannot.
    """
    voices_file = Path(voices_file)
    voices = load_voices(voices_file) if voices_file.exists() else {}
    voices[name] = speaker_vector(load_audio(prompt, _SAMPLE_RATE_HZ), campplus)
    voices_file.parent.mkdir(parents=True, exist_ok=True)
    save_file(voices, voices_file)
