// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** The way from microphone or sound file to Ogg/Opus pages; one stream for each connection. */

import { Capture, type CaptureOptions } from "../audio/capture";
import { OpusEncoder } from "../audio/encoder";
import { decodeAudioFile } from "../audio/file";

/** What the encoder is fed with while there is no microphone. */
const FILE_RATE_HZ = 48000;
const FILE_SPEED = 4; // times real time: a server of the reference loses a burst

export class MicrophoneInput {
  /** Loudest sample of the last 20 ms, from 0 to 1. */
  level = 0;
  /** Whether sound is to be sent now. */
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
   * Opens the microphone, anew if it is open; throws a MicrophoneError where that cannot be.
   * Returns false, and leaves none open, if it was closed or opened otherwise meanwhile.
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

  /** Resolves when all that was heard so far has been handed to the socket; rejects if it cannot. */
  flush(): Promise<void> {
    return this.encoder.flush();
  }

  /**
   * Says a file as if it were spoken; rejects if the browser cannot read it. Returns whether it was
   * said to its end: opening the microphone stops it.
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
