// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0

/** Reads a sound file of any kind the browser knows as mono samples; rejects if it cannot. */
export async function decodeAudioFile(file: Blob, rateHz: number): Promise<Float32Array> {
  const context = new OfflineAudioContext(1, 1, rateHz);
  const decoded = await context.decodeAudioData(await file.arrayBuffer());
  const mono = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    const samples = decoded.getChannelData(channel);
    for (let i = 0; i < mono.length; i++) mono[i]! += samples[i]! / decoded.numberOfChannels;
  }
  return mono;
}
