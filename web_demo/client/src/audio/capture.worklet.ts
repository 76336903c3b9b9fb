// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Capture AudioWorklet: gathers the microphone's 128-sample blocks into 20 ms frames. */

import { FrameGatherer } from "./frames";

declare const sampleRate: number;
declare const registerProcessor: (name: string, processor: unknown) => void;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}

class CaptureProcessor extends AudioWorkletProcessor {
  private readonly gatherer = new FrameGatherer(Math.round(sampleRate / 50));

  process(inputs: Float32Array[][]): boolean {
    const block = inputs[0]?.[0];
    for (const frame of block ? this.gatherer.push(block) : []) {
      this.port.postMessage(frame, [frame.buffer as ArrayBuffer]);
    }
    return true;
  }
}

registerProcessor("capture", CaptureProcessor);
