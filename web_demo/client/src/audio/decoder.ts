// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Ogg/Opus bytes to 24 kHz mono samples, synchronously. */

import { OpusDecoder } from "opus-decoder";
import { OggReader } from "./ogg";

export const SAMPLE_RATE_HZ = 24000;

const starts = (packet: Uint8Array, word: string) =>
  [...word].every((letter, i) => packet[i] === letter.charCodeAt(0));

/** One stream of the server. A damaged page or packet loses only its own audio. */
export class OggOpusDecoder {
  private reader = new OggReader();

  private constructor(private readonly opus: OpusDecoder<typeof SAMPLE_RATE_HZ>) {}

  static async create(): Promise<OggOpusDecoder> {
    const opus = new OpusDecoder({ sampleRate: SAMPLE_RATE_HZ, channels: 1 });
    await opus.ready;
    return new OggOpusDecoder(opus);
  }

  decode(bytes: Uint8Array): Float32Array {
    const packets = this.reader
      .push(bytes)
      .filter(
        (packet) => packet.length && !starts(packet, "OpusHead") && !starts(packet, "OpusTags"),
      );
    return packets.length ? this.opus.decodeFrames(packets).channelData[0]! : new Float32Array(0);
  }

  /** Start a new stream, dropping what is left of the old one. */
  restart(): void {
    this.reader = new OggReader();
  }

  free(): void {
    this.opus.free();
  }
}
