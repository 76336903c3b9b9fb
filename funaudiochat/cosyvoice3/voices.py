# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Voices: speaker vectors by name, and new ones from a voice prompt."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from funaudiochat.audio import load_audio
from funaudiochat.constants import INPUT_RATE_HZ
from funaudiochat.errors import VoiceError
from funaudiochat.hub import VOICES_FILE

DEFAULT_VOICE = "中文女"
SPEAKER_DIM = 192
VOICES_NAME, CAMPPLUS_NAME = "voices.safetensors", "campplus.onnx"  # in a detokenizer's folder
_REMEDY = (
    "get the default voice with `funaudiochat download --only voices`, or make one with "
    "`funaudiochat voices add NAME prompt.wav`"
)


def installed_voices(tts_path: str | Path) -> dict[str, Tensor]:
    """Load the voices of a detokenizer, name -> [192]: the downloaded ones and its folder's own.

    The downloaded voices are vectors of ``campplus.onnx``: a folder with voices of its own but
    without that network uses its own voices only.

    Raises:
        VoiceError: no voice is installed, or a file is damaged.
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
    """Load the voices of a file, name -> [192].

    The file is a safetensors file or the original's ``new_spk2info.pt``, of which only
    ``embedding`` is used.

    Raises:
        VoiceError: the file is missing or damaged, or a voice is not 192 finite numbers.
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
    """Convert a speaker vector to float32 [192].

    Raises:
        VoiceError: it is not 192 finite numbers, or all are zero.
    """
    flat = torch.as_tensor(vector).float().flatten()
    if flat.numel() != SPEAKER_DIM or not bool(flat.isfinite().all()) or not bool(flat.any()):
        raise VoiceError(
            f"voice {name!r} must be {SPEAKER_DIM} finite numbers, not all zero; {_REMEDY}"
        )
    return flat


def choose_voice(voices: dict[str, Tensor], name: str | None = None) -> Tensor:
    """Choose a voice by name; without a name, the default voice or else the first one.

    Raises:
        VoiceError: the voice does not exist; the message lists those that do.
    """
    if name is None:
        name = DEFAULT_VOICE if DEFAULT_VOICE in voices else next(iter(voices), "")
    if name not in voices:
        raise VoiceError(
            f"no voice named {name!r}; available: {', '.join(voices) or 'none'}; {_REMEDY}"
        )
    return voices[name]


def speaker_vector(waveform: Any, campplus: str | Path) -> Tensor:
    """Compute the CAM++ speaker vector [192] of a 16 kHz waveform [samples].

    Features are Kaldi filter banks (80 bins, 25 ms / 10 ms, Povey window) minus their mean.

    Raises:
        VoiceError: the network's file is missing, damaged or of another network.
    """
    import kaldi_native_fbank
    import onnxruntime

    if not Path(campplus).is_file():
        raise VoiceError(
            f"{campplus} is missing; it is part of the detokenizer's folder, which "
            "`funaudiochat download` fetches"
        )
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.samp_freq = INPUT_RATE_HZ
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = 80
    banks = kaldi_native_fbank.OnlineFbank(options)
    banks.accept_waveform(INPUT_RATE_HZ, waveform.tolist())
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
            f"{campplus} is damaged or of another network ({error}); fetch it again with "
            "`funaudiochat download`"
        ) from error
    return check_voice(str(campplus), torch.from_numpy(vector))


def add_voice(name: str, prompt: str | Path, campplus: str | Path, voices_file: str | Path) -> None:
    """Make a voice from a recording and add it to a safetensors voice file.

    Raises:
        AudioError: the recording cannot be used.
        VoiceError: the voice file or the network cannot be used.
    """
    voices_file = Path(voices_file)
    voices = load_voices(voices_file) if voices_file.exists() else {}
    voices[name] = speaker_vector(load_audio(prompt, INPUT_RATE_HZ), campplus)
    voices_file.parent.mkdir(parents=True, exist_ok=True)
    save_file(voices, voices_file)
