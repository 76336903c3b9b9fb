// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0

/** Decode an audio file of any format the browser supports to mono samples; rejects on failure. */
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
