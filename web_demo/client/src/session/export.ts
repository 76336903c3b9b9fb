// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Export the conversation as files. */

import type { State } from "./state";

/** Format each turn as one line per side. */
export function asText(state: State, you: string, assistant: string): string {
  return state.turns
    .map((turn) => `${you}: ${turn.question || `(${turn.source})`}\n${assistant}: ${turn.answer}\n`)
    .join("\n");
}

export function asJson(state: State, ended: Date): string {
  const turns = state.turns.map(({ id, number, askedAtMs, ...turn }) => turn);
  return JSON.stringify(
    { model: state.server?.model ?? "", saved: ended.toISOString(), turns },
    null,
    2,
  );
}

/** Offer `blob` as a download. */
export function save(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
