// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from "vitest";
import type { ServerEvent } from "../../src/protocol/events";
import { ReferenceAdapter } from "../../src/session/reference";
import { type Change, INITIAL, phaseOf, reduce, type State } from "../../src/session/state";

const READY = new ReferenceAdapter().begin()[0]!;
const server = (event: ServerEvent, nowMs = 0): Change => ({ kind: "server", event, nowMs });
const stateAfter = (changes: Change[], from: State = INITIAL) => changes.reduce(reduce, from);
const listening = (on: boolean): Change => server({ event: "listening", on, hands_free: false });
const asked = (turn: number, nowMs = 0): Change =>
  server({ event: "turn_start", turn, source: "voice", seconds: 2 }, nowMs);
const ended = (
  turn: number,
  text: string,
  reason: "done" | "interrupted" | "error" = "done",
): Change => server({ event: "turn_end", turn, reason, text });
const open: Change = { kind: "microphone", microphone: "on" };
const connected = stateAfter([server(READY), open, listening(true)]);

describe("a conversation's state", () => {
  it("says whose turn it is at every point of a spoken turn", () => {
    const steps: [Change, string][] = [
      [{ kind: "link", link: { kind: "connecting" } }, "offline"],
      [server({ event: "queue", position: 1, size: 1 }), "offline"],
      [server(READY), "idle"],
      [listening(true), "idle"], // the microphone is closed
      [open, "listening"],
      [server({ event: "speech_start" }), "hearing"],
      [server({ event: "speech_end" }), "listening"],
      [{ kind: "complete" }, "thinking"],
      [listening(false), "thinking"],
      [asked(1), "thinking"],
      [{ kind: "packet", nowMs: 4 }, "thinking"],
      [{ kind: "playback", on: true, nowMs: 5 }, "speaking"],
      [{ kind: "playback", on: false, nowMs: 6 }, "speaking"], // a stall
      [ended(1, "Yes."), "idle"],
    ];
    let state = INITIAL;
    for (const [change, phase] of steps) {
      state = reduce(state, change);
      expect(phaseOf(state)).toBe(phase);
    }
  });

  it("knows the place in the queue, and how long one waits if the server knows", () => {
    const queued = (wait_s?: number | null) =>
      stateAfter([server({ event: "queue", position: 2, size: 3, wait_s })]).link;
    expect(queued(90)).toEqual({ kind: "queued", position: 2, size: 3, waitS: 90 });
    expect([queued(null), queued()]).toEqual(
      Array(2).fill({ kind: "queued", position: 2, size: 3, waitS: null }),
    );
  });

  it("does not go on thinking when nothing was heard", () => {
    const noAudio = server({ event: "error", code: "no_audio", message: "nothing was heard" });
    expect(phaseOf(stateAfter([{ kind: "complete" }, listening(false), noAudio], connected))).toBe(
      "idle",
    );
    expect(phaseOf(stateAfter([{ kind: "complete" }, listening(true)], connected))).toBe(
      "listening",
    );
  });

  it("gathers text by turn and takes the server's final word", () => {
    const state = stateAfter(
      [asked(1), { kind: "text", text: "He", nowMs: 1 }, { kind: "text", text: "llo", nowMs: 2 }],
      connected,
    );
    expect(state.turns[0]!.answer).toBe("Hello");
    expect(reduce(state, ended(1, "Hello there.")).turns[0]!.answer).toBe("Hello there.");
  });

  it("keeps of an interrupted answer what the server says was heard", () => {
    const done = stateAfter([asked(1), ended(1, "One two three.")], connected);
    const state = reduce(done, ended(1, "One two", "interrupted"));
    expect(state.turns[0]).toMatchObject({ answer: "One two", end: "interrupted" });
  });

  it("measures each stage once, from the end of the question", () => {
    const state = stateAfter(
      [
        asked(1, 1000),
        server({ event: "first_text", turn: 1, ms: 100 }),
        server({ event: "first_codes", turn: 1, ms: 150 }),
        server({ event: "first_audio", turn: 1, ms: 300 }),
        { kind: "packet", nowMs: 1310 },
        { kind: "packet", nowMs: 1350 },
        { kind: "text", text: "a", nowMs: 1320 },
        { kind: "playback", on: true, nowMs: 1380 },
        { kind: "playback", on: false, nowMs: 1400 },
        { kind: "playback", on: true, nowMs: 1500 },
      ],
      connected,
    );
    expect(state.turns[0]!.latency).toEqual({
      serverTextMs: 100,
      serverTokensMs: 150,
      serverAudioMs: 300,
      packetMs: 310,
      textMs: 320,
      audioMs: 380,
    });
  });

  it("shows a typed question at once and joins it with the server's turn", () => {
    const typed = reduce(connected, { kind: "asked", source: "text", question: "Why?", nowMs: 10 });
    expect(typed.turns).toMatchObject([{ question: "Why?", end: null }]);
    const taken = reduce(
      typed,
      server({ event: "turn_start", turn: 4, source: "text", seconds: null }, 20),
    );
    expect(taken.turns).toMatchObject([
      { question: "Why?", number: 4, askedAtMs: 10, id: typed.turns[0]!.id },
    ]);
    expect(taken.answering).toBe(4);
  });

  it("marks a refused question and does not lend its words to the next one", () => {
    const refused = stateAfter(
      [
        { kind: "asked", source: "file", question: "noise.bin", nowMs: 0 },
        server({ event: "error", code: "bad_question", message: "unreadable", fatal: false }),
        asked(1),
      ],
      connected,
    );
    expect(refused.turns).toMatchObject([
      { question: "noise.bin", end: "error" },
      { question: "", number: 1, end: null },
    ]);
    expect(refused.notices).toMatchObject([{ code: "bad_question", message: "unreadable" }]);
  });

  it("joins tool results with their calls, in order", () => {
    const call = (city: string) =>
      server({ event: "tool_call", turn: 1, name: "get_time", arguments: { city } });
    const result = (time: string) =>
      server({ event: "tool_result", turn: 1, name: "get_time", result: { time } });
    const state = stateAfter(
      [asked(1), call("Rome"), call("Oslo"), result("12"), result("13")],
      connected,
    );
    expect(state.turns[0]!.tools).toEqual([
      { name: "get_time", arguments: { city: "Rome" }, result: { time: "12" } },
      { name: "get_time", arguments: { city: "Oslo" }, result: { time: "13" } },
    ]);
  });

  it("closes open turns when the connection is lost, and numbers may start again", () => {
    const lost = stateAfter(
      [
        asked(1),
        { kind: "link", link: { kind: "waiting", attempt: 1, delayMs: 500 } },
        server(READY),
        asked(1),
      ],
      connected,
    );
    expect(lost.turns.map((turn) => turn.end)).toEqual(["interrupted", null]);
    const state = reduce(lost, { kind: "text", text: "new", nowMs: 0 });
    expect(state.turns.map((turn) => turn.answer)).toEqual(["", "new"]);
    expect(new Set(state.turns.map((turn) => turn.id)).size).toBe(2);
  });

  it("keeps one notice of a kind and lets it be dismissed", () => {
    const notice: Change = { kind: "notice", code: "no_audio", message: "" };
    const state = stateAfter([notice, notice, { kind: "notice", code: "internal", message: "" }]);
    expect(state.notices.map(({ code }) => code)).toEqual(["no_audio", "internal"]);
    expect(reduce(state, { kind: "dismiss", id: state.notices[0]!.id }).notices).toHaveLength(1);
  });

  it("does not change for what changes nothing", () => {
    const state = stateAfter([asked(1), { kind: "packet", nowMs: 5 }], connected);
    expect(reduce(state, { kind: "packet", nowMs: 9 })).toBe(state);
    expect(reduce(state, server({ event: "keepalive" }))).toBe(state);
  });
});

describe("a server without events", () => {
  it("appears as one with events", () => {
    const adapter = new ReferenceAdapter();
    const names = (events: ServerEvent[]) => events.map(({ event }) => event);
    expect(names(adapter.begin())).toEqual(["ready", "listening"]);
    expect(adapter.sent("pause")).toMatchObject([{ event: "listening", on: false }]);
    expect(adapter.received("[Processing...]")).toMatchObject({
      text: "",
      events: [{ event: "turn_start", turn: 1 }],
    });
    expect(adapter.received("Hel")).toEqual({ events: [], text: "Hel" });
    expect(adapter.received("\n[Final: Hello]\nthere]")).toEqual({ events: [], text: "" });
    expect(adapter.end("done")).toMatchObject([
      { event: "turn_end", turn: 1, text: "Hello]\nthere" },
    ]);
    expect(adapter.end("done")).toEqual([]);
  });

  it("ends a turn that start interrupts, with the text so far", () => {
    const adapter = new ReferenceAdapter();
    adapter.received("[Processing...]");
    adapter.received("Well");
    expect(adapter.sent("start")).toMatchObject([
      { event: "turn_end", turn: 1, reason: "interrupted", text: "Well" },
      { event: "listening", on: true },
    ]);
  });
});

describe("notices", () => {
  const failed = (code: string) => server({ event: "error", code, message: "" });
  const codes = (changes: Change[]) =>
    stateAfter(changes, connected).notices.map(({ code }) => code);

  it.each([
    ["queue_full", server(READY)],
    ["going_away", server(READY)],
    ["no_audio", listening(true)],
    ["utterance_too_long", listening(true)],
    ["no_audio", asked(1)],
    ["bad_question", ended(1, "Yes.")],
    ["model_error", ended(1, "Yes.")],
    ["bad_settings", server({ event: "settings", settings: {} })],
  ] as [string, Change][])("go when their cause is gone: %s", (code, cure) => {
    expect(codes([failed(code)])).toEqual([code]);
    expect(codes([failed(code), cure])).toEqual([]);
  });

  it("stay while it is not", () => {
    expect(codes([failed("utterance_too_long"), asked(1)])).toEqual(["utterance_too_long"]);
    expect(codes([failed("no_audio"), listening(false)])).toEqual(["no_audio"]);
    expect(codes([failed("model_error"), ended(1, "", "error")])).toEqual(["model_error"]);
    expect(codes([failed("internal"), asked(1), listening(true)])).toEqual(["internal"]);
  });
});
