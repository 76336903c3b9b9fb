// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** The state the page shows, as a pure reducer over everything that happens. */

import type { EventOf, ServerEvent, ServerInfo } from "../protocol/events";

export type Source = "voice" | "text" | "file";

export interface ToolUse {
  name: string;
  arguments: Record<string, unknown>;
  result?: unknown;
}

/** When things happened; milliseconds since the question ended. `server*` are measured by the server. */
export interface Latency {
  serverTextMs?: number;
  serverTokensMs?: number;
  serverAudioMs?: number;
  textMs?: number;
  packetMs?: number;
  audioMs?: number;
}

export interface Turn {
  /** The server's number; it counts from 1 in each conversation, `id` over all of this page's. */
  number: number;
  id: number;
  source: Source;
  askedAtMs: number;
  seconds: number | null;
  question: string;
  answer: string;
  tools: ToolUse[];
  latency: Latency;
  end: "done" | "interrupted" | "error" | null;
}

/** A message to the user: a code with a text in i18n, and the server's own message. */
export interface Notice {
  id: number;
  code: string;
  message: string;
}

export type Link =
  | { kind: "off" }
  | { kind: "connecting" }
  | { kind: "queued"; position: number; size: number; waitS: number | null }
  | { kind: "open" }
  | { kind: "waiting"; attempt: number; delayMs: number }
  | { kind: "ended"; code: string };

export interface State {
  link: Link;
  server: ServerInfo | null;
  listening: boolean;
  handsFree: boolean;
  userSpeaking: boolean;
  /** The question is complete, but the server has not said that it took it. */
  asking: boolean;
  /** The number of the turn that is being answered. */
  answering: number | null;
  /** The assistant's audio is playing. */
  playing: boolean;
  turns: Turn[];
  notices: Notice[];
  microphone: "off" | "on" | string;
  stalls: number;
  bufferMs: number;
}

export const INITIAL: State = {
  link: { kind: "off" },
  server: null,
  listening: false,
  handsFree: false,
  userSpeaking: false,
  asking: false,
  answering: null,
  playing: false,
  turns: [],
  notices: [],
  microphone: "off",
  stalls: 0,
  bufferMs: 0,
};

export type Change =
  | { kind: "server"; event: ServerEvent; nowMs: number }
  | { kind: "text"; text: string; nowMs: number }
  | { kind: "packet"; nowMs: number }
  | { kind: "asked"; source: "text" | "file"; question: string; nowMs: number }
  | { kind: "link"; link: Link }
  | { kind: "microphone"; microphone: State["microphone"] }
  | { kind: "complete" }
  | { kind: "playback_stopped" }
  | { kind: "playback"; on: boolean; nowMs: number }
  | { kind: "playout"; stalls: number; bufferMs: number }
  | { kind: "notice"; code: string; message: string }
  | { kind: "dismiss"; id: number }
  | { kind: "forget" };

export type Phase = "offline" | "idle" | "listening" | "hearing" | "thinking" | "speaking";

/** Whose turn it is, in one word. */
export function phaseOf(state: State): Phase {
  if (state.link.kind !== "open") return "offline";
  if (state.userSpeaking) return "hearing";
  const begun = state.turns.at(-1)?.latency.audioMs !== undefined; // a stall does not count as thinking
  if (state.playing || (state.answering !== null && begun)) return "speaking";
  if (state.asking || state.answering !== null) return "thinking";
  return state.listening && state.microphone === "on" ? "listening" : "idle";
}

/** Why the microphone could not be opened; null if it could, or was not asked for yet. */
export const microphoneProblem = ({ microphone }: State): string | null =>
  microphone === "on" || microphone === "off" ? null : microphone;

const MAX_NOTICES = 4;

function withNotice(state: State, code: string, message: string): State {
  const id = Math.max(0, ...state.notices.map((notice) => notice.id)) + 1;
  const others = state.notices.filter((notice) => notice.code !== code);
  return { ...state, notices: [...others, { id, code, message }].slice(-MAX_NOTICES) };
}

/** Changes the newest turn of that number (numbering restarts with each conversation). */
function withTurn(
  state: State,
  number: number | null,
  change: (turn: Turn) => Partial<Turn>,
): State {
  const at = state.turns.findLastIndex((turn) => turn.number === number);
  const turn = state.turns[at];
  return turn ? { ...state, turns: state.turns.with(at, { ...turn, ...change(turn) }) } : state;
}

/** Record a latency mark of a turn; later marks of the same stage are ignored. */
function withLatency(
  state: State,
  number: number | null,
  stage: keyof Latency,
  ms: (turn: Turn) => number,
): State {
  const known =
    state.turns.findLast((turn) => turn.number === number)?.latency[stage] !== undefined;
  if (known) return state;
  return withTurn(state, number, (turn) => ({ latency: { ...turn.latency, [stage]: ms(turn) } }));
}

/** The turn that is answered, or the last one: its audio and text may arrive after its end. */
export const current = (state: State) => state.answering ?? state.turns.at(-1)?.number ?? null;

function startTurn(state: State, event: EventOf<"turn_start">, nowMs: number): State {
  // A question by text or file is shown before the server has said that it took it.
  const last = state.turns.at(-1);
  const pending = last?.number === PENDING && last.end === null ? last : undefined;
  const turn: Turn = {
    number: event.turn,
    id: pending?.id ?? (last?.id ?? 0) + 1,
    source: event.source,
    askedAtMs: pending?.askedAtMs ?? nowMs,
    seconds: event.seconds,
    question: pending?.question ?? "",
    answer: "",
    tools: [],
    latency: {},
    end: null,
  };
  const before = pending ? state.turns.slice(0, -1) : state.turns;
  return {
    ...state,
    turns: [...before, turn],
    answering: event.turn,
    asking: false,
    userSpeaking: false,
  };
}

/** The number of a question that was sent but not yet taken. */
const PENDING = -1;

/** Events that clear notices which no longer apply. */
const ENDED_BY: Partial<Record<ServerEvent["event"], string[]>> = {
  ready: ["queue_full", "going_away", "draining", "internal", "idle", "file_too_large"],
  listening: ["no_audio", "utterance_too_long"],
  turn_start: ["no_audio"],
  turn_end: [
    "bad_question",
    "model_error",
    "bad_audio",
    "new_conversation",
    "file_unreadable",
    "file_too_large",
  ],
  settings: ["bad_settings"],
};

function withoutEnded(state: State, event: ServerEvent): State {
  const goesOn =
    (event.event === "listening" && !event.on) ||
    (event.event === "turn_end" && event.reason !== "done");
  const ended = goesOn ? [] : (ENDED_BY[event.event] ?? []);
  const notices = state.notices.filter((notice) => !ended.includes(notice.code));
  return notices.length === state.notices.length ? state : { ...state, notices };
}

function onServer(state: State, event: ServerEvent, nowMs: number): State {
  switch (event.event) {
    case "queue":
      return {
        ...state,
        link: {
          kind: "queued",
          position: event.position,
          size: event.size,
          waitS: event.wait_s ?? null,
        },
      };
    case "ready":
      return {
        ...state,
        link: { kind: "open" },
        server: event,
        answering: null,
        userSpeaking: false,
      };
    case "listening":
      return {
        ...state,
        listening: event.on,
        handsFree: event.hands_free,
        userSpeaking: state.userSpeaking && event.on,
        asking: state.asking && !event.on,
      };
    case "speech_start":
      return { ...state, userSpeaking: true };
    case "speech_end":
      return { ...state, userSpeaking: false };
    case "turn_start":
      return startTurn(state, event, nowMs);
    case "first_text":
      return withLatency(state, event.turn, "serverTextMs", () => event.ms);
    case "first_codes":
      return withLatency(state, event.turn, "serverTokensMs", () => event.ms);
    case "first_audio":
      return withLatency(state, event.turn, "serverAudioMs", () => event.ms);
    case "tool_call":
      return withTurn(state, event.turn, ({ tools }) => ({
        tools: [...tools, { name: event.name, arguments: event.arguments }],
      }));
    case "tool_result":
      return withTurn(state, event.turn, ({ tools }) => {
        const at = tools.findIndex((tool) => tool.name === event.name && tool.result === undefined);
        return at < 0 ? {} : { tools: tools.with(at, { ...tools[at]!, result: event.result }) };
      });
    case "turn_end": {
      const ended = withTurn(state, event.turn, () => ({ answer: event.text, end: event.reason }));
      return { ...ended, answering: state.answering === event.turn ? null : state.answering };
    }
    case "transcript":
      return withTurn(state, event.turn, () => ({ question: event.text }));
    case "error": {
      const refused = withTurn(state, PENDING, (turn) => ({ end: turn.end ?? "error" }));
      return withNotice({ ...refused, asking: false }, event.code, event.message);
    }
    case "going_away":
      return withNotice(state, "going_away", "");
    case "reset":
    case "settings":
    case "keepalive":
      return state;
  }
}

export function reduce(state: State, change: Change): State {
  switch (change.kind) {
    case "server":
      return onServer(withoutEnded(state, change.event), change.event, change.nowMs);
    case "text": {
      const number = current(state);
      const timed = withLatency(state, number, "textMs", (turn) => change.nowMs - turn.askedAtMs);
      return withTurn(timed, number, (turn) => ({ answer: turn.answer + change.text }));
    }
    case "packet":
      return withLatency(
        state,
        current(state),
        "packetMs",
        (turn) => change.nowMs - turn.askedAtMs,
      );
    case "complete":
      return { ...state, listening: false, asking: true };
    case "playback_stopped":
      return { ...state, answering: null, asking: false, playing: false };
    case "asked": {
      const event = {
        event: "turn_start",
        turn: PENDING,
        source: change.source,
        seconds: null,
      } as const;
      const asked = startTurn(state, event, change.nowMs);
      const shown = withTurn(asked, PENDING, () => ({ question: change.question }));
      return { ...shown, answering: state.answering, asking: true };
    }
    case "link": {
      const turns = state.turns.map((turn) =>
        turn.end ? turn : { ...turn, end: "interrupted" as const },
      );
      return {
        ...state,
        link: change.link,
        turns,
        listening: false,
        userSpeaking: false,
        asking: false,
        answering: null,
      };
    }
    case "microphone":
      return { ...state, microphone: change.microphone };
    case "playback": {
      const playing = { ...state, playing: change.on };
      const packet = state.turns.findLast((turn) => turn.number === current(state))?.latency
        .packetMs;
      if (!change.on || packet === undefined) return playing;
      return withLatency(
        playing,
        current(state),
        "audioMs",
        (turn) => change.nowMs - turn.askedAtMs,
      );
    }
    case "playout":
      return { ...state, stalls: change.stalls, bufferMs: change.bufferMs };
    case "notice":
      return withNotice(state, change.code, change.message);
    case "dismiss":
      return { ...state, notices: state.notices.filter((notice) => notice.id !== change.id) };
    case "forget":
      return { ...state, turns: [], notices: [] };
  }
}
