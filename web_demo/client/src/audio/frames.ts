// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0

/** Cuts a run of blocks of any length into frames of one length; nothing is lost between them. */
export class FrameGatherer {
  private frame: Float32Array;
  private filled = 0;

  constructor(private readonly frameSamples: number) {
    this.frame = new Float32Array(frameSamples);
  }

  push(block: Float32Array): Float32Array[] {
    const frames: Float32Array[] = [];
    for (let at = 0; at < block.length; ) {
      const count = Math.min(block.length - at, this.frameSamples - this.filled);
      this.frame.set(block.subarray(at, at + count), this.filled);
      at += count;
      this.filled += count;
      if (this.filled === this.frameSamples) {
        frames.push(this.frame);
        this.frame = new Float32Array(this.frameSamples);
        this.filled = 0;
      }
    }
    return frames;
  }
}
