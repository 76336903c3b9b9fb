// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import { Recording } from "../../src/audio/recording";
import { writeWav } from "../../src/audio/wav";
import { median, stagesOf } from "../../src/components/latency";
import { loudness } from "../../src/components/waveform";
import { en } from "../../src/i18n/en";
import { zh } from "../../src/i18n/zh";
import { backoffMs } from "../../src/session/connection";
import { asJson, asText } from "../../src/session/export";
import { INITIAL, reduce } from "../../src/session/state";
import { DEFAULTS, playable, readSettings, serverSettings } from "../../src/settings";

describe("settings", () => {
  it("survive storage, and whatever else is stored there", () => {
    const chosen = { ...DEFAULTS, voice: "ben", temperature: 0.5, handsFree: true };
    expect(readSettings(JSON.stringify(chosen), "en-GB")).toEqual(chosen);
    for (const junk of [null, "", "{", "null", "7", '{"volume":"loud","temperature":"hot"}']) {
      expect(readSettings(junk, "en-GB")).toEqual(DEFAULTS);
    }
    expect(readSettings(null, "zh-TW").language).toBe("zh");
  });

  it("become the server's, leaving out what it does not have", () => {
    const chosen = {
      ...DEFAULTS,
      voice: "ben",
      handsFree: true,
      systemPrompt: " Be brief. ",
      topK: 20,
      sampleText: true,
    };
    expect(serverSettings(chosen, { voices: ["anna"], vad: false })).toEqual({
      system_prompt: "Be brief.",
      answer: "speech",
      tools: false,
      hands_free: false,
      end_silence_ms: 600,
      vad_threshold: 0.5,
      transcribe: true,
      sampling: { top_k: 20, text_greedy: false },
    });
    expect(serverSettings(chosen, { voices: ["ben"], vad: true })).toMatchObject({
      voice: "ben",
      hands_free: true,
    });
  });

  it("send no persona that the model cannot play, and offer none", () => {
    const tutor = { ...DEFAULTS, persona: "tutor", systemPrompt: "Teach." };
    const prompt = (personas?: string[] | null) =>
      serverSettings(tutor, { voices: [], vad: false, personas }).system_prompt;
    expect([prompt(), prompt(null), prompt(["tutor"]), prompt(["brief"]), prompt([])]).toEqual([
      "Teach.",
      "Teach.",
      "Teach.",
      "",
      "",
    ]);
    expect(playable({ personas: [] })).toEqual(["default"]);
    expect(playable({ personas: ["brief"] })).toEqual(["default", "brief"]);
    expect(playable({})).toEqual(playable(null));
    expect(playable(null)).toHaveLength(6);
  });
});

describe("the way back", () => {
  it("doubles its waits up to a limit and spreads pages", () => {
    const waits = [1, 2, 3, 4, 5, 6, 7, 30].map((attempt) => backoffMs(attempt, 0.5));
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]);
    expect(backoffMs(1, 0)).toBe(450);
    expect(backoffMs(1, 1)).toBe(550);
  });
});

describe("the latency read-out", () => {
  it("splits a turn in stages that add up to the first-audio latency", () => {
    const latency = {
      serverTextMs: 100,
      serverTokensMs: 150,
      serverAudioMs: 300,
      packetMs: 310,
      audioMs: 380,
    };
    const stages = stagesOf(latency);
    expect(stages).toEqual([
      { stage: "text", ms: 100 },
      { stage: "tokens", ms: 50 },
      { stage: "audio", ms: 150 },
      { stage: "play", ms: 80 },
    ]);
  });

  it("has two stages where the server tells nothing of itself", () => {
    expect(stagesOf({ packetMs: 500, audioMs: 560 })).toEqual([
      { stage: "answer", ms: 500 },
      { stage: "play", ms: 60 },
    ]);
    expect(stagesOf({ textMs: 500 })).toEqual([]);
  });

  it("knows the middle of all turns", () => {
    expect(median([])).toBeNull();
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
  });
});

describe("waveforms", () => {
  it("use a logarithmic scale", () => {
    expect(loudness(0)).toBe(0);
    expect(loudness(0.001)).toBe(0);
    expect(loudness(0.1)).toBeCloseTo(0.6);
    expect(loudness(2)).toBe(1);
  });
});

describe("downloads", () => {
  it("write a WAV header that fits its samples", async () => {
    const left = Float32Array.of(0, 0.5, -1, 2);
    const view = new DataView(await writeWav([left, new Float32Array(4)], 24000).arrayBuffer());
    const word = (at: number) =>
      String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
    expect([word(0), word(8), word(36)]).toEqual(["RIFF", "WAVE", "data"]);
    expect([view.getUint32(4, true), view.getUint32(24, true), view.getUint32(40, true)]).toEqual([
      52, 24000, 16,
    ]);
    expect([44, 48, 52, 56].map((at) => view.getInt16(at, true))).toEqual([
      0, 16384, -32767, 32767,
    ]);
  });

  it("keep only what was heard, and a bounded amount", () => {
    const recording = new Recording(1000);
    expect(recording.empty).toBe(true);
    recording.add("user", 0, 48000, new Float32Array(600), true);
    recording.add("assistant", 100, 24000, new Float32Array(600), true); // the oldest clip goes
    recording.cut("assistant", 0);
    expect(recording.empty).toBe(true);
  });

  it("write both sides as text and as data", () => {
    const ready = { event: "turn_start", turn: 1, source: "text", seconds: null } as const;
    const asked = reduce(INITIAL, { kind: "asked", source: "text", question: "Why?", nowMs: 0 });
    const state = [
      { kind: "server", event: ready, nowMs: 0 } as const,
      {
        kind: "server",
        event: { event: "turn_end", turn: 1, reason: "done", text: "Because." },
        nowMs: 1,
      } as const,
    ].reduce(reduce, asked);
    expect(asText(state, "You", "Assistant")).toBe("You: Why?\nAssistant: Because.\n");
    expect(JSON.parse(asJson(state, new Date(0)))).toMatchObject({
      saved: "1970-01-01T00:00:00.000Z",
      turns: [{ source: "text", question: "Why?", answer: "Because.", end: "done" }],
    });
  });
});

describe("languages", () => {
  it("have words for everything", () => {
    const blanks = (words: object, path = ""): string[] =>
      Object.entries(words).flatMap(([key, value]) => {
        if (typeof value === "object") return blanks(value, `${path}.${key}`);
        return value === "" ? [`${path}.${key}`] : [];
      });
    for (const words of [en, zh]) expect(blanks(words)).toEqual([".hints.offline"]);
  });
});
