// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Connection } from "../../src/session/connection";

const ready = {
  event: "ready",
  protocol: 2,
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

/** A socket whose other end is the test. */
class Socket {
  static readonly OPEN = 1;
  static all: Socket[] = [];
  readyState = Socket.OPEN;
  sent: Uint8Array[] = [];
  onmessage: (event: { data: ArrayBuffer }) => void = () => {};
  onclose: (event: { code: number }) => void = () => {};

  constructor(readonly url: URL) {
    Socket.all.push(this);
  }

  send(bytes: Uint8Array): void {
    this.sent.push(bytes);
  }
  close(): void {}

  says(type: number, text = ""): void {
    const bytes = Uint8Array.of(type, ...new TextEncoder().encode(text));
    this.onmessage({ data: bytes.buffer });
  }
}

let status = 200;
let told: unknown[][] = [];
let asked: string[] = [];

function connect(): Connection {
  return new Connection("secret", {
    onMessage: (message) => told.push(["message", message.type]),
    onConnecting: () => told.push(["connecting"]),
    onWaiting: (attempt, delayMs, code) =>
      told.push(["waiting", attempt, Math.round(delayMs), code]),
    onEnded: (code) => told.push(["ended", code]),
  });
}

const last = () => Socket.all.at(-1)!;

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(0.5);
  const online = new EventTarget();
  vi.stubGlobal("window", {
    location: { href: "https://host/", origin: "https://host" },
    setTimeout: (work: () => void, ms: number) => setTimeout(work, ms),
    clearTimeout: (timer: number) => clearTimeout(timer),
    addEventListener: online.addEventListener.bind(online),
    removeEventListener: online.removeEventListener.bind(online),
    dispatchEvent: online.dispatchEvent.bind(online),
  });
  vi.stubGlobal("WebSocket", Socket);
  vi.stubGlobal("fetch", async (url: URL) => {
    asked.push(url.href);
    return new Response("{}", { status });
  });
  [status, told, asked, Socket.all] = [200, [], [], []];
});

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

describe("a connection", () => {
  it("goes to the server's own address, and comes back with the conversation it had", async () => {
    connect();
    expect(last().url.href).toBe("wss://host/api/simplex?protocol=2&token=secret");
    last().says(0, "\0\0");
    last().says(4, JSON.stringify({ ...ready, resume: "abc" }));
    last().onclose({ code: 1006 });
    expect(told.at(-1)).toEqual(["waiting", 1, 500, undefined]);
    await vi.advanceTimersByTimeAsync(500);
    expect(last().url.searchParams.get("resume")).toBe("abc");
    last().onclose({ code: 1006 });
    expect(told.at(-1)).toEqual(["waiting", 2, 1000, undefined]);
    window.dispatchEvent(new Event("online"));
    expect(Socket.all).toHaveLength(3);
  });

  it.each([
    ["https://host/voice/", "host/voice/"],
    ["https://host:8443/a/b/index.html?lang=en#x", "host:8443/a/b/"],
    ["http://127.0.0.1:11236/", "127.0.0.1:11236/"],
  ])("goes beside the page, wherever a proxy serves it: %s", async (href, base) => {
    window.location.href = href;
    connect();
    const secure = href.startsWith("https") ? "s" : "";
    expect(last().url.href).toBe(`ws${secure}://${base}api/simplex?protocol=2&token=secret`);
    last().onclose({ code: 1006 });
    await vi.advanceTimersByTimeAsync(0);
    expect(asked).toEqual([
      `http${secure}://${base}api/info?token=secret&origin=https%3A%2F%2Fhost`,
    ]);
  });

  it.each([
    [1009, ["waiting", 1, 500, "file_too_large"]],
    [1013, ["waiting", 1, 10000, "queue_full"]],
    [4000, ["ended", "idle"]],
    [4001, ["waiting", 1, 500, undefined]],
    [4002, ["ended", "resumed_elsewhere"]],
  ])("that is closed with %i tells what that means", (code, expected) => {
    connect();
    last().onclose({ code });
    expect(told.at(-1)).toEqual(expected);
  });

  it.each([
    [401, "bad_token"],
    [403, "forbidden"],
  ])("that was refused with %i does not try again", async (refusal, code) => {
    connect();
    status = refusal;
    last().onclose({ code: 1006 });
    await vi.advanceTimersByTimeAsync(60000);
    expect(told.at(-1)).toEqual(["ended", code]);
    expect(Socket.all).toHaveLength(1);
  });

  const isLostAfter25s = () => {
    vi.advanceTimersByTime(24000);
    last().says(4, '{"event": "keepalive"}');
    vi.advanceTimersByTime(24000);
    expect(told.at(-1)![0]).toBe("message");
    vi.advanceTimersByTime(1000);
    expect(told.at(-1)).toEqual(["waiting", 1, 500, undefined]);
  };

  it("on which nothing comes for 25 s is lost, unless the server is one of the reference", () => {
    connect();
    last().says(0, "\0\0");
    vi.advanceTimersByTime(60000);
    expect(told.at(-1)).toEqual(["message", "handshake"]);
    last().says(4, JSON.stringify(ready));
    isLostAfter25s();
  });

  it("on which nothing comes for 25 s is lost in the queue as well", () => {
    connect();
    last().says(4, '{"event": "queue", "position": 1, "size": 1}');
    isLostAfter25s();
  });

  it("that was closed here stays closed", async () => {
    const connection = connect();
    connection.close();
    last().onclose({ code: 1000 });
    await vi.advanceTimersByTimeAsync(60000);
    expect(told).toEqual([["connecting"]]);
  });
});
