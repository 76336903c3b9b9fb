// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ServerEvent } from "../../src/protocol/events";
import type { Message } from "../../src/protocol/messages";
import type { ConnectionHandlers } from "../../src/session/connection";
import { Session } from "../../src/session/session";
import { DEFAULTS } from "../../src/settings";

/** What stands on the session's three sides: loudspeaker, microphone, socket. */
const world = vi.hoisted(() => ({
  heard: [] as string[],
  sent: [] as Message[],
  handlers: null as unknown as ConnectionHandlers,
  running: true,
  openings: [] as ((opened: boolean) => void)[],
  flush: () => Promise.resolve(),
}));

vi.mock("../../src/session/mouth", () => ({
  Mouth: {
    create: async () => ({
      player: { running: world.running, setVolume: () => {}, setOutput: async () => {}, resume: async () => {}, level: () => 0 },
      beginStream: () => {},
      beginReply: () => world.heard.push("begin"),
      endReply: () => world.heard.push("end"),
      hush: () => world.heard.push("hush"),
      say: () => false,
      heardMs: () => 0,
      close: () => {},
    }),
  },
}));
vi.mock("../../src/session/ear", () => ({
  Ear: class {
    open = false;
    openMicrophone = () => new Promise<boolean>((resolve) => world.openings.push(resolve));
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

const event = (data: ServerEvent) => world.handlers.onMessage({ type: "metadata", data: { ...data } });
const settingsSent = () =>
  world.sent
    .map((message) => (message.type === "metadata" ? (message.data as { voice?: string }).voice : undefined))
    .filter((voice) => voice !== undefined);

async function talking(voice = "anna"): Promise<Session> {
  const creating = Session.create({ ...DEFAULTS, voice });
  await vi.waitFor(() => expect(world.openings).toHaveLength(1));
  world.openings[0]!(true);
  const session = await creating;
  session.connect("");
  world.handlers.onMessage({ type: "handshake" } as Message);
  return session;
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal("window", { setTimeout, clearTimeout });
  Object.assign(world, { heard: [], sent: [], openings: [], flush: () => Promise.resolve() });
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
    expect(world.heard).toEqual(["hush"]);
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
    const opening = session.apply({ ...DEFAULTS, voice: "anna", inputId: "other", endSilenceMs: 700 });
    void session.apply({ ...DEFAULTS, voice: "ben", inputId: "other", endSilenceMs: 700 });
    world.openings[1]!(true);
    await opening;
    expect(settingsSent().at(-1)).toBe("ben");
  });

  it("is told, and is not left thinking, when the browser cannot encode the question", async () => {
    const session = await talking();
    event(READY);
    world.flush = () => {
      session.ear.onBroken();
      return Promise.reject(new Error());
    };
    await session.finish();
    expect(session.state.asking).toBe(false);
    expect(session.state.notices.map(({ code }) => code)).toEqual(["encoder_failed"]);
  });

  it("says so when the browser cannot make the sound file", async () => {
    const session = await talking();
    vi.spyOn(session.recording, "wav").mockRejectedValue(new RangeError("too long"));
    expect(await session.wav()).toBeNull();
    expect(session.state.notices.map(({ code }) => code)).toEqual(["wav_failed"]);
  });
});
