// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** The jitter buffer between network and speaker, free of browser APIs so that it can be unit tested. */

export const MIN_TARGET_MS = 60;
export const MAX_TARGET_MS = 480;
const FADE_MS = 5;

export type PlayoutEvent = "started" | "dry" | "finished";

/**
 * A first-in first-out queue of samples that starts to play once `targetMs` of audio are buffered, or
 * have been waited for, or the reply is known to be complete; so nothing short stays silent.
 *
 * Audio that arrives after the queue ran dry in mid-reply counts as a stall: the target grows by
 * half, and shrinks by a tenth with each reply that had none. Every start fades in, every stop out.
 */
export class PlayoutQueue {
  targetMs = MIN_TARGET_MS;
  playedSamples = 0;
  stalls = 0;
  playing = false;

  private readonly chunks: Float32Array[] = [];
  private offset = 0; // samples of the first chunk already played
  private queued = 0;
  private waited = 0; // samples of silence given out since something has been queued
  private complete = false;
  private dry = false;
  private stalledInReply = false;
  private gain = 0;
  private last = 0;

  constructor(private readonly rateHz: number) {}

  get bufferedMs(): number {
    return (this.queued / this.rateHz) * 1000;
  }

  push(samples: Float32Array): void {
    if (!samples.length) return;
    if (this.dry) {
      this.stalls++;
      this.stalledInReply = true;
      this.targetMs = Math.min(MAX_TARGET_MS, this.targetMs * 1.5);
    }
    this.dry = this.complete = false;
    this.chunks.push(samples);
    this.queued += samples.length;
  }

  /** Ends the reply: queued audio plays at once, and running out of it does not count as a stall. */
  end(): PlayoutEvent | null {
    const event = this.playing || this.queued ? null : "finished";
    this.complete = true;
    if (!this.stalledInReply) this.targetMs = Math.max(MIN_TARGET_MS, this.targetMs * 0.9);
    this.dry = this.stalledInReply = false;
    return event;
  }

  /** Drops what has not been played. */
  clear(): void {
    this.chunks.length = 0;
    this.offset = this.queued = this.waited = 0;
    this.playing = this.complete = this.dry = this.stalledInReply = false;
  }

  /** Fills `out`; reports when playback begins, when it runs dry, and when a complete reply is over. */
  read(out: Float32Array): PlayoutEvent | null {
    let event: PlayoutEvent | null = null;
    if (!this.playing && this.queued && this.mayStart(out.length)) {
      this.playing = true;
      this.waited = 0;
      event = "started";
    }
    const filled = this.playing ? this.take(out) : 0;
    if (this.playing && !this.queued && (this.complete || filled < out.length)) {
      this.playing = false;
      this.dry = !this.complete;
      event = this.complete ? "finished" : "dry";
    }
    this.fade(out, filled);
    return event;
  }

  private mayStart(blockSamples: number): boolean {
    const targetSamples = (this.targetMs / 1000) * this.rateHz;
    this.waited += blockSamples;
    return this.complete || this.queued >= targetSamples || this.waited > targetSamples;
  }

  private take(out: Float32Array): number {
    let filled = 0;
    while (filled < out.length && this.chunks.length) {
      const chunk = this.chunks[0]!;
      const count = Math.min(out.length - filled, chunk.length - this.offset);
      out.set(chunk.subarray(this.offset, this.offset + count), filled);
      filled += count;
      this.offset += count;
      if (this.offset === chunk.length) {
        this.chunks.shift();
        this.offset = 0;
      }
    }
    this.queued -= filled;
    this.playedSamples += filled;
    return filled;
  }

  /** Raises the first samples after silence, and fades out the last one where audio stops. */
  private fade(out: Float32Array, filled: number): void {
    const step = 1000 / (FADE_MS * this.rateHz);
    for (let i = 0; i < out.length; i++) {
      this.gain = Math.min(1, Math.max(0, this.gain + (i < filled ? step : -step)));
      if (i < filled) this.last = out[i]!;
      out[i] = (i < filled ? out[i]! : this.last) * this.gain;
    }
  }
}
