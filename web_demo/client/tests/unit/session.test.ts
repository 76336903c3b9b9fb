// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ServerEvent } from "../../src/protocol/events";
import type { Message } from "../../src/protocol/messages";
import type { ConnectionHandlers } from "../../src/session/connection";
import { Session } from "../../src/session/session";
import { phaseOf } from "../../src/session/state";
import { DEFAULTS } from "../../src/settings";

/** What stands on the session's three sides: loudspeaker, microphone, socket. */
const world = vi.hoisted(() => ({
  heard: [] as string[],
  sent: [] as Message[],
  handlers: null as unknown as ConnectionHandlers,
  running: true,
  openings: [] as ((opened: boolean) => void)[],
  closings: 0,
  flush: () => Promise.resolve(),
}));

vi.mock("../../src/session/audio-output", () => ({
  AudioOutput: {
    create: async () => ({
      player: {
        running: world.running,
        setVolume: () => {},
        setOutput: async () => {},
        resume: async () => {},
        level: () => 0,
      },
      beginStream: () => {},
      beginReply: () => world.heard.push("begin"),
      endReply: () => world.heard.push("end"),
      stopPlayback: () => world.heard.push("stop"),
      play: () => false,
      heardMs: () => 0,
      close: () => {},
    }),
  },
}));
vi.mock("../../src/session/microphone-input", () => ({
  MicrophoneInput: class {
    open = false;
    openMicrophone = () => new Promise<boolean>((resolve) => world.openings.push(resolve));
    closeMicrophone = () => world.closings++;
    flush = () => world.flush();
    beginStream() {}
    close() {}
  },
}));
vi.mock("../../src/session/connection", () => ({
  Connection: class {
    constructor(_token: string, handlers: ConnectionHandlers) {
      world.handlers = handlers;
    }
    send = (message: Message) => world.sent.push(message);
    close() {}
  },
}));

const READY = {
  event: "ready",
  protocol: 2,
  model: "",
  voices: ["anna", "ben"],
  answers: ["speech"],
  vad: true,
  tools: [],
  defaults: {},
  recording: false,
  limits: {},
  settings: {},
} satisfies ServerEvent;

const event = (data: ServerEvent) =>
  world.handlers.onMessage({ type: "metadata", data: { ...data } });
const settingsSent = () =>
  world.sent
    .map((message) =>
      message.type === "metadata" ? (message.data as { voice?: string }).voice : undefined,
    )
    .filter((voice) => voice !== undefined);

async function talking(voice = "anna", firstQuestion = ""): Promise<Session> {
  const session = await Session.create({ ...DEFAULTS, voice });
  session.connect("", firstQuestion);
  world.handlers.onMessage({ type: "handshake" } as Message);
  return session;
}

/** The microphone that was asked for last opens. */
async function opens(session: Session): Promise<void> {
  world.openings.at(-1)!(true);
  await vi.waitFor(() => expect(session.state.microphone).toBe("on"));
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("window", { setTimeout, clearTimeout });
  Object.assign(world, {
    heard: [],
    sent: [],
    openings: [],
    closings: 0,
    flush: () => Promise.resolve(),
  });
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a conversation", () => {
  it("hears the answer that took the place of one, whenever the end of that one is told", async () => {
    const session = await talking();
    event(READY);
    event({ event: "turn_start", turn: 1, source: "text", seconds: null });
    event({ event: "turn_start", turn: 2, source: "text", seconds: null });
    world.heard = [];
    event({ event: "turn_end", turn: 1, reason: "interrupted", text: "so far" });
    expect(world.heard).toEqual([]);
    expect(session.state.answering).toBe(2);
    expect(session.state.turns[0]).toMatchObject({ answer: "so far", end: "interrupted" });
    event({ event: "turn_end", turn: 2, reason: "interrupted", text: "" });
    expect(world.heard).toEqual(["stop"]);
  });

  it("follows a server that took long to say that it sends events", async () => {
    const session = await talking("ben");
    vi.advanceTimersByTime(1000);
    expect(session.state.server?.protocol).toBe(1); // taken for one of the reference
    event(READY);
    expect(session.state.server?.protocol).toBe(2);
    expect(settingsSent()).toEqual(["ben"]);
    await session.askFile(new File(["x"], "x.wav"));
    expect(world.sent.at(-1)!.type).toBe("file");
  });

  it("tells the server its last settings last, however long the microphone takes to open", async () => {
    const session = await talking();
    event(READY);
    session.listen();
    await opens(session);
    const opening = session.apply({
      ...DEFAULTS,
      voice: "anna",
      inputId: "other",
      endSilenceMs: 700,
    });
    void session.apply({ ...DEFAULTS, voice: "ben", inputId: "other", endSilenceMs: 700 });
    world.openings[1]!(true);
    await opening;
    expect(settingsSent().at(-1)).toBe("ben");
  });

  it("is told, and is not left thinking, when the browser cannot encode the question", async () => {
    const session = await talking();
    event(READY);
    world.flush = () => {
      session.input.onBroken();
      return Promise.reject(new Error());
    };
    await session.finish();
    expect(session.state.asking).toBe(false);
    expect(session.state.notices.map(({ code }) => code)).toEqual(["encoder_failed"]);
  });

  it("says so when the browser cannot make the audio file", async () => {
    const session = await talking();
    vi.spyOn(session.recording, "wav").mockRejectedValue(new RangeError("too long"));
    expect(await session.wav()).toBeNull();
    expect(session.state.notices.map(({ code }) => code)).toEqual(["wav_failed"]);
  });
});

const listening = (on: boolean, handsFree = false) =>
  event({ event: "listening", on, hands_free: handsFree });

describe("the microphone", () => {
  it("is opened by the button, and closed when the question is complete", async () => {
    const session = await talking();
    event(READY);
    listening(true); // as every connection begins
    expect(world.openings).toHaveLength(0);
    expect(phaseOf(session.state)).toBe("idle");
    session.toggle();
    expect(world.sent.at(-1)).toEqual({ type: "control", action: "start" });
    listening(true);
    expect(phaseOf(session.state)).toBe("idle"); // it may take a while to open
    await opens(session);
    expect(phaseOf(session.state)).toBe("listening");
    await session.finish();
    expect(world.sent.at(-1)).toEqual({ type: "control", action: "pause" });
    expect(session.state.microphone).toBe("off");
    expect(world.openings).toHaveLength(1);
  });

  it.each([
    ["a typed question", (session: Session) => session.ask("Why?")],
    ["an audio file", (session: Session) => session.askFile(new File(["x"], "x.wav"))],
    ["a lost connection", () => world.handlers.onWaiting(1, 500)],
    ["forgetting", (session: Session) => session.forget()],
  ])("is closed by %s", async (_, act) => {
    const session = await talking();
    event(READY);
    session.listen();
    await opens(session);
    await act(session);
    expect(session.state.microphone).toBe("off");
  });

  it("is not left open when a typed question comes before it has opened", async () => {
    const session = await talking();
    event(READY);
    session.listen();
    const closings = world.closings;
    session.ask("Why?");
    expect(world.closings).toBe(closings + 1);
  });

  it("is asked for by beginning a hands-free conversation, but not while it waits in the queue", async () => {
    const creating = Session.create({ ...DEFAULTS, handsFree: true });
    await vi.waitFor(() => expect(world.openings).toHaveLength(1));
    world.openings[0]!(true);
    const session = await creating;
    session.connect("");
    event({ event: "queue", position: 1, size: 1 });
    expect(session.state.microphone).toBe("off");
    event(READY);
    expect(world.openings).toHaveLength(2);
    await opens(session);
    listening(true, true);
    expect(phaseOf(session.state)).toBe("listening");
    session.ask("Why?");
    expect(session.state.microphone).toBe("on"); // it may interrupt the answer
    await session.apply({ ...DEFAULTS, handsFree: false });
    expect(session.state.microphone).toBe("off");
    void session.apply({ ...DEFAULTS, handsFree: true });
    expect(world.openings).toHaveLength(3);
  });

  it("is closed where a hands-free conversation was requested and the server has no voice detection", async () => {
    const creating = Session.create({ ...DEFAULTS, handsFree: true });
    await vi.waitFor(() => expect(world.openings).toHaveLength(1));
    world.openings[0]!(true);
    const session = await creating;
    session.connect("");
    event({ ...READY, vad: false });
    expect(session.state.microphone).toBe("off");
  });
});

describe("a loudspeaker that is not there", () => {
  it("is told of, and the conversation begins", async () => {
    world.running = false;
    const session = await talking();
    world.running = true;
    event(READY);
    expect(session.state.notices.map(({ code }) => code)).toEqual(["output_silent"]);
    expect(session.state.link.kind).toBe("open");
  });
});

it("asks the example that was tapped when the conversation begins, once", async () => {
  await talking("anna", "What is two plus three?");
  const asked = () => world.sent.filter(({ type }) => type === "text");
  expect(asked()).toEqual([]);
  event(READY);
  event(READY); // back after a lost connection
  expect(asked()).toEqual([{ type: "text", text: "What is two plus three?" }]);
});
