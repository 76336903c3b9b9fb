// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * Emulates events for a reference server, which sends none.
 *
 * Such a server answers `pause` with the text "[Processing...]", then text and audio, perhaps
 * "\n[Final: ...]"; it never reports the end of a reply, so silence after its audio is taken as the end.
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

  /** Return the events that open a session. */
  begin(): ServerEvent[] {
    return [INFO, { event: "listening", on: true, hands_free: false }];
  }

  /** Return the events for a control message that the page sent. */
  sent(action: Action): ServerEvent[] {
    if (action !== "start" && action !== "restart")
      return [{ event: "listening", on: false, hands_free: false }];
    return [...this.end("interrupted"), { event: "listening", on: true, hands_free: false }];
  }

  /** Handle a text message: return its events and the part to display. */
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

  /** End the reply: QUIET_MS passed after its audio without anything new, or its turn failed. */
  end(reason: "done" | "interrupted" | "error"): ServerEvent[] {
    if (!this.open) return [];
    this.open = false;
    return [{ event: "turn_end", turn: this.turn, reason, text: this.text }];
  }
}
