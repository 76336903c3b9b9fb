// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState } from "react";
import { useText } from "../i18n/text";
import type { ServerInfo } from "../protocol/events";
import { askServer, type Reachable } from "../session/connection";
import { type Persona, playable, type Settings } from "../settings";
import { Choice, Field } from "./controls";
import { Mark } from "./icons";
import { LookButtons } from "./look";
import { MicrophoneCheck, MicrophoneHelp, type Problem } from "./microphone";

const ASK_AGAIN_MS = 5000;
const EXAMPLES = 4;

interface Props {
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
  token: string;
  onToken: (token: string) => void;
  starting: boolean;
  problem: Problem | null;
  onProblem: (problem: Problem | null) => void;
  /** With a question, it is the first that is asked. */
  onStart: (question?: string) => void;
  onStartWithout: () => void;
}

/** Poll the server's info. */
function useServer(token: string): Reachable | null {
  const [reachable, setReachable] = useState<Reachable | null>(null);
  useEffect(() => {
    let timer = 0;
    let left = false;
    const ask = async () => {
      const answer = await askServer(token);
      if (left) return;
      setReachable(answer);
      timer = window.setTimeout(ask, ASK_AGAIN_MS);
    };
    void ask();
    return () => {
      left = true;
      window.clearTimeout(timer);
    };
  }, [token]);
  return reachable;
}

export function StartPage(props: Props) {
  const { settings, onChange, starting, problem } = props;
  const text = useText();
  const server = useServer(props.token);
  const info = server && "info" in server ? server.info : null;
  const refused = server && "refused" in server ? server.refused : null;
  return (
    <div className="start">
      <header className="bar">
        <span className="brand">
          <Mark /> {text.name}
        </span>
        <LookButtons settings={settings} onChange={onChange} />
      </header>
      <main className="start-main">
        <div className="hero">
          <h1>{text.tagline}</h1>
          <p>{text.intro}</p>
          <HeroArt />
          {info && <About info={info} language={settings.language} />}
          {info && (
            <Examples
              questions={(info.examples ?? []).slice(0, EXAMPLES)}
              disabled={starting}
              onAsk={props.onStart}
            />
          )}
        </div>
        <form
          className="card start-form"
          onSubmit={(event) => {
            event.preventDefault();
            props.onStart();
          }}
        >
          {problem && (
            <MicrophoneHelp
              problem={problem}
              onRetry={() => props.onStart()}
              onWithout={props.onStartWithout}
            />
          )}
          {(refused === "bad_token" || props.token) && (
            <Field label={text.token} hint={text.tokenHint}>
              {(id, hint) => (
                <input
                  id={id}
                  aria-describedby={hint}
                  type="password"
                  autoComplete="off"
                  value={props.token}
                  onChange={(event) => props.onToken(event.target.value)}
                />
              )}
            </Field>
          )}
          <button
            type="submit"
            className="button primary big"
            disabled={starting || refused === "forbidden"}
          >
            {starting ? text.starting : text.startTalking}
          </button>
          <ServerLine server={server} />
          {server && <Personas settings={settings} onChange={onChange} server={info} />}
          {info && info.voices.length > 0 && (
            <Choice
              label={text.voice}
              value={
                info.voices.includes(settings.voice)
                  ? settings.voice
                  : String(info.defaults.voice ?? "")
              }
              options={info.voices.map((voice) => ({ value: voice, label: voice }))}
              onChange={(voice) => onChange({ voice })}
            />
          )}
          <MicrophoneCheck settings={settings} onChange={onChange} onProblem={props.onProblem} />
        </form>
      </main>
    </div>
  );
}

function ServerLine({ server }: { server: Reachable | null }) {
  const text = useText();
  const words = text.serverState;
  if (!server)
    return (
      <p className="server-line" role="status">
        {words.checking}
      </p>
    );
  if ("refused" in server) {
    return (
      <p className="server-line bad" role="status">
        {words[server.refused]}
      </p>
    );
  }
  const { info } = server;
  if (!info)
    return (
      <p className="server-line good" role="status">
        {words.reference}
      </p>
    );
  const full =
    info.sessions !== undefined &&
    info.max_sessions !== undefined &&
    info.sessions >= info.max_sessions;
  return (
    <p className={`server-line ${full ? "" : "good"}`} role="status">
      {full ? words.busy(info.queue ?? 0) : words.ready(info.model)}
      <br />
      <small>{info.recording ? text.privacyOn : text.privacyOff}</small>
    </p>
  );
}

/** What the model is, and the languages it answers in. */
function About({ info, language }: { info: ServerInfo; language: Settings["language"] }) {
  const text = useText();
  if (!info.description && !info.languages) return null;
  const names = new Intl.DisplayNames(language === "zh" ? "zh-CN" : "en", { type: "language" });
  return (
    <p className="about">
      <strong>{info.model}</strong>{" "}
      {info.description && <span lang={info.languages?.[0]}>{info.description} </span>}
      {info.languages &&
        text.answersIn(info.languages.map((tag) => names.of(tag) ?? tag).join(", "))}
    </p>
  );
}

interface ExamplesProps {
  questions: string[];
  disabled: boolean;
  onAsk: (question: string) => void;
}

/** Questions that the model answers well, to tap. */
export function Examples({ questions, disabled, onAsk }: ExamplesProps) {
  const text = useText();
  if (questions.length === 0) return null;
  return (
    <section className="examples" aria-label={text.examples}>
      <span aria-hidden="true">{text.examples}</span>
      <ul>
        {questions.map((question) => (
          <li key={question}>
            <button
              type="button"
              className="button"
              disabled={disabled}
              onClick={() => onAsk(question)}
            >
              {question}
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

interface PersonasProps {
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
  server: ServerInfo | null;
}

/** Render nothing if the model supports no persona but its own. */
export function Personas({ settings, onChange, server }: PersonasProps) {
  const text = useText();
  const personas = playable(server);
  if (personas.length === 1) return null;
  const choose = (persona: Persona) => {
    if (persona === "custom") onChange({ persona });
    else onChange({ persona, systemPrompt: persona === "default" ? "" : text.prompts[persona] });
  };
  return (
    <fieldset className="personas">
      <legend>{text.who}</legend>
      <div className="persona-grid">
        {personas.map((persona) => (
          <label key={persona} className="persona">
            <input
              type="radio"
              name="persona"
              checked={settings.persona === persona}
              onChange={() => choose(persona)}
            />
            <strong>{text.personas[persona]}</strong>
            <small>{text.personaNotes[persona]}</small>
          </label>
        ))}
      </div>
      {settings.persona !== "default" &&
        personas.some((persona) => persona === settings.persona) && (
          <Field label={text.instructions} hint={text.instructionsHint}>
            {(id, hint) => (
              <textarea
                id={id}
                aria-describedby={hint}
                rows={3}
                maxLength={4000}
                readOnly={!personas.includes("custom")}
                placeholder={server?.default_system_prompt ?? ""}
                value={settings.systemPrompt}
                onChange={(event) =>
                  onChange({ persona: "custom", systemPrompt: event.target.value })
                }
              />
            )}
          </Field>
        )}
    </fieldset>
  );
}

/** Two still waveforms that meet: what the page is about, without a word. */
function HeroArt() {
  const bars = Array.from({ length: 44 }, (_, i) => {
    const x = (i - 21.5) / 21.5;
    const swell = Math.abs(Math.sin(i * 0.9) * Math.cos(i * 0.37 + 0.8));
    return { x: 12 + i * 10, height: 10 + 110 * swell * (1 - 0.65 * Math.abs(x)), you: i < 22 };
  });
  return (
    <svg className="hero-art" viewBox="0 0 454 150" aria-hidden="true">
      {bars.map(({ x, height, you }) => (
        <rect
          key={x}
          className={you ? "you" : "bot"}
          x={x - 2.5}
          y={75 - height / 2}
          width="5"
          height={height}
          rx="2.5"
        />
      ))}
    </svg>
  );
}
