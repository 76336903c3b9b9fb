# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Audio in and out: the one place that reads, checks, mixes down and resamples audio.

Whatever comes in leaves as mono float32 ``[samples]`` at the rate asked for, or as an
:class:`AudioError` that says what is wrong and what to do. soundfile decodes wav, flac, mp3, ogg
and opus (and aiff, au, caf); PyAV (extra ``media``) decodes webm, m4a, mp4 and raw aac. Files that
were joined end to end are read one after the other (:mod:`funaudiochat.audio_segments`).
"""

import io
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from funaudiochat.audio_segments import split
from funaudiochat.constants import INPUT_RATE_HZ, TOKEN_FPS
from funaudiochat.errors import AudioError

MIN_DURATION_MS = 1000 // TOKEN_FPS  # one speech token
SILENCE_PEAK = 1e-4  # -80 dB of full scale: quieter than the last bits of 16-bit audio
MAX_CHANNELS = 8  # tells the channel axis of a 2-d array from the sample axis
# Outside this range a rate is a damaged header, and resampling from it could fill the memory.
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 1_000_000
BLOCK_FRAMES = 1 << 16
# Floats beyond this (24 dB over full scale) are integers that were never scaled.
MAX_PEAK = 16.0
# Channels this far below the loudest one are empty, and a mean this far below it is cancelled.
EMPTY_CHANNEL, CANCELLED = 0.01, 0.25

AudioSource = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | tuple[Any, float]
    | Mapping[str, Any]
)


def load_audio(
    source: AudioSource, sample_rate_hz: int = INPUT_RATE_HZ, *, max_seconds: float | None = None
) -> np.ndarray:
    """Read audio as mono float32 ``[samples]`` at ``sample_rate_hz``.

    Args:
        source: a path, the bytes of an audio file, a binary file object, a pair
            ``(samples, rate_hz)``, or a mapping as the ``datasets`` library gives it: ``array``
            and ``sampling_rate``, or ``bytes``, or ``path``, in this order. Samples are an array
            ``[samples]``, ``[samples, channels]`` or ``[channels, samples]`` with at most 8
            channels. Integers are scaled by their full range. Channels are averaged, but for
            empty ones of more than two; if they cancel each other, the loudest is taken.
        sample_rate_hz: rate of the result.
        max_seconds: longest audio allowed; None for no limit.

    Raises:
        AudioError: the source is missing, not audio, damaged, empty, shorter than one speech
            token (40 ms), longer than ``max_seconds``, holds NaN or infinite samples, or floats
            far beyond -1..1; or an array has a shape, type or rate that cannot be audio.

    Warns:
        UserWarning: all samples are silence, or channels cancel each other.
    """
    _check_rate(sample_rate_hz, "the sample rate asked for")
    return _load(source, sample_rate_hz, max_seconds)[0]


def load_audio_and_rate(
    source: AudioSource, *, max_seconds: float | None = None
) -> tuple[np.ndarray, float]:
    """Read audio as :func:`load_audio` does, but at the rate it has.

    Returns:
        Mono float32 ``[samples]``, and their rate in Hz.

    Raises:
        AudioError: as :func:`load_audio`.
    """
    return _load(source, None, max_seconds)


def _load(
    source: AudioSource, wanted_hz: int | None, max_seconds: float | None
) -> tuple[np.ndarray, float]:
    name = _name(source)
    max_seconds = math.inf if max_seconds is None else max_seconds
    if isinstance(source, Mapping):
        source = _from_mapping(source)
    if isinstance(source, tuple):
        samples, rate_hz = _from_array(source)
        samples = _mono(samples, name)
    else:
        samples, rate_hz = _decode_all(_read_bytes(source, name), name, max_seconds)

    duration_s = len(samples) / rate_hz
    if not len(samples):
        raise AudioError(f"{name} holds no samples")
    if len(samples) * 1000 < MIN_DURATION_MS * rate_hz:
        raise AudioError(
            f"{name} is too short: {duration_s * 1000:.1f} ms, at least {MIN_DURATION_MS} ms "
            "(one speech token) are needed"
        )
    if duration_s > max_seconds:
        raise _too_long(name, duration_s, max_seconds)
    if wanted_hz is not None and rate_hz != wanted_hz:
        samples, rate_hz = soxr.resample(samples, rate_hz, wanted_hz, quality="VHQ"), wanted_hz
    # Averaging and filtering keep NaN and infinity, and may overflow themselves, so look last.
    if not np.isfinite(samples).all():
        raise AudioError(f"{name} holds NaN or infinite samples; repair or re-export it")
    if np.abs(samples).max() < SILENCE_PEAK:
        warnings.warn(f"{name} is all silence", stacklevel=3)
    return samples, rate_hz


def save_wav(path: str | os.PathLike[str], samples: Any, sample_rate_hz: int) -> None:
    """Write mono float samples ``[samples]`` in -1..1 (louder ones are clipped) as 16-bit PCM.

    Raises:
        AudioError: the samples are empty, not mono floats, NaN or infinite, or the rate is bad.
        OSError: the file cannot be written.
    """
    _check_rate(sample_rate_hz, "the sample rate")
    array = np.asarray(samples)
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            f"a waveform to save must be mono floats [samples], not "
            f"{array.dtype} {list(array.shape)}"
        )
    if not np.isfinite(array).all():
        raise AudioError(f"the waveform to save in {path} holds NaN or infinite samples")
    with open(path, "wb") as file:
        soundfile.write(
            file, array.astype(np.float32), sample_rate_hz, subtype="PCM_16", format="WAV"
        )


def _name(source: AudioSource) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, Mapping) and source.get("path"):
        return str(source["path"])
    return "the audio array" if isinstance(source, tuple | Mapping) else "the audio given"


def _too_long(name: str, seconds: float, max_seconds: float) -> AudioError:
    return AudioError(
        f"{name} is too long: {seconds:.2f} s, at most {max_seconds:g} s are allowed; "
        "cut it into parts"
    )


def _check_rate(rate_hz: Any, what: str) -> None:
    number = isinstance(rate_hz, int | float | np.integer | np.floating)
    if not number or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"{what} must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, not {rate_hz!r}")


def _read_bytes(source: Any, name: str) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise AudioError(f"{name} is not a binary file object; open it with mode 'rb'")
        return data
    if not isinstance(source, str | os.PathLike):
        raise AudioError(
            f"cannot read audio from {type(source).__name__}: pass a path, bytes, a binary file "
            "object, a pair (samples, rate_hz), or a mapping with 'array' and 'sampling_rate'"
        )
    try:
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{name} is a directory, not an audio file")
        if not path.exists():
            raise AudioError(f"audio file not found: {name}")
        if not path.is_file():  # reading a pipe or device might never end
            raise AudioError(f"{name} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise AudioError(f"cannot read {name}: {error.strerror}") from error


def _from_mapping(source: Mapping[str, Any]) -> Any:
    """Return the audio of a mapping: the array, else the bytes, else the path."""
    if source.get("array") is not None:
        if source.get("sampling_rate") is None:
            raise AudioError("the audio has an 'array' and no 'sampling_rate'; give its rate in Hz")
        return source["array"], source["sampling_rate"]
    for key in ("bytes", "path"):
        if source.get(key):
            return source[key]
    raise AudioError("the audio has neither 'array' nor 'bytes' nor 'path'; give one of them")


def _from_array(pair: tuple[Any, ...]) -> tuple[np.ndarray, float]:
    """Turn a pair ``(samples, rate_hz)`` into float32 ``[samples, channels]`` and its rate."""
    if len(pair) != 2:
        raise AudioError(f"an array comes as a pair (samples, rate_hz), not {len(pair)} values")
    _check_rate(pair[1], "the rate of the audio array")
    try:
        array = np.asarray(pair[0])
    except (TypeError, ValueError, RuntimeError) as error:
        raise AudioError(f"the audio array cannot be read as numbers: {error}") from error
    shape = list(array.shape)
    if array.ndim not in (1, 2):
        raise AudioError(
            f"the audio array has shape {shape}; [samples], [samples, channels] or "
            "[channels, samples] is needed"
        )
    if not array.size:
        raise AudioError(f"the audio array holds no samples (shape {shape})")
    if array.ndim == 1:
        array = array[:, None]
    elif (array.shape[0] <= MAX_CHANNELS) == (array.shape[1] <= MAX_CHANNELS):
        raise AudioError(
            f"cannot tell samples from channels in an audio array of shape {shape}: exactly one "
            f"axis may be at most {MAX_CHANNELS} long"
        )
    elif array.shape[0] <= MAX_CHANNELS:
        array = array.T
    return _to_float32(array), float(pair[1])


def _to_float32(array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # an overflow becomes infinite, which is refused later
            return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.integer):
        raise AudioError(f"audio samples must be integers or floats, not {array.dtype}")
    info = np.iinfo(array.dtype)
    half_range = 2.0 ** (info.bits - 1)
    offset = 0.0 if info.min < 0 else half_range  # silence is half the range of unsigned samples
    return ((array.astype(np.float64) - offset) / half_range).astype(np.float32)


def _mono(samples: np.ndarray, name: str) -> np.ndarray:
    """Mix samples [samples, channels] down to [samples]."""
    peak = float(np.abs(samples).max(initial=0))
    if MAX_PEAK < peak < math.inf:
        raise AudioError(
            f"{name} peaks at {peak:g}, but float samples lie between -1 and 1; divide 16-bit "
            "values by 32768, or pass them as integers"
        )
    if samples.shape[1] == 1 or not len(samples) or not math.isfinite(peak):
        return samples[:, 0]
    levels = np.sqrt(np.square(samples, dtype=np.float64).mean(axis=0))
    if samples.shape[1] > 2:
        used = levels >= EMPTY_CHANNEL * levels.max()
        samples, levels = samples[:, used], levels[used]
    mixed = samples.mean(axis=1)
    if np.sqrt(np.square(mixed).mean()) < CANCELLED * levels.max():
        warnings.warn(
            f"the channels of {name} cancel each other: the loudest one is used", stacklevel=3
        )
        return samples[:, int(np.argmax(levels))]
    return mixed


class _SeekableBytes(io.BytesIO):
    """Bytes whose position stays where it is when a damaged header asks for one before 0."""

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _decode_all(data: bytes, name: str, max_seconds: float) -> tuple[np.ndarray, float]:
    """Decode all files in some bytes: their mono samples in a row, at the first one's rate."""
    rate_hz, parts, seconds = 0.0, [], 0.0
    for file in split(data, name):
        samples, own_hz = _decode(file, name, max_seconds - seconds)
        rate_hz = rate_hz or own_hz
        seconds += len(samples) / own_hz
        mono = _mono(samples, name)
        parts.append(mono if own_hz == rate_hz else soxr.resample(mono, own_hz, rate_hz))
    return np.concatenate(parts), rate_hz


def _decode(data: bytes, name: str, max_seconds: float) -> tuple[np.ndarray, float]:
    """Decode the bytes of an audio file: float32 ``[samples, channels]`` and their rate."""
    container = _media_container(data)
    if container is not None:
        return _decode_media(data, container, name, max_seconds)
    try:
        with soundfile.SoundFile(_SeekableBytes(data)) as file:
            _check_rate(file.samplerate, f"the sample rate in the header of {name}")
            blocks = []
            # The header's length may be a lie, so memory is taken only as samples arrive.
            while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                blocks.append(block)
                if len(blocks) * BLOCK_FRAMES > (max_seconds + 1) * file.samplerate + BLOCK_FRAMES:
                    raise _too_long(name, file.frames / file.samplerate, max_seconds)
            samples = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
            if file.format == "FLAC" and len(samples) < file.frames < 1 << 36:  # above: not stated
                raise AudioError(
                    f"{name} is truncated: {len(samples)} of {file.frames} samples are there"
                )
            return samples, file.samplerate
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"{name} is not an audio file, or is truncated or damaged (wav, flac, mp3, ogg, opus, "
            "webm, m4a, mp4 and aac are read)"
        ) from error


def _media_container(data: bytes) -> str | None:
    """Return FFmpeg's name of the container by its first bytes, None if soundfile decodes it.

    Naming it keeps FFmpeg from guessing: its playlist formats would open other files and addresses.
    """
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if data[4:8] == b"ftyp":
        return "mov"
    if data[:4] == b"ADIF" or (data[:1] == b"\xff" and len(data) > 1 and data[1] & 0xF6 == 0xF0):
        return "aac"
    # A FLAC stream that does not state its length, which libsndfile cannot read.
    if data[:4] == b"fLaC" and int.from_bytes(data[18:26], "big") & ((1 << 36) - 1) == 0:
        return "flac"
    return None


def _decode_media(
    data: bytes, container: str, name: str, max_seconds: float
) -> tuple[np.ndarray, float]:
    """Decode with PyAV: float32 ``[samples, channels]`` and the rate."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise AudioError(
            f"{name} needs PyAV to be read (webm, m4a, mp4, aac): pip install 'funaudiochat[media]'"
        ) from error
    try:
        with av.open(io.BytesIO(data), "r", format=container) as file:
            if not file.streams.audio:
                raise AudioError(f"{name} has no audio track")
            if file.streams.audio[0].codec_context is None:  # PyAV would crash on decoding it
                raise AudioError(f"{name} is damaged, or its audio uses an unknown codec")
            # Interleaved, as PyAV reads beyond the eight planes of 7.1 audio.
            resampler = av.AudioResampler(format="flt")
            blocks: list[np.ndarray] = []
            rate_hz, frames = 0, 0
            for frame in file.decode(audio=0):
                for block in resampler.resample(frame):
                    _check_rate(block.sample_rate, f"the sample rate in the header of {name}")
                    samples = block.to_ndarray().reshape(-1, block.layout.nb_channels)
                    if blocks and (rate_hz, blocks[0].shape[1:]) != (
                        block.sample_rate,
                        samples.shape[1:],
                    ):
                        raise AudioError(f"{name} is damaged: its rate or channels change midway")
                    rate_hz, frames = block.sample_rate, frames + len(samples)
                    blocks.append(samples)
                if frames > (max_seconds + 1) * rate_hz:
                    seconds = (file.duration or 0) / av.time_base
                    raise _too_long(name, max(seconds, frames / rate_hz), max_seconds)
    except AudioError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"{name} is truncated or damaged: {error}") from error
    if not blocks:
        raise AudioError(f"{name} holds no samples")
    return np.concatenate(blocks), rate_hz
