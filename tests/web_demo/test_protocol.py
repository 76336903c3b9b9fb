# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""The bytes of the protocol: every kind, truncations, noise; and the Ogg pages both ways."""

import contextlib
import json

import numpy as np
import pytest
import sphn
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import ROOT
from tests.helpers.web_clients import tone
from web_demo.server.opus import BadAudio, Framer, OpusDecoder, OpusEncoder
from web_demo.server.protocol import (
    HANDSHAKE,
    BadMessage,
    Control,
    Kind,
    Message,
    decode,
    encode,
    encode_metadata,
)

GOLDEN = ROOT / "tests" / "golden" / "web_demo"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00\x00\x00", Message(Kind.HANDSHAKE)),
        (b"\x00", Message(Kind.HANDSHAKE)),
        (b"\x01OggS", Message(Kind.AUDIO, b"OggS")),
        (b"\x02\xe4\xbd\xa0", Message(Kind.TEXT, "你")),
        (b"\x03", Message(Kind.CONTROL, Control.START)),
        (b"\x03\x00", Message(Kind.CONTROL, Control.START)),
        (b"\x03\x01", Message(Kind.CONTROL, Control.END_TURN)),
        (b"\x03\x02", Message(Kind.CONTROL, Control.PAUSE)),
        (b"\x03\x03", Message(Kind.CONTROL, Control.RESTART)),
        (b'\x04{"system_prompt": "x"}', Message(Kind.METADATA, {"system_prompt": "x"})),
        (b"\x05oh", Message(Kind.ERROR, "oh")),
        (b"\x06", Message(Kind.PING, b"")),
        (b"\x07\x05text", Message(Kind.COLORED_TEXT)),
        (b"\x08RIFF", Message(Kind.FILE, b"RIFF")),
        (b"", None),
        (b"\x03\x04", None),
        (b"\x09", None),
        (b"\xff\xff", None),
    ],
)
def test_every_kind_is_decoded(data, expected):
    assert decode(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\x02\xff\xfe",
        b"\x04{",
        b"\x04[]",
        b"\x04\xff",
        b"\x04" + b"[" * 50_000,
        b'\x04{"system_prompt": "half of \\ud83d"}',
        b"\x02" + b"x" * 70_000,
        b'\x04{"x": "' + b"x" * 70_000 + b'"}',
    ],
)
def test_payloads_that_are_not_what_they_should_be_are_refused(data):
    with pytest.raises(BadMessage):
        decode(data)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoder(data):
    try:
        message = decode(data)
    except BadMessage:
        return
    assert message is None or message.kind == data[0]


@given(st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)))
def test_metadata_that_was_taken_can_be_said_back(value):
    try:
        message = decode(b"\x04" + json.dumps(value).encode())
    except BadMessage:
        return
    encode_metadata(message.value)


@given(st.text(max_size=100))
def test_text_and_metadata_come_back(text):
    assert decode(encode(Kind.TEXT, text)) == Message(Kind.TEXT, text)
    value = {"event": text, "n": [1, None, True]}
    assert decode(encode_metadata(value)) == Message(Kind.METADATA, value)


def test_the_handshake_is_three_zero_bytes():
    assert HANDSHAKE == encode(Kind.HANDSHAKE, b"\x00\x00") == b"\x00\x00\x00"


def ogg_pages(data):
    """Header type, granule position, serial, sequence number and packet sizes of each page."""
    pages, start = [], 0
    while start < len(data):
        assert data[start : start + 4] == b"OggS"
        count = data[start + 26]
        lacing = data[start + 27 : start + 27 + count]
        size = 27 + count + sum(lacing)
        granule, serial, number = (
            int.from_bytes(data[start + a : start + b], "little")
            for a, b in ((6, 14), (14, 18), (18, 22))
        )
        pages.append((data[start + 5], granule, serial, number, size))
        start += size
    return pages


def test_replies_have_the_pages_of_the_recorded_stream():
    meta = json.loads((GOLDEN / "meta.json").read_text())
    recorded = (GOLDEN / "sine440_24k_10x40ms.ogg").read_bytes()
    encoder, framer = OpusEncoder(), Framer()
    messages = [encoder.encode(frame) for frame in framer.push(tone(0.4))]
    assert [len(m) for m in messages] == meta["message_lengths"]
    ours, theirs = ogg_pages(b"".join(messages)), ogg_pages(recorded)
    assert ours == theirs
    assert [page[4] for page in ours[:3]] == meta["first_message_pages"]


def test_the_recorded_stream_is_decoded_at_the_models_rate():
    recorded = (GOLDEN / "sine440_24k_10x40ms.ogg").read_bytes()
    samples = OpusDecoder().decode(recorded)
    assert len(samples) == 6400
    spectrum = np.abs(np.fft.rfft(samples[1600:4800]))
    assert spectrum.argmax() * 5 == 440
    assert np.sqrt((samples**2).mean()) == pytest.approx(0.2128, abs=0.01)


def pages_of(samples):
    writer = sphn.OpusStreamWriter(24000)
    return [writer.append_pcm(samples[i : i + 960]) for i in range(0, len(samples), 960)]


def test_chunking_of_the_stream_does_not_matter():
    stream = b"".join(pages_of(tone(1)))
    whole, decoder = OpusDecoder().decode(stream), OpusDecoder()
    pieces = [decoder.decode(stream[i : i + 77]) for i in range(0, len(stream), 77)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_a_bad_page_costs_only_itself():
    pages, decoder = pages_of(tone(1)), OpusDecoder()
    decoder.decode(pages[0])
    with pytest.raises(BadAudio, match="skipped"):
        decoder.decode(b"garbage" * 8)
    assert len(decoder.decode(pages[1])) == 640
    assert len(decoder.decode(pages[2][:50])) == 0  # cut short
    assert len(decoder.decode(pages[3])) == 640


PAGES = pages_of(tone(24))


@given(st.randoms(use_true_random=False))
def test_no_damage_to_pages_breaks_the_decoder(rng):
    decoder = OpusDecoder()
    for page in PAGES[:9]:
        damaged = bytearray(page)
        for _ in range(rng.randrange(8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with contextlib.suppress(BadAudio):
            decoder.decode(bytes(damaged[: rng.randrange(1, len(damaged) + 1)]))
    # A false header may promise 64 KiB, as much as a page can hold; after that all is well.
    for page in PAGES[9:]:
        with contextlib.suppress(BadAudio):
            if len(decoder.decode(page)) == 640:
                return
    raise AssertionError("the decoder never came back")


def test_a_stream_may_restart():
    decoder = OpusDecoder()
    first = [decoder.decode(page) for page in pages_of(tone(0.4))]
    second = [decoder.decode(page) for page in pages_of(tone(0.4))]
    assert sum(map(len, first)) == sum(map(len, second)) == 6400


def test_a_small_message_cannot_hold_minutes_of_audio():
    """Packets of two bytes are 20 ms of silence each."""

    def page(number, packets, flags=0):
        header = b"OggS\x00" + bytes([flags]) + (number * 255 * 960).to_bytes(8, "little")
        header += (42).to_bytes(4, "little") + number.to_bytes(4, "little")
        body = bytes([len(packets)]) + bytes(map(len, packets)) + b"".join(packets)
        crc = 0
        for byte in header + bytes(4) + body:
            crc ^= byte << 24
            for _ in range(8):
                crc = ((crc << 1) ^ 0x04C11DB7) & 0xFFFFFFFF if crc >> 31 else crc << 1
        return header + crc.to_bytes(4, "little") + body

    head = b"OpusHead\x01\x01\x00\x00" + (24000).to_bytes(4, "little") + bytes(3)
    tags = b"OpusTags" + bytes(8)
    bomb = page(0, [head], 2) + page(1, [tags])
    bomb += b"".join(page(n, [b"\x08\x00"] * 50) for n in range(2, 70))
    with pytest.raises(BadAudio, match="more than 60 s"):
        OpusDecoder().decode(bomb)


def test_frames_cover_all_samples_and_only_the_last_is_filled_up():
    framer, samples = Framer(), np.arange(1, 2501, dtype=np.float32)
    frames = [f for i in range(0, 2500, 700) for f in framer.push(samples[i : i + 700])]
    frames += framer.finish()
    assert [len(frame) for frame in frames] == [960] * 3
    joined = np.concatenate(frames)
    assert np.array_equal(joined[:2500], samples) and not joined[2500:].any()
    assert framer.finish() == []
