// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { FrameGatherer } from "../../src/audio/frames";
import { MAX_TARGET_MS, MIN_TARGET_MS, PlayoutQueue } from "../../src/audio/playout";

const RATE_HZ = 24000;
const BLOCK = 128;
const BLOCK_MS = (BLOCK / RATE_HZ) * 1000;
const audio = (ms: number, value = 0.5) => new Float32Array((ms / 1000) * RATE_HZ).fill(value);

/** Plays `ms` of time; returns the samples heard and the events with their times. */
function play(queue: PlayoutQueue, ms: number) {
  const heard: number[] = [];
  const events: { event: string; ms: number }[] = [];
  for (let at = 0; at < ms; at += BLOCK_MS) {
    const out = new Float32Array(BLOCK);
    const event = queue.read(out);
    if (event) events.push({ event, ms: at });
    heard.push(...out);
  }
  return { heard, events, names: events.map(({ event }) => event) };
}

describe("the playout queue", () => {
  it("starts within 100 ms of the first packet even if no other packet follows", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    queue.push(audio(40));
    const { events } = play(queue, 200);
    expect(events.map(({ event }) => event)).toEqual(["started", "dry"]);
    expect(events[0]!.ms).toBeLessThan(100);
    expect(queue.playedSamples).toBe(960);
  });

  it("starts at once when the target is there", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    queue.push(audio(MIN_TARGET_MS));
    expect(play(queue, BLOCK_MS).names).toEqual(["started"]);
  });

  it("plays a reply of 20 ms at once when its end is known, and says when it is over", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    queue.push(audio(20));
    expect(queue.end()).toBeNull();
    expect(play(queue, 50).names).toEqual(["started", "finished"]);
    expect(queue.stalls).toBe(0);
    expect(queue.playedSamples).toBe(480);
  });

  it("ends at once when nothing is left to play", () => {
    expect(new PlayoutQueue(RATE_HZ).end()).toBe("finished");
  });

  it("gives every sample once and in order", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    const ramp = Float32Array.from({ length: 4800 }, (_, i) => i / 4800);
    for (const [from, to] of [
      [0, 961],
      [961, 962],
      [962, 3000],
      [3000, 4800],
    ])
      queue.push(ramp.slice(from, to));
    queue.end();
    const { heard } = play(queue, 250);
    expect(heard.slice(200, 4800)).toEqual([...ramp.slice(200)]);
  });

  it("waits longer after each stall, up to its limit, and relaxes after smooth replies", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    for (let i = 0; i < 12; i++) {
      queue.push(audio(20));
      play(queue, 600);
    }
    expect(queue.stalls).toBe(11);
    expect(queue.targetMs).toBe(MAX_TARGET_MS);
    queue.end();
    for (let i = 0; i < 40; i++) {
      queue.push(audio(100));
      queue.end();
      play(queue, 200);
    }
    expect(queue.targetMs).toBe(MIN_TARGET_MS);
  });

  it("counts no stall when a reply simply ends, with or without word of it", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    queue.push(audio(100));
    play(queue, 300);
    expect(queue.end()).toBe("finished");
    queue.push(audio(100));
    play(queue, 300);
    queue.clear();
    queue.push(audio(100));
    expect(queue.stalls).toBe(0);
  });

  it("is silent within 6 ms of being cleared", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    queue.push(audio(1000));
    play(queue, 100);
    queue.clear();
    const { heard } = play(queue, 50);
    expect(heard.slice(RATE_HZ * 0.006).every((sample) => sample === 0)).toBe(true);
    expect(queue.bufferedMs).toBe(0);
  });

  it("has no step larger than its fade allows where audio starts, stops or is cut", () => {
    const queue = new PlayoutQueue(RATE_HZ);
    queue.push(audio(100));
    const { heard } = play(queue, 150);
    queue.push(audio(100));
    heard.push(...play(queue, 60).heard);
    queue.clear();
    heard.push(...play(queue, 60).heard);
    const steps = heard.map((sample, i) => Math.abs(sample - (heard[i - 1] ?? 0)));
    expect(Math.max(...steps)).toBeLessThan(0.01);
    expect(Math.max(...heard)).toBe(0.5);
  });
});

describe("the frame gatherer", () => {
  it("cuts blocks of any length into whole frames without losing a sample", () => {
    const gatherer = new FrameGatherer(960);
    const input = Float32Array.from({ length: 128 * 40 }, (_, i) => i);
    const frames: Float32Array[] = [];
    for (let at = 0; at < input.length; at += 128)
      frames.push(...gatherer.push(input.slice(at, at + 128)));
    expect(frames.map((frame) => frame.length)).toEqual(Array(5).fill(960));
    expect(frames.flatMap((frame) => [...frame])).toEqual([...input.slice(0, 4800)]);
  });
});
