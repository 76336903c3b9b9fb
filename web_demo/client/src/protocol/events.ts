// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * The events a server of this toolkit sends as metadata, checked field by field: an event that is
 * unknown, or lacks a field this page needs, is ignored as any page must ignore news it cannot read.
 */

type Check<T> = (value: unknown) => value is T;
type Checked<C> = C extends Check<infer T> ? T : never;

const num: Check<number> = (value): value is number => typeof value === "number";
const str: Check<string> = (value): value is string => typeof value === "string";
const bool: Check<boolean> = (value): value is boolean => typeof value === "boolean";
const obj: Check<Record<string, unknown>> = (value): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const strings: Check<string[]> = (value): value is string[] =>
  Array.isArray(value) && value.every(str);
const orNull =
  <T>(check: Check<T>): Check<T | null> =>
  (value): value is T | null =>
    value === null || check(value);
const optional =
  <T>(check: Check<T>): Check<T | undefined> =>
  (value): value is T | undefined =>
    value === undefined || check(value);
const oneOf =
  <const T extends string>(...words: T[]): Check<T> =>
  (value): value is T =>
    words.some((word) => word === value);

const INFO = {
  protocol: num,
  model: str,
  voices: strings,
  answers: strings,
  vad: bool,
  tools: (value: unknown): value is { name: string; description?: string }[] =>
    Array.isArray(value) && value.every((tool) => obj(tool) && str(tool.name)),
  default_system_prompt: optional(orNull(str)),
  description: optional(orNull(str)),
  languages: optional(orNull(strings)),
  personas: optional(orNull(strings)),
  examples: optional(strings),
  defaults: obj,
  recording: bool,
  limits: obj,
  token_required: optional(bool),
  sessions: optional(num),
  max_sessions: optional(num),
  queue: optional(num),
};

const EVENTS = {
  queue: { position: num, size: num, wait_s: optional(orNull(num)) },
  ready: {
    ...INFO,
    session: optional(orNull(str)),
    resume: optional(orNull(str)),
    resumed: optional(bool),
    settings: obj,
  },
  settings: { settings: obj },
  listening: { on: bool, hands_free: bool },
  speech_start: {},
  speech_end: {},
  turn_start: { turn: num, source: oneOf("voice", "text", "file"), seconds: orNull(num) },
  first_text: { turn: num, ms: num },
  first_codes: { turn: num, ms: num },
  first_audio: { turn: num, ms: num },
  tool_call: { turn: num, name: str, arguments: obj },
  tool_result: { turn: num, name: str, result: obj },
  turn_end: {
    turn: num,
    reason: oneOf("done", "interrupted", "error"),
    text: str,
    stages: optional(orNull(obj)),
  },
  transcript: { turn: num, text: str },
  reset: {},
  error: { code: str, message: str, fatal: optional(bool) },
  keepalive: {},
  going_away: { seconds: num },
};

type MayLack<S> = { [F in keyof S]: undefined extends Checked<S[F]> ? F : never }[keyof S];
type Shape<S> = { [F in Exclude<keyof S, MayLack<S>>]: Checked<S[F]> } & {
  [F in MayLack<S>]?: Checked<S[F]>;
};

/** What `/api/info` and `ready` say about the server. */
export type ServerInfo = Shape<typeof INFO>;
export type ServerEvent = {
  [E in keyof typeof EVENTS]: { event: E } & Shape<(typeof EVENTS)[E]>;
}[keyof typeof EVENTS];
export type EventOf<E extends ServerEvent["event"]> = Extract<ServerEvent, { event: E }>;

const fits = (data: Record<string, unknown>, shape: Record<string, Check<unknown>>) =>
  Object.entries(shape).every(([field, check]) => check(data[field]));

export function parseEvent(data: unknown): ServerEvent | null {
  if (!obj(data) || !str(data.event) || !Object.hasOwn(EVENTS, data.event)) return null;
  return fits(data, EVENTS[data.event as keyof typeof EVENTS]) ? (data as ServerEvent) : null;
}

export function parseInfo(data: unknown): ServerInfo | null {
  return obj(data) && fits(data, INFO) ? (data as ServerInfo) : null;
}
