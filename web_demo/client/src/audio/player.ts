// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Audio output: playout worklet, volume, output device and level meter. */

import { START_WITHIN_MS, startWithin } from "./context";
import { SAMPLE_RATE_HZ } from "./decoder";
import type { PlayoutCommand, PlayoutReport } from "./playout.worklet";
import workletUrl from "./playout.worklet.ts?worker&url";

type SinkContext = AudioContext & { setSinkId?: (id: string) => Promise<void> };

/** Whether this browser lets a page choose the output device. */
export const canChooseOutput = "setSinkId" in (globalThis.AudioContext?.prototype ?? {});

export class Player {
  onReport: (report: PlayoutReport) => void = () => {};
  private readonly samples: Float32Array<ArrayBuffer>;

  private constructor(
    private readonly context: SinkContext,
    private readonly node: AudioWorkletNode,
    private readonly volume: GainNode,
    private readonly analyser: AnalyserNode,
  ) {
    this.samples = new Float32Array(analyser.fftSize);
    node.port.onmessage = ({ data }) => this.onReport(data);
  }

  /** Must be called from a click or key press: browsers keep a page silent until then. */
  static async create(): Promise<Player> {
    const context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ, latencyHint: "interactive" });
    const resumed = startWithin(context, START_WITHIN_MS);
    await context.audioWorklet.addModule(workletUrl);
    const node = new AudioWorkletNode(context, "playout", { numberOfInputs: 0 });
    const volume = context.createGain();
    const analyser = new AnalyserNode(context, { fftSize: 512 });
    node.connect(analyser);
    node.connect(volume).connect(context.destination);
    await resumed;
    return new Player(context, node, volume, analyser);
  }

  push(samples: Float32Array): void {
    this.send({ kind: "push", samples }, [samples.buffer as ArrayBuffer]);
  }

  end(): void {
    this.send({ kind: "end" });
  }

  clear(): void {
    this.send({ kind: "clear" });
  }

  /** From 0 (silent) to 1. */
  setVolume(volume: number): void {
    this.volume.gain.setTargetAtTime(volume, this.context.currentTime, 0.02);
  }

  async setOutput(deviceId: string): Promise<void> {
    await this.context.setSinkId?.(deviceId);
  }

  /** Loudest sample of the last 20 ms, from 0 to 1. */
  level(): number {
    this.analyser.getFloatTimeDomainData(this.samples);
    return this.samples.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
  }

  /** Whether audio can be played; false without an output device. */
  get running(): boolean {
    return this.context.state === "running";
  }

  async resume(): Promise<void> {
    if (this.context.state !== "running") await this.context.resume();
  }

  close(): void {
    void this.context.close();
  }

  private send(command: PlayoutCommand, transfer: Transferable[] = []): void {
    this.node.port.postMessage(command, transfer);
  }
}
