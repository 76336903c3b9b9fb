// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * Lets the rest of the page believe that a server without events sends them.
 *
 * Such a server answers `pause` with the text "[Processing...]", then text and sound, perhaps
 * "\n[Final: ...]"; it never says that a reply is over, so that quiet after its sound means it.
 */

import type { ServerEvent } from "../protocol/events";
import type { Action } from "../protocol/messages";

export const QUIET_MS = 1500;

const INFO: ServerEvent = {
  event: "ready",
  protocol: 1,
  model: "",
  voices: [],
  answers: ["speech"],
  vad: false,
  tools: [],
  defaults: {},
  recording: false,
  limits: {},
  settings: {},
};

export class ReferenceAdapter {
  private turn = 0;
  private open = false;
  private text = "";

  /** The events that stand for the connection's beginning. */
  begin(): ServerEvent[] {
    return [INFO, { event: "listening", on: true, hands_free: false }];
  }

  /** The page sent a control message. */
  sent(action: Action): ServerEvent[] {
    if (action !== "start" && action !== "restart")
      return [{ event: "listening", on: false, hands_free: false }];
    return [...this.end("interrupted"), { event: "listening", on: true, hands_free: false }];
  }

  /** A text message came; returns its events and what of it is to be shown. */
  received(text: string): { events: ServerEvent[]; text: string } {
    if (text === "[Processing...]") {
      const events = this.end("interrupted");
      this.open = true;
      this.text = "";
      this.turn++;
      return {
        events: [
          ...events,
          { event: "turn_start", turn: this.turn, source: "voice", seconds: null },
        ],
        text: "",
      };
    }
    const final = /^\s*\[Final: (.*)\]$/s.exec(text);
    if (final) {
      this.text = final[1]!;
      return { events: [], text: "" };
    }
    this.text += text;
    return { events: [], text };
  }

  /** Nothing came and nothing played for QUIET_MS after a reply's sound, or its turn failed. */
  end(reason: "done" | "interrupted" | "error"): ServerEvent[] {
    if (!this.open) return [];
    this.open = false;
    return [{ event: "turn_end", turn: this.turn, reason, text: this.text }];
  }
}
