// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** User settings, stored in this browser. */

import type { ServerInfo } from "./protocol/events";

export const PERSONAS = [
  "default",
  "companion",
  "tutor",
  "storyteller",
  "brief",
  "custom",
] as const;
export type Persona = (typeof PERSONAS)[number];

export interface Settings {
  language: "en" | "zh";
  theme: "system" | "light" | "dark";
  persona: string;
  systemPrompt: string;
  voice: string;
  answer: "speech" | "text";
  tools: boolean;
  handsFree: boolean;
  endSilenceMs: number;
  vadThreshold: number;
  transcribe: boolean;
  sampleText: boolean;
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  repetitionPenalty: number | null;
  seed: number | null;
  maxNewTokens: number | null;
  inputId: string;
  outputId: string;
  volume: number;
  echoCancellation: boolean;
  noiseSuppression: boolean;
  captions: boolean;
}

const KEY = "fun-audio-chat.settings";

export const DEFAULTS: Settings = {
  language: "en",
  theme: "system",
  persona: "default",
  systemPrompt: "",
  voice: "",
  answer: "speech",
  tools: false,
  handsFree: false,
  endSilenceMs: 600,
  vadThreshold: 0.5,
  transcribe: true,
  sampleText: false,
  temperature: null,
  topP: null,
  topK: null,
  repetitionPenalty: null,
  seed: null,
  maxNewTokens: null,
  inputId: "",
  outputId: "",
  volume: 1,
  echoCancellation: true,
  noiseSuppression: true,
  captions: true,
};

/** Settings from storage; a field that is missing or of another type has its default. */
export function readSettings(stored: string | null, browserLanguage: string): Settings {
  const settings: Settings = {
    ...DEFAULTS,
    language: browserLanguage.startsWith("zh") ? "zh" : "en",
  };
  let saved: unknown = null;
  try {
    saved = JSON.parse(stored ?? "null");
  } catch {
    return settings;
  }
  for (const key of Object.keys(DEFAULTS) as (keyof Settings)[]) {
    const value = (saved as Partial<Settings> | null)?.[key];
    const expected = DEFAULTS[key] === null ? "number" : typeof DEFAULTS[key];
    if (typeof value === expected) Object.assign(settings, { [key]: value });
  }
  return settings;
}

export function loadSettings(): Settings {
  return readSettings(storage()?.getItem(KEY) ?? null, navigator.language);
}

export function saveSettings(settings: Settings): void {
  try {
    storage()?.setItem(KEY, JSON.stringify(settings));
  } catch {
    // A full or forbidden storage only means that the choice is forgotten.
  }
}

function storage(): Storage | null {
  try {
    return window.localStorage;
  } catch {
    return null;
  }
}

/** Personas that the server's model can play; the first is the model itself. */
export const playable = (server: Pick<ServerInfo, "personas"> | null) =>
  PERSONAS.filter(
    (persona) => persona === "default" || (server?.personas?.includes(persona) ?? true),
  );

/** The metadata message that makes the server follow `settings`. */
export function serverSettings(
  settings: Settings,
  server: Pick<ServerInfo, "voices" | "vad" | "personas">,
) {
  const plays = playable(server).some((persona) => persona === settings.persona);
  const chosen = {
    temperature: settings.temperature,
    top_p: settings.topP,
    top_k: settings.topK,
    repetition_penalty: settings.repetitionPenalty,
    seed: settings.seed,
    max_new_tokens: settings.maxNewTokens,
    text_greedy: settings.sampleText ? false : null,
  };
  return {
    system_prompt: plays ? settings.systemPrompt.trim() : "",
    ...(server.voices.includes(settings.voice) && { voice: settings.voice }),
    answer: settings.answer,
    tools: settings.tools,
    hands_free: settings.handsFree && server.vad,
    end_silence_ms: settings.endSilenceMs,
    vad_threshold: settings.vadThreshold,
    transcribe: settings.transcribe,
    sampling: Object.fromEntries(Object.entries(chosen).filter(([, value]) => value !== null)),
  };
}
