// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Ogg/Opus pages to the speaker, tracking how much of each reply has been played. */

import { OggOpusDecoder } from "../audio/decoder";
import { Player } from "../audio/player";
import type { PlayoutReport } from "../audio/playout.worklet";

export class AudioOutput {
  onReport: (report: PlayoutReport) => void = () => {};
  onSamples: (samples: Float32Array) => void = () => {};

  private accepting = false;
  private last = { playedMs: 0, bufferedMs: 0, atMs: 0, playing: false };
  private replyFromMs = 0; // the player's clock when the reply began

  private constructor(
    readonly player: Player,
    private readonly decoder: OggOpusDecoder,
  ) {
    player.onReport = (report) => {
      const playing = report.event === null || report.event === "started";
      this.last = { ...report, atMs: performance.now(), playing };
      this.onReport(report);
    };
  }

  /** Must be called from a click or key press. */
  static async create(): Promise<AudioOutput> {
    const [player, decoder] = await Promise.all([Player.create(), OggOpusDecoder.create()]);
    return new AudioOutput(player, decoder);
  }

  beginStream(): void {
    this.decoder.restart();
    this.accepting = false;
  }

  /** Start a reply, dropping whatever is left of the previous one. */
  beginReply(): void {
    this.clear();
    this.accepting = true;
    this.replyFromMs = this.totalMs();
  }

  /** Play audio of the current reply; returns false for late audio of an interrupted one. */
  play(bytes: Uint8Array): boolean {
    const samples = this.decoder.decode(bytes);
    if (!this.accepting || !samples.length) return false;
    this.onSamples(samples);
    this.player.push(samples);
    return true;
  }

  /** Mark the reply as complete: the rest of its buffer plays out. */
  endReply(): void {
    this.player.end();
  }

  /** Stop playback at once; nothing plays until the next reply begins. */
  stopPlayback(): void {
    this.accepting = false;
    this.clear();
  }

  /** Milliseconds of the reply that have been played. */
  heardMs(): number {
    return Math.max(0, Math.round(this.totalMs() - this.replyFromMs));
  }

  close(): void {
    this.player.close();
    this.decoder.free();
  }

  private clear(): void {
    this.last = {
      playedMs: this.totalMs(),
      bufferedMs: 0,
      atMs: performance.now(),
      playing: false,
    };
    this.player.clear();
  }

  private totalMs(): number {
    const { playedMs, bufferedMs, atMs, playing } = this.last;
    return playedMs + (playing ? Math.min(performance.now() - atMs, bufferedMs) : 0);
  }
}
