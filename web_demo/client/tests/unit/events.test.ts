// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { parseEvent, parseInfo } from "../../src/protocol/events";

const INFO = {
  protocol: 2,
  model: "Tiny",
  voices: ["anna"],
  answers: ["speech", "text"],
  vad: true,
  tools: [{ name: "get_time", description: "Time in a city", parameters: {} }],
  default_system_prompt: "You are asked to …",
  defaults: { voice: "anna" },
  recording: false,
  limits: { text_chars: 4000 },
};

describe("events", () => {
  it.each([
    { event: "queue", t_ms: 5, position: 2, size: 3 },
    { event: "ready", t_ms: 5, ...INFO, session: "a", resume: "b", resumed: false, settings: {} },
    { event: "turn_start", t_ms: 5, turn: 1, source: "voice", seconds: 2.5 },
    { event: "turn_start", t_ms: 5, turn: 2, source: "text", seconds: null },
    { event: "tool_result", turn: 1, name: "get_time", result: { time: "12:00" } },
    { event: "turn_end", turn: 1, reason: "interrupted", text: "Hel", stages: { total_ms: null } },
    { event: "error", code: "no_audio", message: "nothing was heard", turn: null, fatal: false },
    { event: "keepalive" },
  ])("reads $event", (data) => {
    expect(parseEvent(data)).toEqual(data);
  });

  it.each([
    null,
    7,
    "queue",
    [],
    {},
    { event: "toString" },
    { event: "news", t_ms: 5 },
    { event: "queue", position: "2", size: 3 },
    { event: "turn_start", turn: 1, source: "telepathy", seconds: 1 },
    { event: "turn_end", turn: 1, reason: "done" },
    { event: "ready", ...INFO, settings: {}, voices: "anna" },
  ])("ignores %j", (data) => {
    expect(parseEvent(data)).toBeNull();
  });

  it("reads what the server says of itself, and nothing less", () => {
    expect(parseInfo(INFO)).toEqual(INFO);
    const nano = {
      ...INFO,
      description: "Small.",
      languages: ["en"],
      personas: [],
      examples: ["Who are you?"],
    };
    expect(parseInfo(nano)).toEqual(nano);
    expect(
      parseInfo({ ...INFO, description: null, languages: null, personas: null, examples: [] }),
    ).not.toBeNull();
    expect(parseInfo({ ...INFO, examples: "Who are you?" })).toBeNull();
    expect(parseInfo({ ...INFO, limits: null })).toBeNull();
    expect(parseInfo("<!doctype html>")).toBeNull();
  });
});
