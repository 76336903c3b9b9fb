// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { withoutIdle } from "../../src/audio/recording";

it.each([
  [
    "a long pause becomes a second",
    [
      [5000, 2000],
      [160_000, 2000],
      [400_000, 1000],
    ],
    [0, 3000, 6000],
  ],
  [
    "short pauses and overlaps stay",
    [
      [100, 2000],
      [1600, 1000],
      [3000, 500],
    ],
    [0, 1500, 2900],
  ],
  [
    "a short clip within a long one ends nothing",
    [
      [0, 10_000],
      [1000, 500],
      [10_500, 100],
    ],
    [0, 1000, 10_500],
  ],
  [
    "clips of two sides may come in any order",
    [
      [60_000, 500],
      [0, 1000],
    ],
    [2000, 0],
  ],
  ["no clips", [], []],
] as [string, [number, number][], number[]][])("%s", (_, clips, begins) => {
  expect(withoutIdle(clips.map(([startMs, lengthMs]) => ({ startMs, lengthMs })))).toEqual(begins);
});
