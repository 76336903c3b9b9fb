// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Starting audio contexts. */

/** Without a device a context never starts and reports no error (Firefox). */
export const START_WITHIN_MS = 2000;

/** Starts the context; resolves after that long at the latest, whether it runs or not. */
export function startWithin(context: AudioContext, ms: number): Promise<void> {
  const late = new Promise<void>((resolve) => setTimeout(resolve, ms));
  return Promise.race([context.resume().catch(() => {}), late]);
}
