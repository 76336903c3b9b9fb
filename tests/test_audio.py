# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Reading, checking and writing audio: real encoded files, bad input, hostile bytes."""

import io
import os
import sys
import warnings
from functools import cache

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funaudiochat.audio import load_audio, save_wav
from funaudiochat.errors import AudioError

RATE_HZ = 16_000
SOUNDFILE_KINDS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("MP3", None),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]
MEDIA_KINDS = [("webm", "libopus"), ("mp4", "aac"), ("ipod", "aac"), ("adts", "aac")]


def chirp(seconds: float, rate_hz: int, low_hz: float = 200, high_hz: float = 3000) -> np.ndarray:
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * (low_hz * t + (high_hz - low_hz) * t**2 / (2 * seconds))
    return (0.5 * np.sin(phase)).astype(np.float32)


def encode(samples: np.ndarray, rate_hz: int, kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=kind, subtype=subtype)
    return file.getvalue()


def encode_media(
    samples: np.ndarray, rate_hz: int, kind: str, codec: str, layout: str = "mono"
) -> bytes:
    """``samples`` [samples], in every channel alike, in the container ``kind``, by PyAV."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        every = np.repeat(samples[:, None], av.AudioLayout(layout).nb_channels, axis=1)
        frame = av.AudioFrame.from_ndarray(every.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Largest normalised cross-correlation over delays of up to 0.2 s (codecs add some)."""
    n = min(len(a), len(b))
    size = 2 * n
    cross = np.fft.irfft(np.fft.rfft(a[:n], size) * np.fft.rfft(b[:n], size).conj(), size)
    delay = RATE_HZ // 5
    best = max(cross[:delay].max(), cross[-delay:].max())
    return best / np.linalg.norm(a[:n]) / np.linalg.norm(b[:n])


@pytest.mark.parametrize("kind,subtype", SOUNDFILE_KINDS)
@pytest.mark.parametrize("rate_hz", [8_000, 24_000, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_soundfile_kind_gives_the_same_audio(kind, subtype, rate_hz, channels):
    audio = np.repeat(chirp(1.0, rate_hz)[:, None], channels, axis=1)
    loaded = load_audio(encode(audio, rate_hz, kind, subtype), RATE_HZ)
    assert loaded.dtype == np.float32 and loaded.ndim == 1
    assert abs(len(loaded) - RATE_HZ) <= (0 if kind in ("WAV", "FLAC") else RATE_HZ // 10)
    assert correlation(loaded, chirp(1.0, RATE_HZ)) > 0.98


@pytest.mark.parametrize("kind,codec", MEDIA_KINDS)
def test_media_containers_are_read_by_pyav(kind, codec):
    loaded = load_audio(encode_media(chirp(1.0, 48_000), 48_000, kind, codec), RATE_HZ)
    assert abs(len(loaded) - RATE_HZ) <= RATE_HZ // 10
    # AAC at FFmpeg's default rate loses part of a chirp: 0.963 measured.
    assert correlation(loaded, chirp(1.0, RATE_HZ)) > 0.95


@pytest.mark.parametrize("layout", ["stereo", "5.1", "7.1"])
def test_channels_of_media_are_averaged(layout):
    audio = encode_media(chirp(1.0, 48_000), 48_000, "mp4", "aac", layout)
    loaded = load_audio(audio, RATE_HZ)
    assert correlation(loaded, chirp(1.0, RATE_HZ)) > 0.8  # the low-frequency channel has no highs
    assert loaded.std() == pytest.approx(chirp(1.0, RATE_HZ).std(), rel=0.2)


def test_media_of_an_unknown_codec_are_refused():
    audio = encode_media(chirp(0.5, 48_000), 48_000, "mp4", "aac")
    for where_the_codec_is_named in (b"mp4a", b"esds"):
        assert audio.count(where_the_codec_is_named) == 1
        audio = audio.replace(where_the_codec_is_named, b"xxxx")
    with pytest.raises(AudioError, match="unknown codec"):
        load_audio(audio)


def test_media_whose_channels_change_midway_are_refused():
    parts = (encode_media(chirp(0.5, 48_000), 48_000, "adts", "aac", n) for n in ("mono", "stereo"))
    with pytest.raises(AudioError, match="damaged"):
        load_audio(b"".join(parts))


@pytest.mark.parametrize("kind,codec", MEDIA_KINDS)
def test_media_without_pyav_names_the_extra(kind, codec, monkeypatch):
    data = encode_media(chirp(0.5, 48_000), 48_000, kind, codec)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"pip install 'funaudiochat\[media\]'"):
        load_audio(data)


def test_path_bytes_and_file_object_agree(tmp_path):
    data = encode(chirp(0.5, RATE_HZ), RATE_HZ, "WAV", "PCM_16")
    path = tmp_path / "question.raw"  # the content decides, not the suffix
    path.write_bytes(data)
    from_bytes = load_audio(data)
    with open(path, "rb") as file:
        from_file = load_audio(file)
    assert np.array_equal(from_bytes, soundfile.read(io.BytesIO(data), dtype="float32")[0])
    for other in (load_audio(path), load_audio(str(path)), from_file, load_audio(bytearray(data))):
        assert np.array_equal(from_bytes, other)


@pytest.mark.parametrize("from_hz,to_hz", [(8_000, 16_000), (44_100, 16_000), (16_000, 24_000)])
def test_resampling_keeps_a_tone_and_its_level(from_hz, to_hz):
    def tone(rate_hz):
        return 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate_hz) / rate_hz)

    resampled = load_audio((tone(from_hz), from_hz), to_hz)
    assert len(resampled) == to_hz
    middle = slice(to_hz // 10, -to_hz // 10)
    np.testing.assert_allclose(resampled[middle], tone(to_hz)[middle], atol=1e-4)


def test_downsampling_removes_what_would_alias():
    tone = np.sin(2 * np.pi * 11_000 * np.arange(48_000) / 48_000)
    assert np.abs(load_audio((tone, 48_000), 16_000)[1600:-1600]).max() < 1e-4


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_integers_are_scaled_by_their_full_range(dtype):
    info = np.iinfo(dtype)
    middle = 0 if info.min < 0 else info.max // 2 + 1
    samples = np.resize(np.array([info.min, middle, info.max], dtype), 3000)
    loaded = load_audio((samples, RATE_HZ))
    np.testing.assert_allclose(loaded[:3], [-1, 0, 1], atol=2.0 / 2**info.bits + 1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_are_taken_as_they_are(dtype):
    samples = np.resize(np.array([0.25, -1.5], dtype), 3000)
    assert np.array_equal(load_audio((samples, RATE_HZ)), samples.astype(np.float32))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_either_axis_order_averages_the_channels(channels):
    audio = np.random.default_rng(0).uniform(-1, 1, (2000, channels)).astype(np.float32)
    for array in (audio, audio.T, torch.from_numpy(audio)):
        np.testing.assert_allclose(load_audio((array, RATE_HZ)), audio.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    "shape,message",
    [
        ((), "shape"),
        ((1, 2, 2000), "shape"),
        ((2000, 2000), "tell samples from channels"),
        ((8, 8), "tell samples from channels"),
        ((9, 2000), "tell samples from channels"),
        ((0,), "no samples"),
        ((2, 0), "no samples"),
    ],
)
def test_arrays_of_a_wrong_shape_are_refused(shape, message):
    with pytest.raises(AudioError, match=message):
        load_audio((np.ones(shape, np.float32), RATE_HZ))


@pytest.mark.parametrize(
    "array", [np.ones(2000, complex), np.ones(2000, bool), ["a"] * 2000, [[0.1], [0.1, 0.2]], None]
)
def test_samples_that_are_not_real_numbers_are_refused(array):
    with pytest.raises(AudioError):
        load_audio((array, RATE_HZ))


@pytest.mark.parametrize("rate_hz", [0, -16_000, 999, 1e9, float("nan"), float("inf"), "16000"])
def test_rates_that_cannot_be_are_refused(rate_hz):
    audio = chirp(0.5, RATE_HZ)
    with pytest.raises(AudioError, match="Hz"):
        load_audio((audio, rate_hz))
    with pytest.raises(AudioError, match="Hz"):
        load_audio((audio, RATE_HZ), rate_hz)
    with pytest.raises(AudioError, match="Hz"):
        save_wav(os.devnull, audio, rate_hz)


@pytest.mark.parametrize("source", [chirp(0.5, RATE_HZ), [0.0] * 2000, 7, None, ()])
def test_a_source_of_unknown_kind_is_refused(source):
    with pytest.raises(AudioError, match="samples, rate_hz"):
        load_audio(source)


def test_text_file_objects_are_refused():
    with pytest.raises(AudioError, match="'rb'"):
        load_audio(io.StringIO("RIFF"))


def test_missing_files_directories_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in [
        (tmp_path / "no.wav", "not found"),
        ("a\0b.wav", "not found"),
        (tmp_path, "directory"),
        (tmp_path / "pipe", "regular"),
        ("/dev/zero", "regular"),
        ("x" * 5000, "cannot read"),
    ]:
        with pytest.raises(AudioError, match=message):
            load_audio(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\0" * 5000, b"RIFF\0\0\0\0WAVE", b"<html>" * 99])
def test_bytes_that_are_not_audio_are_refused(data):
    with pytest.raises(AudioError, match="not an audio file"):
        load_audio(data)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "FLAC"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.99])
def test_truncated_files_are_refused(kind, part):
    data = encode(chirp(2.0, RATE_HZ), RATE_HZ, kind)
    load_audio(data)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(data[: int(len(data) * part)])


@pytest.mark.parametrize("kind,codec", [("mp4", "aac"), ("ipod", "aac")])
def test_truncated_mp4_is_refused(kind, codec):
    data = encode_media(chirp(2.0, 48_000), 48_000, kind, codec)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(data[: len(data) // 2])


@pytest.mark.parametrize("size_bytes", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_wav_streams_of_unstated_length_are_read(size_bytes):
    data = bytearray(encode(chirp(0.5, RATE_HZ), RATE_HZ, "WAV", "PCM_16"))
    data[4:8] = data[40:44] = size_bytes.to_bytes(4, "little")
    assert len(load_audio(bytes(data))) == RATE_HZ // 2


def test_flac_streams_of_unstated_length_are_read():
    data = bytearray(encode(chirp(0.5, RATE_HZ), RATE_HZ, "FLAC"))
    data[21] &= 0xF0  # the 36 bits of the total in STREAMINFO
    data[22:26] = bytes(4)
    assert len(load_audio(bytes(data))) == RATE_HZ // 2


def test_a_header_that_claims_years_costs_no_memory():
    data = bytearray(encode(chirp(0.5, RATE_HZ), RATE_HZ, "FLAC"))
    data[21:26] = b"\xff" * 5
    data[21] = (data[21] & 0xF0) | 0x0E
    with pytest.raises(AudioError):
        load_audio(bytes(data))


def test_zero_samples_are_refused():
    with pytest.raises(AudioError, match="no samples"):
        load_audio(encode(np.zeros(0, np.float32), RATE_HZ, "WAV"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 4000, -1])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_nan_and_infinity_are_refused(bad, place, rate_hz):
    audio = chirp(1.0, rate_hz)
    audio[place] = bad
    with pytest.raises(AudioError, match="NaN or infinite"):
        load_audio((audio, rate_hz))
    with pytest.raises(AudioError, match="NaN or infinite"):
        load_audio(encode(np.stack([audio, audio], 1), rate_hz, "WAV", "FLOAT"))


def test_values_beyond_float32_are_refused():
    for value, message in ((1e300, "NaN or infinite"), (3.4e38, "peaks at 3.4e")):
        with pytest.raises(AudioError, match=message):
            load_audio((np.full((2000, 2), value), 8_000))


@pytest.mark.parametrize("level", [0.0, 3e-5])
def test_silence_is_loaded_with_a_warning(level):
    with pytest.warns(UserWarning, match="silence"):
        loaded = load_audio((np.full(RATE_HZ, level), 44_100))
    assert np.abs(loaded).max() < 1e-4


def test_quiet_audio_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio((0.001 * chirp(1.0, RATE_HZ), RATE_HZ))


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_one_token_is_the_shortest_audio(rate_hz):
    shortest = rate_hz * 40 // 1000
    assert len(load_audio((chirp(1.0, rate_hz)[:shortest], rate_hz))) == 640
    with pytest.raises(AudioError, match="too short.*40 ms"):
        load_audio((chirp(1.0, rate_hz)[: shortest - 1], rate_hz))


@pytest.mark.parametrize("seconds", [2.5, 40.0])
def test_audio_over_the_limit_is_refused_with_both_lengths(seconds):
    audio = chirp(seconds, 8_000)
    sources = [
        (audio, 8_000),
        encode(audio, 8_000, "WAV"),
        encode(audio, 8_000, "FLAC"),
        encode_media(chirp(seconds, 48_000), 48_000, "mp4", "aac"),
    ]
    for source in sources:
        with pytest.raises(AudioError, match=rf"too long: {seconds:.1f}\d s, at most 2 s"):
            load_audio(source, max_seconds=2)
        assert len(load_audio(source, max_seconds=seconds + 0.1))


def test_a_saved_waveform_is_16_bit_and_reads_back(tmp_path):
    audio = chirp(0.5, 24_000)
    audio[0], audio[1] = 1.5, -1.5
    save_wav(tmp_path / "reply.wav", torch.from_numpy(audio), 24_000)
    info = soundfile.info(tmp_path / "reply.wav")
    assert (info.format, info.subtype, info.samplerate, info.channels) == (
        "WAV",
        "PCM_16",
        24000,
        1,
    )
    loaded = load_audio(tmp_path / "reply.wav", 24_000)
    np.testing.assert_allclose(loaded, audio.clip(-1, 1), atol=1e-4)


@pytest.mark.parametrize(
    "samples",
    [np.full(100, np.nan), np.full(100, np.inf), np.ones((100, 2)), np.ones(0), np.ones(99, int)],
)
def test_waveforms_that_cannot_be_saved_are_refused(tmp_path, samples):
    with pytest.raises(AudioError):
        save_wav(tmp_path / "reply.wav", samples, 24_000)
    assert not (tmp_path / "reply.wav").exists()


def damaged_kinds() -> dict[str, bytes]:
    audio = chirp(0.3, RATE_HZ)
    kinds = {
        f"{kind} {subtype}": encode(audio, RATE_HZ, kind, subtype)
        for kind, subtype in [*SOUNDFILE_KINDS, ("AIFF", None), ("AU", None), ("CAF", None)]
    }
    for kind, codec in MEDIA_KINDS:
        kinds[f"{kind} {codec}"] = encode_media(chirp(0.3, 48_000), 48_000, kind, codec)
    return kinds


DAMAGED_KINDS = damaged_kinds()


def id3(size: int) -> bytes:
    return b"ID3\x03\0\0\0\0" + bytes([size >> 7, size & 0x7F]) + b"t" * size


@pytest.mark.parametrize("kind", DAMAGED_KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_joined_and_tagged_files_are_read_whole(kind, data):
    """As ffmpeg reads its concatenation protocol: everything, in order."""
    seconds = data.draw(st.lists(st.sampled_from([0.1, 0.3, 0.7]), min_size=1, max_size=4))
    padding = st.sampled_from([b"", bytes(100), bytes(7), id3(200), bytes(3) + id3(10)])
    content, expected = b"", []
    for number, length in enumerate(seconds):
        part = encode_again(kind, length, 200 + 300 * number)
        expected.append(load_audio(part))
        content += data.draw(padding) + part
    content += data.draw(st.sampled_from([b"", bytes(99), b"TAG" + b"x" * 125]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_audio(content)
    whole = np.concatenate(expected)
    # A raw AAC stream continues over the seam: one decoder, no second start, at most a frame less.
    tolerance = 1024 * len(seconds) if kind.startswith("adts") else len(seconds)
    assert abs(len(loaded) - len(whole)) <= tolerance
    # AAC pieces are resampled from 48 kHz one by one or all at once: fractions of a sample apart.
    assert kind.startswith("adts") or correlation(loaded, whole) > 0.85


@cache
def encode_again(kind: str, seconds: float, low_hz: int) -> bytes:
    form, codec = kind.split(" ")
    if (form, codec) in MEDIA_KINDS:
        return encode_media(chirp(seconds, 48_000, low_hz), 48_000, form, codec)
    subtype = None if codec == "None" else codec
    return encode(chirp(seconds, RATE_HZ, low_hz), RATE_HZ, form, subtype)


def pipe_recording(kind: str, codec: str, **options: str) -> bytes:
    """One second as a program writes it to a pipe: it cannot go back to the header."""

    class Pipe:
        content = b""

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    pipe, samples = Pipe(), chirp(1.0, 48_000)
    with av.open(pipe, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return pipe.content


PIPED = [
    ("wav", "pcm_s16le", {}), ("wav", "pcm_s16le", {"rf64": "always"}), ("au", "pcm_s16be", {}),
    ("flac", "flac", {}), ("webm", "libopus", {"live": "1"}), ("webm", "libopus", {}),
    ("mp3", "libmp3lame", {"write_xing": "0"}), ("ogg", "libopus", {}),
    ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
]  # fmt: skip


@pytest.mark.parametrize("kind, codec, options", PIPED, ids=lambda value: str(value))
def test_recordings_from_a_pipe_are_read_whole(kind, codec, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_audio(pipe_recording(kind, codec, **options))
    assert abs(len(loaded) - RATE_HZ) <= 1200
    assert correlation(loaded, chirp(1.0, RATE_HZ)) > 0.95


# What has a length in its header, and what does not but is made of frames.
STATED = {k: v for k, v in DAMAGED_KINDS.items() if not k.startswith(("OGG", "adts"))}
FRAMED = {k: v for k, v in DAMAGED_KINDS.items() if k not in STATED} | {
    "mp3 without a header": pipe_recording("mp3", "libmp3lame", write_xing="0"),
    "live webm": pipe_recording("webm", "libopus", live="1"),
}


@pytest.mark.parametrize("kind", STATED)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_cut_files_of_stated_length_are_refused(kind, data):
    whole = STATED[kind]
    content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        loaded = load_audio(content)
    except AudioError:
        return
    # Only padding was cut, or as little as a writer may miscount by.
    assert len(load_audio(whole)) - len(loaded) <= (44 if kind[:3] in ("WAV", "AIF", "AU ", "CAF")
                                                    else 0)  # fmt: skip


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_an_mp3_that_ends_within_the_header_of_a_frame_is_read_with_a_warning(cut):
    whole = FRAMED["mp3 without a header"]
    header = whole[whole.index(b"\xff") :][:2]
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == header]
    with pytest.warns(UserWarning, match="breaks off"):
        loaded = load_audio(whole[: starts[3] + cut])
    assert 0 < len(loaded) < len(load_audio(whole))


@pytest.mark.parametrize("kind", FRAMED)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_cut_streams_of_frames_give_what_is_there_with_a_warning(kind, data):
    """Or an error; only a cut between two frames cannot be told from an end."""
    whole, end = FRAMED[kind], data.draw(st.integers(0, len(FRAMED[kind]) - 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loaded = load_audio(whole[:end])
        except AudioError:
            return
    expected = load_audio(whole)
    assert len(loaded) <= len(expected)
    assert correlation(loaded, expected[: len(loaded)]) > 0.9
    between_frames = whole[end : end + 1] in (b"\xff", b"\xa3", b"\xa1", b"\x1f", b"\xa0")
    assert any("breaks off" in str(w.message) for w in caught) or between_frames


def wave_of_stated_size(data_bytes: int, riff_bytes: int) -> bytes:
    content = bytearray(encode(chirp(0.5, RATE_HZ), RATE_HZ, "WAV", "PCM_16"))
    content[4:8], content[40:44] = (n.to_bytes(4, "little") for n in (riff_bytes, data_bytes))
    return bytes(content)


@pytest.mark.parametrize("riff_bytes", [16036, 0, 0xFFFFFFFF])
@pytest.mark.parametrize(
    "data_bytes", [0, 2_000_000_000, 0x7FFF0000, 0x80000000, 0xFFFFFFFF, 16002, 16022, 16044]
)
def test_wav_files_whose_header_was_never_finished_are_read(data_bytes, riff_bytes):
    expected = load_audio(encode(chirp(0.5, RATE_HZ), RATE_HZ, "WAV", "PCM_16"))
    assert np.array_equal(load_audio(wave_of_stated_size(data_bytes, riff_bytes)), expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 0xFFFFFFFF) | st.integers(0, 32000), st.integers(0, 0xFFFFFFFF))
def test_a_wav_file_of_any_stated_size_is_read_whole_or_with_a_warning(data_bytes, riff_bytes):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loaded = load_audio(wave_of_stated_size(data_bytes, riff_bytes))
        except AudioError:
            return
    left_out = RATE_HZ // 2 - len(loaded)
    assert left_out == 0 or (caught and left_out > 0) or left_out * 2 <= 44


def test_chunks_around_the_samples_are_not_heard():
    plain = encode(chirp(0.5, RATE_HZ), RATE_HZ, "WAV", "PCM_16")
    listed = b"LIST" + (300).to_bytes(4, "little") + b"INFO" + b"x" * 296
    expected = load_audio(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load_audio(plain + listed), expected)
        assert np.array_equal(load_audio(plain[:12] + listed + plain[12:]), expected)
        both = load_audio(plain + listed + plain)
    assert np.array_equal(both, np.concatenate([expected, expected]))


def test_bytes_behind_a_file_that_are_not_audio_are_named():
    content = encode(chirp(0.5, RATE_HZ), RATE_HZ, "WAV", "PCM_16")
    with pytest.warns(UserWarning, match="last 600 bytes of the audio given are not audio"):
        assert len(load_audio(content + b"<html>" * 100)) == RATE_HZ // 2


@pytest.mark.parametrize("path", [None, "gone.wav"])
def test_the_array_of_a_mapping_comes_before_its_path(path):
    audio = chirp(0.5, 8_000)
    loaded = load_audio({"array": audio, "sampling_rate": 8_000, "path": path})
    assert np.array_equal(loaded, load_audio((audio, 8_000)))


def test_the_bytes_of_a_mapping_come_before_its_path(tmp_path):
    content = encode(chirp(0.5, RATE_HZ), RATE_HZ, "FLAC")
    (tmp_path / "a.flac").write_bytes(content)
    expected = load_audio(content)
    for path in (None, "gone.flac"):
        assert np.array_equal(load_audio({"bytes": content, "path": path}), expected)
    assert np.array_equal(load_audio({"bytes": None, "path": tmp_path / "a.flac"}), expected)


@pytest.mark.parametrize("source, message", [
    ({}, "neither 'array' nor 'bytes' nor 'path'"), ({"path": ""}, "neither"),
    ({"array": [0.1] * 999}, "no 'sampling_rate'"),
    ({"array": [0.1] * 999, "sampling_rate": 5}, "Hz"), ({"path": 3}, "cannot read audio"),
])  # fmt: skip
def test_mappings_without_audio_are_refused(source, message):
    with pytest.raises(AudioError, match=message):
        load_audio(source)


@pytest.mark.parametrize("peak", [17.0, 32767.0, 8e6])
def test_floats_far_above_1_are_refused_with_their_peak(peak):
    audio = 2 * peak * chirp(0.5, RATE_HZ)
    for source in ((audio, RATE_HZ), encode(audio, RATE_HZ, "WAV", "FLOAT"),
                   (np.stack([audio, 0 * audio]), RATE_HZ)):  # fmt: skip
        with pytest.raises(AudioError, match=r"peaks at .*divide 16-bit values by 32768"):
            load_audio(source)


@pytest.mark.parametrize("gain", [-1.0, -0.9])
def test_channels_that_cancel_give_one_of_them_with_a_warning(gain):
    audio = chirp(0.5, RATE_HZ)
    array = np.stack([audio, gain * audio], axis=1)
    for source in ((array, RATE_HZ), encode(array, RATE_HZ, "WAV", "FLOAT"),
                   encode(array, RATE_HZ, "FLAC")):  # fmt: skip
        with pytest.warns(UserWarning, match="channels of .* cancel each other"):
            loaded = load_audio(source)
        np.testing.assert_allclose(loaded, audio, atol=1e-4)


@pytest.mark.parametrize("channels, used", [(6, 2), (8, 2), (4, 0), (3, 1)])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_speech_in_one_of_many_channels_keeps_its_level(channels, used, noise):
    audio = chirp(0.5, RATE_HZ)
    array = noise * np.random.default_rng(0).standard_normal((len(audio), channels))
    array[:, used] += audio
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_audio((array, RATE_HZ))
    np.testing.assert_allclose(loaded, audio, atol=6e-3)


@pytest.mark.parametrize("kind", DAMAGED_KINDS)
@pytest.mark.filterwarnings("ignore:.*all silence")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_files_load_or_raise_audio_error(kind, data):
    content = bytearray(DAMAGED_KINDS[kind])
    # Half of the flips fall into the header, where they do most harm.
    place = st.integers(0, 99) | st.integers(0, len(content) - 1)
    for position, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        content[position] = value
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    try:
        loaded = load_audio(bytes(content[:length]), max_seconds=60)
    except AudioError:
        return
    assert loaded.dtype == np.float32 and loaded.ndim == 1 and len(loaded) >= 640
    assert np.isfinite(loaded).all()


@pytest.mark.parametrize("offset", [0, 4, 11, 12, 23])
def test_an_au_file_whose_header_is_too_short_is_loaded_or_refused(offset):
    content = bytearray(DAMAGED_KINDS["AU None"])
    content[4:8] = offset.to_bytes(4, "big")
    try:
        loaded = load_audio(bytes(content), max_seconds=60)
    except AudioError:
        return
    assert len(loaded) >= 640 and np.isfinite(loaded).all()


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([
        b"", b"RIFF", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf1", b"\x1a\x45\xdf\xa3",
        b"\0\0\0\x20ftyp",
    ]),
    st.binary(max_size=3000),
)  # fmt: skip
def test_random_bytes_load_or_raise_audio_error(magic, tail):
    try:
        load_audio(magic + tail, max_seconds=60)
    except AudioError:
        pass
