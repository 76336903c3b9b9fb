// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { expect, it } from "vitest";
import { startWithin } from "../../src/audio/context";

const context = (resume: () => Promise<void>) => ({ resume }) as AudioContext;

it("does not wait for ever for a context that cannot start", async () => {
  await expect(
    startWithin(
      context(() => new Promise(() => {})),
      1,
    ),
  ).resolves.toBeUndefined();
});

it("takes a refusal as silence", async () => {
  const refused = context(() => Promise.reject(new Error("no device")));
  await expect(startWithin(refused, 60_000)).resolves.toBeUndefined();
});
