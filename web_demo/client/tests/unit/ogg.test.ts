// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { OggOpusDecoder } from "../../src/audio/decoder";
import { OggReader, pageChecksum } from "../../src/audio/ogg";
import { goldenStream, rms } from "./golden";

/** One page around `parts`: a part of a whole multiple of 255 bytes goes on in the next page. */
function page(parts: Uint8Array[], continued = false): Uint8Array {
  const lacing = parts.flatMap((part) => {
    const full = Array<number>(Math.floor(part.length / 255)).fill(255);
    return part.length % 255 ? [...full, part.length % 255] : full;
  });
  const bytes = new Uint8Array(
    27 + lacing.length + parts.reduce((sum, part) => sum + part.length, 0),
  );
  bytes.set([0x4f, 0x67, 0x67, 0x53, 0, continued ? 1 : 0]);
  bytes[26] = lacing.length;
  bytes.set(lacing, 27);
  let at = 27 + lacing.length;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  new DataView(bytes.buffer).setUint32(22, pageChecksum(bytes), true);
  return bytes;
}

const join = (parts: Uint8Array[]) => Uint8Array.from(parts.flatMap((part) => [...part]));
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);

describe("the Ogg reader", () => {
  it("finds the two headers and ten packets of a recorded stream", () => {
    const packets = new OggReader().push(goldenStream().bytes);
    expect(packets).toHaveLength(12);
    expect(new TextDecoder().decode(packets[0]!.subarray(0, 8))).toBe("OpusHead");
    expect(new TextDecoder().decode(packets[1]!.subarray(0, 8))).toBe("OpusTags");
  });

  it.each([1, 7, 100, 1000])("gives the same packets when bytes come %i at a time", (size) => {
    const { bytes } = goldenStream();
    const reader = new OggReader();
    const packets: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; at += size)
      packets.push(...reader.push(bytes.slice(at, at + size)));
    expect(packets).toEqual(new OggReader().push(bytes));
  });

  it("loses only the damaged page", () => {
    const { messages } = goldenStream();
    const damaged = messages.map((message) => message.slice());
    damaged[4]![60]! ^= 0xff;
    const whole = new OggReader().push(join(messages));
    whole.splice(6, 1); // two headers, then the packet of the fifth message
    expect(new OggReader().push(join(damaged))).toEqual(whole);
  });

  it("skips noise before, between and inside pages", () => {
    const noise = new TextEncoder().encode("noise OggOggS");
    const stream = join([noise, page([filled(3, 1)]), noise, page([filled(4, 2)])]);
    expect(new OggReader().push(stream)).toEqual([filled(3, 1), filled(4, 2)]);
  });

  it("joins a packet over pages, and drops one whose beginning is lost", () => {
    const first = page([filled(2, 9), filled(510, 5)]);
    const second = page([filled(20, 5), filled(3, 6)], true);
    expect(new OggReader().push(join([first, second]))).toEqual([
      filled(2, 9),
      filled(530, 5),
      filled(3, 6),
    ]);
    expect(new OggReader().push(second)).toEqual([filled(3, 6)]);
  });
});

describe("the Opus decoder", () => {
  it("decodes a recorded stream, message by message, to the recorded samples", async () => {
    const { messages, samples } = goldenStream();
    const decoder = await OggOpusDecoder.create();
    const pieces = messages.map((message) => decoder.decode(message));
    decoder.free();
    const decoded = Float32Array.from(pieces.flatMap((piece) => [...piece]));
    expect(pieces.map((piece) => piece.length)).toEqual(Array(10).fill(960));
    const difference = decoded.map((sample, i) => sample - samples[i]!);
    expect(rms(difference)).toBeLessThan(0.01 * rms(samples));
  });

  it("goes on after a packet that is not Opus", async () => {
    const { messages } = goldenStream();
    const decoder = await OggOpusDecoder.create();
    decoder.decode(messages[0]!);
    decoder.decode(page([filled(2, 255)]));
    expect(rms(decoder.decode(messages[1]!))).toBeGreaterThan(0.1);
    decoder.free();
  });
});
