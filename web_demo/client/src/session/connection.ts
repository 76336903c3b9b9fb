// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** The WebSocket of one session: handshake, silence detection, loss and reconnection. */

import { parseEvent, parseInfo, type ServerInfo } from "../protocol/events";
import { decode, encode, type Message } from "../protocol/messages";

/** Beside the page, wherever a proxy serves it. */
const API = (import.meta.env.VITE_QUEUE_API_PATH as string | undefined) || "api";
const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 15000;
const QUEUE_FULL_DELAY_MS = 10000;
/** A server of this toolkit sends something every 10 s; after this much silence it is considered gone. */
const SILENCE_MS = 25000;
/** Close codes after which the client does not reconnect by itself. */
const FINAL_CLOSES: Record<number, string> = { 4000: "idle", 4002: "resumed_elsewhere" };
/** Close codes whose cause the user is told; all others count as a lost connection. */
const TOLD_CLOSES: Record<number, string> = { 1009: "file_too_large", 1013: "queue_full" };

/** Milliseconds before attempt 1, 2, 3 ...: doubling, with ±10 % jitter so that clients do not reconnect in step. */
export function backoffMs(attempt: number, chance: number): number {
  return Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** (attempt - 1)) * (0.9 + 0.2 * chance);
}

function apiUrl(path: string, query: Record<string, string>): URL {
  const url = new URL(`${API}/${path}`, window.location.href);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

export type Reachable =
  | { info: ServerInfo | null }
  | { refused: "bad_token" | "forbidden" | "unreachable" };

/** Query the server's info; a server without that route is a reference server. */
export async function askServer(token: string): Promise<Reachable> {
  try {
    // A page's own GET names no origin; the server judges it as it judges the socket's.
    const url = apiUrl("info", { token, origin: window.location.origin });
    const response = await fetch(url, { signal: AbortSignal.timeout(8000) });
    if (response.status === 401) return { refused: "bad_token" };
    if (response.status === 403) return { refused: "forbidden" };
    if (response.status >= 500) return { refused: "unreachable" };
    if (!response.ok) return { info: null };
    return { info: parseInfo(await response.json().catch(() => null)) };
  } catch {
    return { refused: "unreachable" };
  }
}

export interface ConnectionHandlers {
  onMessage(message: Message): void;
  /** The socket is lost, and comes back after `delayMs` unless told otherwise; `code` says why. */
  onWaiting(attempt: number, delayMs: number, code?: string): void;
  onConnecting(): void;
  onEnded(code: string): void;
}

export class Connection {
  private socket: WebSocket | null = null;
  private attempt = 0;
  private retryTimer = 0;
  private silenceTimer = 0;
  private resume = "";
  private watched = false;
  private closed = false;
  private readonly online = () => this.retryNow();

  constructor(
    private readonly token: string,
    private readonly handlers: ConnectionHandlers,
  ) {
    window.addEventListener("online", this.online);
    this.open();
  }

  send(message: Message): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(encode(message));
  }

  /** Reconnect now instead of waiting for the retry timer. */
  retryNow(): void {
    if (!this.retryTimer) return;
    window.clearTimeout(this.retryTimer);
    this.open();
  }

  close(): void {
    this.closed = true;
    this.stopTimers();
    window.removeEventListener("online", this.online);
    this.socket?.close(1000);
  }

  private open(): void {
    this.retryTimer = 0;
    this.watched = false;
    this.handlers.onConnecting();
    const url = apiUrl("simplex", { protocol: "2", token: this.token, resume: this.resume });
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      if (data instanceof ArrayBuffer) this.receive(new Uint8Array(data));
    };
    socket.onclose = (event) => {
      if (socket === this.socket && !this.closed) void this.lost(event.code);
    };
    this.socket = socket;
  }

  private receive(bytes: Uint8Array): void {
    if (this.watched) this.watchSilence();
    const message = decode(bytes);
    if (!message) return;
    if (message.type === "handshake") this.attempt = 0;
    if (message.type === "metadata") {
      const event = parseEvent(message.data);
      if (event?.event === "ready") this.resume = event.resume ?? "";
      if (event && !this.watched) {
        this.watched = true; // also in the queue: only a server of this toolkit sends events
        this.watchSilence();
      }
    }
    this.handlers.onMessage(message);
  }

  private watchSilence(): void {
    window.clearTimeout(this.silenceTimer);
    this.silenceTimer = window.setTimeout(() => {
      const socket = this.socket;
      this.socket = null; // its own close event may take minutes on a dead network
      socket?.close();
      void this.lost(1006);
    }, SILENCE_MS);
  }

  private async lost(code: number): Promise<void> {
    this.stopTimers();
    const final = FINAL_CLOSES[code];
    if (final) return this.end(final);
    const attempt = ++this.attempt;
    const delayMs = code === 1013 ? QUEUE_FULL_DELAY_MS : backoffMs(attempt, Math.random());
    this.retryTimer = window.setTimeout(() => this.open(), delayMs);
    this.handlers.onWaiting(attempt, delayMs, TOLD_CLOSES[code]);
    // A browser does not say why it was refused: the server does.
    const answer = await askServer(this.token);
    const refused = "refused" in answer && answer.refused !== "unreachable" ? answer.refused : null;
    if (refused && !this.closed) this.end(refused);
  }

  private end(code: string): void {
    this.close();
    this.handlers.onEnded(code);
  }

  private stopTimers(): void {
    window.clearTimeout(this.retryTimer);
    window.clearTimeout(this.silenceTimer);
    this.retryTimer = 0;
  }
}
