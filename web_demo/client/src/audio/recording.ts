// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Records both sides in the browser's memory and exports them as a WAV file on request. */

import { SAMPLE_RATE_HZ } from "./decoder";
import { writeWav } from "./wav";

export type Side = "user" | "assistant";

interface Clip {
  side: Side;
  startMs: number;
  rateHz: number;
  pieces: Int16Array[];
  samples: number;
}

const toInt16 = (samples: Float32Array) =>
  Int16Array.from(samples, (x) => Math.round(32767 * Math.max(-1, Math.min(1, x))));

const LONGEST_PAUSE_MS = 1000;

/** When each clip is to begin so that no pause in which nobody is heard is longer than a second; from 0, in order. */
export function withoutIdle(clips: { startMs: number; lengthMs: number }[]): number[] {
  const begins = new Array<number>(clips.length).fill(0);
  let endMs = 0; // of what was laid out so far
  let idleMs = Math.min(...clips.map(({ startMs }) => startMs));
  for (const i of clips.map((_, i) => i).sort((a, b) => clips[a]!.startMs - clips[b]!.startMs)) {
    const { startMs, lengthMs } = clips[i]!;
    idleMs += Math.max(0, startMs - idleMs - endMs - LONGEST_PAUSE_MS);
    begins[i] = startMs - idleMs;
    endMs = Math.max(endMs, begins[i] + lengthMs);
  }
  return begins;
}

export class Recording {
  private clips: Clip[] = [];
  private samples = 0;

  /** `maxSamples` bounds the memory (2 bytes a sample): the oldest clips go first. */
  constructor(private readonly maxSamples = 100_000_000) {}

  /** Add audio to the newest clip of `side`, or to a new one that begins at `startMs`. */
  add(side: Side, startMs: number, rateHz: number, samples: Float32Array, fresh: boolean): void {
    let clip = this.clips.findLast((candidate) => candidate.side === side);
    if (fresh || !clip || clip.rateHz !== rateHz) {
      clip = { side, startMs, rateHz, pieces: [], samples: 0 };
      this.clips.push(clip);
    }
    clip.pieces.push(toInt16(samples));
    clip.samples += samples.length;
    this.samples += samples.length;
    while (this.samples > this.maxSamples && this.clips.length > 1)
      this.samples -= this.clips.shift()!.samples;
  }

  /** Cuts the newest clip of `side` to its first `ms`: the rest was never heard. */
  cut(side: Side, ms: number): void {
    const clip = this.clips.findLast((candidate) => candidate.side === side);
    if (!clip) return;
    this.samples -= clip.samples;
    clip.samples = Math.min(clip.samples, Math.round((ms / 1000) * clip.rateHz));
    this.samples += clip.samples;
  }

  get empty(): boolean {
    return this.samples === 0;
  }

  /** A 24 kHz stereo WAV: the user on the left, the assistant on the right, long pauses shortened. */
  async wav(): Promise<Blob> {
    const clips = this.clips.filter(({ samples }) => samples > 0);
    const spans = clips.map(({ startMs, samples, rateHz }) => ({
      startMs,
      lengthMs: (1000 * samples) / rateHz,
    }));
    const begins = withoutIdle(spans);
    const endMs = Math.max(0, ...begins.map((beginMs, i) => beginMs + spans[i]!.lengthMs));
    const length = Math.max(1, Math.ceil((endMs / 1000) * SAMPLE_RATE_HZ));
    const context = new OfflineAudioContext(2, length, SAMPLE_RATE_HZ);
    const merger = context.createChannelMerger(2);
    merger.connect(context.destination);
    for (const [i, clip] of clips.entries()) {
      const buffer = context.createBuffer(1, clip.samples, clip.rateHz);
      const channel = buffer.getChannelData(0);
      let at = 0;
      for (const piece of clip.pieces) {
        for (let i = 0; i < piece.length && at < clip.samples; i++)
          channel[at++] = piece[i]! / 32768;
      }
      const source = new AudioBufferSourceNode(context, { buffer });
      source.connect(merger, 0, clip.side === "user" ? 0 : 1);
      source.start(begins[i]! / 1000);
    }
    const rendered = await context.startRendering();
    return writeWav([rendered.getChannelData(0), rendered.getChannelData(1)], SAMPLE_RATE_HZ);
  }
}
