// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Microphone or audio file to Ogg/Opus pages; one stream per connection. */

import { Capture, type CaptureOptions } from "../audio/capture";
import { OpusEncoder } from "../audio/encoder";
import { decodeAudioFile } from "../audio/file";

/** Sample rate of the stream while no microphone is open. */
const FILE_RATE_HZ = 48000;
const FILE_SPEED = 4; // times real time: a reference server loses bursts

export class MicrophoneInput {
  /** Loudest sample of the last 20 ms, from 0 to 1. */
  level = 0;
  /** Whether audio is sent at the moment. */
  open = false;
  onSamples: (frame: Float32Array, rateHz: number) => void = () => {};
  onLost: () => void = () => {};
  onBroken: () => void = () => {};

  private capture: Capture | null = null;
  private openings = 0;
  private readonly encoder: OpusEncoder;
  private streamRateHz = 0; // of the Ogg stream that is being written
  private reading = false; // a file is being sent: the microphone waits

  constructor(onPage: (page: Uint8Array) => void) {
    this.encoder = new OpusEncoder(onPage, () => this.onBroken());
  }

  /**
   * Open the microphone, closing it first if it is open; throws a MicrophoneError on failure.
   * Returns false, and leaves none open, if another open or close came in between.
   */
  async openMicrophone(options: CaptureOptions): Promise<boolean> {
    this.closeMicrophone();
    const opening = this.openings;
    let capture: Capture;
    try {
      capture = await Capture.open(options);
    } catch (error) {
      if (opening !== this.openings) return false;
      throw error;
    }
    if (opening !== this.openings) {
      capture.close();
      return false;
    }
    this.capture = capture;
    this.capture.onFrame = (frame) => this.handleFrame(frame);
    this.capture.onLost = () => this.onLost();
    if (this.streamRateHz && this.streamRateHz !== this.rateHz) this.beginStream();
    return true;
  }

  closeMicrophone(): void {
    this.openings++;
    this.capture?.close();
    this.capture = null;
    this.level = 0;
  }

  beginStream(): void {
    this.streamRateHz = this.rateHz;
    this.encoder.begin(this.rateHz);
  }

  /** Resolve once all captured audio has been handed to the socket; reject if the encoder failed. */
  flush(): Promise<void> {
    return this.encoder.flush();
  }

  /**
   * Stream a file as if it were spoken; reject if the browser cannot decode it. Returns whether it
   * was sent to its end: opening the microphone stops it.
   */
  async streamFile(file: Blob): Promise<boolean> {
    this.reading = true;
    const { openings } = this;
    if (this.streamRateHz !== this.rateHz) this.beginStream();
    try {
      const samples = await decodeAudioFile(file, this.rateHz);
      const frameSamples = Math.round(this.rateHz / 50);
      for (let at = 0; at < samples.length && this.isCurrent(openings); at += frameSamples) {
        const frame = new Float32Array(frameSamples);
        frame.set(samples.subarray(at, at + frameSamples));
        this.encodeFrame(frame);
        if ((at / frameSamples) % 5 === 4)
          await new Promise((resume) => setTimeout(resume, 100 / FILE_SPEED));
      }
      return this.isCurrent(openings);
    } finally {
      this.reading = false;
    }
  }

  private isCurrent(openings: number): boolean {
    return this.open && openings === this.openings;
  }

  close(): void {
    this.closeMicrophone();
    this.encoder.close();
  }

  private get rateHz(): number {
    return this.capture?.rateHz ?? FILE_RATE_HZ;
  }

  private handleFrame(frame: Float32Array): void {
    this.level = frame.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
    if (this.open && !this.reading) this.encodeFrame(frame);
  }

  private encodeFrame(frame: Float32Array): void {
    this.onSamples(frame, this.rateHz);
    this.encoder.encode(frame);
  }
}
