// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { decode, encode, type Message } from "../../src/protocol/messages";

const TABLE: [string, Message, number[]][] = [
  ["handshake", { type: "handshake", version: 0, model: 0 }, [0, 0, 0]],
  ["audio", { type: "audio", data: Uint8Array.of(0x4f, 0x67) }, [1, 0x4f, 0x67]],
  ["text", { type: "text", text: "é你" }, [2, 0xc3, 0xa9, 0xe4, 0xbd, 0xa0]],
  ["start", { type: "control", action: "start" }, [3, 0]],
  ["endTurn", { type: "control", action: "endTurn" }, [3, 1]],
  ["pause", { type: "control", action: "pause" }, [3, 2]],
  ["restart", { type: "control", action: "restart" }, [3, 3]],
  ["metadata", { type: "metadata", data: { a: 1 } }, [4, ...new TextEncoder().encode('{"a":1}')]],
  ["error", { type: "error", text: "no" }, [5, 0x6e, 0x6f]],
  ["ping", { type: "ping" }, [6]],
  ["file", { type: "file", data: Uint8Array.of(1, 2) }, [8, 1, 2]],
  ["coloured text", { type: "coloured", colour: 3, text: "a" }, [7, 3, 0x61]],
];

describe("the message codec", () => {
  it.each(TABLE)("writes and reads %s byte for byte", (_name, message, bytes) => {
    expect([...encode(message)]).toEqual(bytes);
    expect(decode(Uint8Array.from(bytes))).toEqual(message);
  });

  it("ignores what it cannot understand", () => {
    const frames = [[], [9], [255, 1, 2], [3, 9], [4, 0x7b], [7]];
    for (const bytes of frames) expect(decode(Uint8Array.from(bytes))).toBeNull();
  });

  it("tolerates short handshakes, a control without a byte and invalid UTF-8", () => {
    expect(decode(Uint8Array.of(0))).toEqual({ type: "handshake", version: 0, model: 0 });
    expect(decode(Uint8Array.of(3))).toEqual({ type: "control", action: "start" });
    expect(decode(Uint8Array.of(2, 0x61, 0xff))).toEqual({ type: "text", text: "a\ufffd" });
  });

  it("never throws, whatever arrives", () => {
    let seed = 1;
    const random = () => (seed = (seed * 48271) % 2147483647);
    for (let round = 0; round < 2000; round++) {
      const bytes = Uint8Array.from({ length: random() % 40 }, () => random() % 256);
      if (bytes.length) bytes[0] = random() % 10;
      expect(() => decode(bytes)).not.toThrow();
    }
  });
});
