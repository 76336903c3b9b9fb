# Copyright 2026 The Fun-Audio-Chat toolkit contributors.
# SPDX-License-Identifier: Apache-2.0

"""Find where each audio file in a run of bytes begins and ends.

Recorders, browsers and download tools join files end to end, put tags or padding in front, and
leave headers unfinished. Decoders stop at the end of the first file, or at the length its header
states, without a word. :func:`split` gives every file by itself, so that all of them are decoded,
and refuses one whose header promises more than is there.

Layouts: RIFF and RF64 (EBU Tech 3306), AIFF, AU, CAF, FLAC (RFC 9639), Ogg (RFC 3533, section 4 on
chaining), MPEG audio with Xing/Info headers, Matroska (RFC 9559), ISO media (ISO/IEC 14496-12).
"""

import re
import struct
import warnings
from collections.abc import Callable

from funaudiochat.errors import AudioError

# Writers to a pipe leave a placeholder where the size belongs: 0, all ones, or a huge number. No
# file that is worth reading as one question has a gigabyte.
UNKNOWN_SIZE_BYTES = 1_000_000_000
# Some writers count a header of up to this size among the samples.
MISCOUNTED_BYTES = 44
_WAVE_START = re.compile(rb"(RIFF|RF64)....WAVE", re.DOTALL)
_AIFF_START = re.compile(rb"FORM....AIF[FC]", re.DOTALL)
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_MATROSKA_START = re.compile(rb"\x1a\x45\xdf\xa3.{1,64}?(webm|matroska)", re.DOTALL)
_CLUSTER = b"\x1f\x43\xb6\x75"
_BOXES = {
    b"moov",
    b"mdat",
    b"moof",
    b"mfra",
    b"free",
    b"skip",
    b"wide",
    b"uuid",
    b"meta",
    b"udta",
    b"sidx",
    b"ssix",
    b"styp",
    b"emsg",
    b"prft",
    b"pdin",
}
_ZEROS = re.compile(rb"\x00*")
# kbit/s by (is it MPEG-1, layer), for the header's indices 1 to 14.
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# By the header's version bits: MPEG-1, MPEG-2, MPEG-2.5.
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def split(data: bytes, name: str) -> list[bytes]:
    """Split bytes into the audio files they hold, without tags and padding in front.

    Args:
        data: one or more audio files.
        name: of the source, for messages.

    Returns:
        At least one element; bytes of no known container are left as they are.

    Raises:
        AudioError: a file promises more than is there.

    Warns:
        UserWarning: a file breaks off, or bytes behind it are of no known kind.
    """
    files: list[bytes] = []
    start = _skip_tags(data, 0)
    while start < len(data):
        take = _container(data, start)
        if take is None:
            if files and len(data) - start > MISCOUNTED_BYTES:
                warnings.warn(
                    f"the last {len(data) - start} bytes of {name} are not audio of a known kind "
                    "and are not read",
                    stacklevel=4,
                )
            return files or [data[start:]]
        file, end = take(data, start, name)
        files.append(file)
        start = _skip_tags(data, end)
    return files or [b""]


def _skip_tags(data: bytes, start: int) -> int:
    """Return the end of the padding and of the ID3v1 and ID3v2 tags at ``start``."""
    while True:
        start = _ZEROS.match(data, start).end()  # type: ignore[union-attr]
        if data[start + 1 : start + 5] == b"ftyp":
            return start - 3  # the zeros of a box's size
        if data[start : start + 3] == b"ID3" and len(data) >= start + 10:
            size = 0
            for byte in data[start + 6 : start + 10]:
                size = size << 7 | byte & 0x7F
            start += 10 + size + (10 if data[start + 5] & 0x10 else 0)
        elif data[start : start + 3] == b"TAG":
            start += 128
        else:
            return start


# (bytes, start of a file, name) -> the file as a decoder should read it, where the next begins.
_Take = Callable[[bytes, int, str], tuple[bytes, int]]


def _container(data: bytes, start: int) -> _Take | None:
    head = data[start : start + 12]
    if _WAVE_START.match(head):
        return _take_wave
    if _AIFF_START.match(head):
        return _take_aiff
    by_magic = {b"caff": _take_caf, b".snd": _take_au, b"fLaC": _take_flac, b"OggS": _take_ogg,
                b"\x1a\x45\xdf\xa3": _take_matroska}  # fmt: skip
    if head[:4] in by_magic:
        return by_magic[head[:4]]
    if head[4:8] == b"ftyp":
        return _take_iso
    if _adts_bytes(data, start):
        return _take_adts
    return _take_mpeg if _frame_bytes(data, start) else None


def _truncated(name: str, promised: int, there: int, unit: str = "bytes") -> AudioError:
    return AudioError(
        f"{name} is truncated: its header promises {promised} {unit}, {there} are there; "
        "copy or download it again"
    )


def _available(stated: int, there: int, name: str) -> int:
    """Return how many bytes of samples to read, of those a header states and those there are.

    Raises:
        AudioError: fewer are there than a finished header promises.
    """
    if stated - there > MISCOUNTED_BYTES and stated < UNKNOWN_SIZE_BYTES:
        raise _truncated(name, stated, there)
    return min(stated, there)


def _warn_of_end(name: str) -> None:
    warnings.warn(f"{name} breaks off before its end; what is there is read", stacklevel=6)


def _next(pattern: re.Pattern[bytes], data: bytes, start: int) -> int:
    found = pattern.search(data, start)
    return found.start() if found else len(data)


def _take_wave(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    return _take_chunks(data, start, name, "<4sI", b"data", _WAVE_START)


def _take_aiff(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    return _take_chunks(data, start, name, ">4sI", b"SSND", _AIFF_START)


def _take_chunks(
    data: bytes, start: int, name: str, layout: str, samples: bytes, magic: re.Pattern[bytes]
) -> tuple[bytes, int]:
    """RIFF, RF64 and AIFF: up to the end of the samples, with the sizes that are there."""
    at, long_size = start + 12, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(layout, data, at)
        body = at + 8
        if kind == b"ds64" and size >= 16:
            long_size = int.from_bytes(data[body + 8 : body + 16], "little")
        if kind == samples:
            there = _next(magic, data, body) - body
            if size == 0xFFFFFFFF and 0 < long_size < 1 << 63:
                size = long_size
            elif size == 0 and there and not _is_chunk(data, body, layout):
                size = UNKNOWN_SIZE_BYTES
            # A next file's header ends samples of unknown length only, else chance could cut them.
            if size < UNKNOWN_SIZE_BYTES:
                there = len(data) - body
            size = _available(size, there, name)
            end = body + size
            end += size % 2 if data[end : end + 1] == b"\0" else 0
            while _is_chunk(data, end, layout) and not _container(data, end):
                (more,) = struct.unpack_from(layout[0] + "I", data, end + 4)
                end += 8 + more + more % 2
            header = bytearray(data[start:body]).replace(b"RF64", b"RIFF", 1)
            header = header.replace(b"ds64", b"JUNK", 1)
            struct.pack_into(layout[0] + "I", header, 4, min(end, len(data)) - start - 8)
            struct.pack_into(layout[0] + "I", header, len(header) - 4, size)
            return bytes(header) + data[body:end], end
        at = body + size + size % 2
    return data[start:], len(data)  # without samples: the decoder says what is wrong


def _is_chunk(data: bytes, at: int, layout: str) -> bool:
    if at + 8 > len(data):
        return False
    kind, size = struct.unpack_from(layout, data, at)
    return all(32 <= byte < 127 for byte in kind) and at + 8 + size <= len(data)


def _take_caf(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    at = start + 8
    while at + 12 <= len(data):
        kind, size = struct.unpack_from(">4sq", data, at)
        body = at + 12
        if kind == b"data":
            there = len(data) - body
            size = there if size < 0 else _available(size, there, name)
            header = bytearray(data[start:body])
            struct.pack_into(">q", header, len(header) - 8, size)
            end = body + size
            while end + 12 <= len(data) and data[end : end + 4].isalpha():  # packet table, texts
                (more,) = struct.unpack_from(">q", data, end + 4)
                if _container(data, end) or not 0 <= more <= len(data) - end - 12:
                    break
                end += 12 + more
            return bytes(header) + data[body:end], end
        if size < 0:
            break
        at = body + size
    return data[start:], len(data)


_AU_HEADER_BYTES = 24  # at least


def _take_au(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    if start + 12 > len(data):
        return data[start:], len(data)
    offset, size = struct.unpack_from(">II", data, start + 4)
    body = start + offset
    if offset < _AU_HEADER_BYTES:  # the decoder says what is wrong
        return data[start:], len(data)
    if body > len(data):
        raise _truncated(name, offset, len(data) - start)
    size = _available(size, len(data) - body, name)
    header = bytearray(data[start:body])
    struct.pack_into(">I", header, 8, size)
    return bytes(header) + data[body : body + size], body + size


def _take_flac(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    end = _next(_FLAC_START, data, start + 4)
    return data[start:end], end


def _take_ogg(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    """Take one link of a chain: up to the page that begins a stream after pages that do not."""
    at, end, inside, ended = start, len(data), False, False
    while at >= 0 and at + 27 <= len(data):
        begins = bool(data[at + 5] & 2)
        if begins and inside:
            return data[start:end], at
        inside, ended = inside or not begins, bool(data[at + 5] & 4)
        segments = data[at + 26]
        end = at = at + 27 + segments + sum(data[at + 27 : at + 27 + segments])
        if data[at : at + 4] != b"OggS":
            at = data.find(b"OggS", at)
    if not ended or end > len(data):
        _warn_of_end(name)
    return data[start:end], end


def _take_matroska(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    at = start
    while at < len(data):
        kind, at = data[at : at + 4], at + 4
        size, at = _vint(data, at)
        if kind not in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
            break
        if size is None:  # a live recording: until the next one begins
            end = _next(_MATROSKA_START, data, at)
            _check_live(data, at, end, name)
            return data[start:end], end
        if at + size > len(data):
            raise _truncated(name, size, len(data) - at)
        at += size
        if kind == b"\x18\x53\x80\x67":
            end = _next(_MATROSKA_START, data, at)
            return data[start:at], end
    return data[start:], len(data)


def _check_live(data: bytes, at: int, end: int, name: str) -> None:
    """Warn of a live recording whose last element is not all there."""
    while at < end:
        width = 9 - data[at].bit_length()
        kind, at = data[at : at + width], at + width
        if at >= end:
            at = end + 1
            break
        size, at = _vint(data, at)
        if kind != _CLUSTER and size is not None:
            at += size
    if at > end:
        _warn_of_end(name)


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """Return the size that an EBML number at ``at`` states, None for unknown, and its end."""
    if at >= len(data) or not data[at]:
        return None, len(data)
    width = 9 - data[at].bit_length()
    bits = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return None if bits == (1 << 7 * width) - 1 else bits, at + width


def _take_iso(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    at, inside = start, False
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if inside and kind not in _BOXES:
            return data[start:at], at  # the next file, padding or a tag
        inside = inside or kind in (b"moov", b"mdat", b"moof")
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size < 8:
            break  # the last box, to the end; or damaged, and the decoder says so
        if at + size > len(data):
            raise _truncated(name, size, len(data) - at)
        at += size
    return data[start:], len(data)


def _adts_bytes(data: bytes, at: int) -> int:
    """Return the length of the ADTS frame (ISO/IEC 14496-3) at ``at``, 0 if there is none."""
    if at + 7 > len(data) or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return 0
    size = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return size if size >= 7 else 0


def _take_adts(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    """All frames, without the tags and padding between them."""
    at = start
    frames: list[bytes] = []
    while at < len(data):
        size = _adts_bytes(data, at)
        if not size:
            following = _skip_tags(data, at)
            if following == at:
                break
            at = following
        elif at + size > len(data) and frames:
            _warn_of_end(name)
            return b"".join(frames), len(data)
        else:
            frames.append(data[at : at + size])
            at += size
    if at < len(data) and not _container(data, at):
        if len(data) - at < 7 and frames:
            _warn_of_end(name)
        else:
            frames.append(data[at:])  # damaged: the decoder says so
        at = len(data)
    return b"".join(frames), at


def _frame_bytes(data: bytes, at: int) -> int:
    """Return the length of the MPEG audio frame at ``at``, 0 if there is none."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bitrate, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or not 1 <= bitrate <= 14 or rate == 3:
        return 0
    bits_s = 1000 * _BITRATES[version == 3, layer][bitrate - 1]
    rate_hz, padding = _RATES_HZ[version][rate], data[at + 2] >> 1 & 1
    if layer == 1:
        return 4 * (12 * bits_s // rate_hz + padding)
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits_s // rate_hz + padding


def _take_mpeg(data: bytes, start: int, name: str) -> tuple[bytes, int]:
    """Frames up to the number that a Xing or Info header states, or to the next such header."""
    stated = _frames_stated(data, start)
    at, count, cut = start, 0, False
    while at < len(data):
        size = _frame_bytes(data, at)
        if stated is None and data[at] == 0xFF and len(data) - at < 4:  # of a frame's header
            at, cut = len(data), True
            break
        if not size:
            following = _skip_tags(data, at)
            at = following if following > at else _resync(data, at + 1)
            continue
        if at > start and _frames_stated(data, at) is not None:
            break
        if stated is not None and count > stated:
            break
        if at + size > len(data):
            at, cut = len(data), True
            break
        count, at = count + 1, at + size
    # Some writers count the header's own frame.
    if stated is not None and (count < stated or cut):
        raise _truncated(name, stated, count - 1, "frames")
    if cut:
        _warn_of_end(name)
    return data[start:at], at


def _resync(data: bytes, at: int) -> int:
    """Return the next place with two frames in a row, or the end."""
    while (at := data.find(b"\xff", at)) >= 0:
        size = _frame_bytes(data, at)
        if size and (at + size >= len(data) or _frame_bytes(data, at + size)):
            return at
        at += 1
    return len(data)


def _frames_stated(data: bytes, at: int) -> int | None:
    """Return the number of frames in the Xing or Info header of the frame at ``at``, if any."""
    mpeg1, mono = data[at + 1] >> 3 & 3 == 3, data[at + 3] >> 6 == 3
    tag = at + 4 + ((17 if mono else 32) if mpeg1 else (9 if mono else 17))
    if data[tag : tag + 4] not in (b"Xing", b"Info") or not data[tag + 7 : tag + 8]:
        return None
    return int.from_bytes(data[tag + 8 : tag + 12], "big") if data[tag + 7] & 1 else None
