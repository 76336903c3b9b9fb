// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * Samples to Ogg/Opus pages: 24 kHz mono, two 20 ms frames a page, one message for each page.
 *
 * libopus runs as WebAssembly in a worker of opus-recorder, which resamples and pages as well; so
 * every browser sends the same stream, whatever its microphone's rate.
 */

import workerUrl from "opus-recorder/dist/encoderWorker.min.js?url";

const OPUS_APPLICATION_AUDIO = 2049;

export class OpusEncoder {
  private readonly worker = new Worker(workerUrl);
  private begun = false;
  private broken: Error | null = null;
  private flushed: { resolve: () => void; reject: (error: Error) => void }[] = [];

  /** `onBroken` is called once, when the worker fails or cannot be loaded; no more pages follow. */
  constructor(
    private readonly onPage: (page: Uint8Array) => void,
    onBroken: () => void,
  ) {
    this.worker.onmessage = ({ data }) => {
      if (data.message === "page") this.onPage(data.page);
      if (data.message === "flushed") this.flushed.shift()?.resolve();
    };
    this.worker.onerror = ({ message = "its script did not load" }) => {
      if (this.broken) return;
      this.broken = new Error(`the Opus encoder failed (${message}); reload the page`);
      for (const { reject } of this.flushed.splice(0)) reject(this.broken);
      onBroken();
    };
  }

  /** Begins a new Ogg stream for samples of `rateHz`; its two header pages come at once. */
  begin(rateHz: number): void {
    if (this.begun) this.worker.postMessage({ command: "done" });
    this.begun = true;
    this.worker.postMessage({
      command: "init",
      originalSampleRate: rateHz,
      encoderSampleRate: 24000,
      numberOfChannels: 1,
      encoderApplication: OPUS_APPLICATION_AUDIO,
      encoderFrameSize: 20,
      maxFramesPerPage: 2,
      encoderComplexity: 5,
      resampleQuality: 3,
    });
    this.worker.postMessage({ command: "getHeaderPages" });
  }

  encode(frame: Float32Array): void {
    this.worker.postMessage({ command: "encode", buffers: [frame] });
  }

  /** Resolves once every frame given so far has left as a page; rejects if the worker has failed. */
  flush(): Promise<void> {
    if (this.broken) return Promise.reject(this.broken);
    if (!this.begun) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.flushed.push({ resolve, reject });
      this.worker.postMessage({ command: "flush" });
    });
  }

  close(): void {
    this.worker.terminate();
  }
}
