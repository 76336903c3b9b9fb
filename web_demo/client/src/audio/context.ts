// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Starting what plays and records. */

/** A context without a device never starts, and says nothing of it (Firefox). */
export const START_WITHIN_MS = 2000;

/** Starts the context; resolves after that long at the latest, whether it runs or not. */
export function startWithin(context: AudioContext, ms: number): Promise<void> {
  const late = new Promise<void>((resolve) => setTimeout(resolve, ms));
  return Promise.race([context.resume().catch(() => {}), late]);
}
