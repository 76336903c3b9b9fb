// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0

/** A WAV file of 16-bit samples; `channels` are of one length, from -1 to 1. */
export function writeWav(channels: Float32Array[], rateHz: number): Blob {
  const frames = channels[0]?.length ?? 0;
  const frameBytes = 2 * channels.length;
  const view = new DataView(new ArrayBuffer(44 + frames * frameBytes));
  const ascii = (at: number, word: string) => {
    for (let i = 0; i < word.length; i++) view.setUint8(at + i, word.charCodeAt(i));
  };
  ascii(0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  ascii(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, rateHz * frameBytes, true);
  view.setUint16(32, frameBytes, true);
  view.setUint16(34, 16, true);
  ascii(36, "data");
  view.setUint32(40, frames * frameBytes, true);
  channels.forEach((samples, channel) => {
    for (let i = 0; i < frames; i++) {
      const sample = Math.max(-1, Math.min(1, samples[i]!));
      view.setInt16(44 + i * frameBytes + 2 * channel, Math.round(sample * 32767), true);
    }
  });
  return new Blob([view], { type: "audio/wav" });
}
