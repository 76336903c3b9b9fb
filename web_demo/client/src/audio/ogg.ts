// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Reads the packets of an Ogg stream that arrives in pieces (RFC 3533). */

const HEADER_BYTES = 27;
const CAPTURE = [0x4f, 0x67, 0x67, 0x53, 0]; // "OggS" and the only version there is

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  return crc >>> 0;
});

/** Ogg's checksum of a page, its own four checksum bytes (22 to 25) taken as zero. */
export function pageChecksum(page: Uint8Array): number {
  let crc = 0;
  for (let i = 0; i < page.length; i++) {
    const byte = i >= 22 && i < 26 ? 0 : page[i]!;
    crc = ((crc << 8) ^ CRC_TABLE[(crc >>> 24) ^ byte]!) >>> 0;
  }
  return crc;
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

/**
 * Turns bytes into packets, however the bytes are cut. A page whose checksum fails is skipped and
 * reading goes on at the next page, so that a damaged page loses only its own audio.
 */
export class OggReader {
  private rest: Uint8Array = new Uint8Array(0);
  private open: Uint8Array | null = null; // a packet that continues on the next page

  push(bytes: Uint8Array): Uint8Array[] {
    this.rest = this.rest.length ? concat(this.rest, bytes) : bytes.slice();
    const packets: Uint8Array[] = [];
    for (;;) {
      this.seekPage();
      const length = this.pageLength();
      if (length === null) return packets;
      const page = this.rest.subarray(0, length);
      const stated = new DataView(page.buffer, page.byteOffset).getUint32(22, true);
      if (pageChecksum(page) === stated) {
        this.readPage(page, packets);
        this.rest = this.rest.slice(length);
      } else {
        this.open = null;
        this.rest = this.rest.slice(1);
      }
    }
  }

  /** Drops what stands before the next capture pattern. */
  private seekPage(): void {
    let at = 0;
    while (
      at < this.rest.length &&
      !CAPTURE.every((byte, i) => (this.rest[at + i] ?? byte) === byte)
    )
      at++;
    if (at) this.rest = this.rest.slice(at);
  }

  /** Bytes of the page at the front, or null while it is incomplete. */
  private pageLength(): number | null {
    if (this.rest.length < HEADER_BYTES) return null;
    const segments = this.rest[26]!;
    if (this.rest.length < HEADER_BYTES + segments) return null;
    let length = HEADER_BYTES + segments;
    for (let i = 0; i < segments; i++) length += this.rest[HEADER_BYTES + i]!;
    return this.rest.length < length ? null : length;
  }

  private readPage(page: Uint8Array, packets: Uint8Array[]): void {
    const segments = page[26]!;
    const continued = (page[5]! & 1) !== 0;
    if (!continued) this.open = null;
    let skip = continued && this.open === null; // its beginning was lost
    let start = HEADER_BYTES + segments;
    let end = start;
    for (let i = 0; i < segments; i++) {
      const lacing = page[HEADER_BYTES + i]!;
      end += lacing;
      if (lacing === 255 && i < segments - 1) continue;
      const part = page.slice(start, end);
      start = end;
      const whole: Uint8Array = this.open ? concat(this.open, part) : part;
      this.open = null;
      if (lacing === 255) this.open = skip ? null : whole;
      else if (skip) skip = false;
      else packets.push(whole);
    }
  }
}
