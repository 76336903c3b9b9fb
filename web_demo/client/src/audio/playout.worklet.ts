// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Playout AudioWorklet: a PlayoutQueue with a message port. */

import { type PlayoutEvent, PlayoutQueue } from "./playout";

declare const sampleRate: number;
declare const registerProcessor: (name: string, processor: unknown) => void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

/** To the worklet. */
export type PlayoutCommand =
  | { kind: "push"; samples: Float32Array }
  | { kind: "end" }
  | { kind: "clear" };

/** From the worklet: at every event, and ten times a second while it plays. */
export interface PlayoutReport {
  event: PlayoutEvent | "cleared" | null;
  playedMs: number;
  bufferedMs: number;
  targetMs: number;
  stalls: number;
}

const REPORTS_PER_SECOND = 10;

class PlayoutProcessor extends AudioWorkletProcessor {
  private readonly queue = new PlayoutQueue(sampleRate);
  private sinceReport = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<PlayoutCommand>) => {
      if (data.kind === "push") this.queue.push(data.samples);
      else if (data.kind === "end") {
        const event = this.queue.end();
        if (event) this.report(event);
      } else {
        this.queue.clear();
        this.report("cleared");
      }
    };
  }

  process(_inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const out = outputs[0]?.[0];
    if (!out) return true;
    const event = this.queue.read(out);
    this.sinceReport += out.length;
    const due = this.queue.playing && this.sinceReport >= sampleRate / REPORTS_PER_SECOND;
    if (event || due) this.report(event);
    return true;
  }

  private report(event: PlayoutReport["event"]): void {
    this.sinceReport = 0;
    const { playedSamples, bufferedMs, targetMs, stalls } = this.queue;
    const playedMs = (playedSamples / sampleRate) * 1000;
    this.port.postMessage({
      event,
      playedMs,
      bufferedMs,
      targetMs,
      stalls,
    } satisfies PlayoutReport);
  }
}

registerProcessor("playout", PlayoutProcessor);
