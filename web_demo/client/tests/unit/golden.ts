// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from "node:fs";

const file = (name: string) => readFileSync(new URL(`./golden/${name}`, import.meta.url));

/** A recorded server stream: ten 40 ms frames of a 440 Hz sine, as messages and as samples. */
export function goldenStream() {
  const meta = JSON.parse(file("meta.json").toString());
  const bytes = new Uint8Array(file("sine440_24k_10x40ms.ogg"));
  const messages: Uint8Array[] = [];
  let at = 0;
  for (const length of meta.message_lengths as number[]) {
    messages.push(bytes.slice(at, at + length));
    at += length;
  }
  const npy = file("sine440_24k_10x40ms_decoded.npy");
  const data = npy.subarray(npy.length - 4 * meta.decoded_samples);
  const samples = new Float32Array(Uint8Array.from(data).buffer);
  return { bytes, messages, samples };
}

export function rms(samples: Float32Array): number {
  return Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
}
