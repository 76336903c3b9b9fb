// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState, useSyncExternalStore } from "react";
import { useText } from "../i18n/text";
import type { Session } from "../session/session";
import { microphoneProblem } from "../session/state";
import type { Settings } from "../settings";
import { Banners } from "./banner";
import { Composer } from "./composer";
import { Downloads } from "./downloads";
import { Icon, Mark } from "./icons";
import { LatencyCard } from "./latency";
import { LookButtons } from "./look";
import { MicrophoneHelp, type Problem } from "./microphone";
import { SettingsDialog } from "./settings-dialog";
import { Stage } from "./stage";
import { Examples } from "./start-page";
import { Transcript } from "./transcript";

interface Props {
  session: Session;
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
  /** Why the session could not be restarted. */
  problem: Problem | null;
  onAgain: () => void;
  onAgainWithout: () => void;
  onBack: () => void;
}

const INTERACTIVE = "input, textarea, select, button, summary, a, dialog, [contenteditable]";

/** The space bar is the main button, wherever the focus has nothing of its own to do with it. */
function useSpaceBar(session: Session): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (
        event.code !== "Space" ||
        event.repeat ||
        (event.target as Element).closest?.(INTERACTIVE)
      )
        return;
      event.preventDefault();
      session.toggle();
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [session]);
}

/** Keep the screen on: a sleeping phone would end the session. */
function useWakeLock(awake: boolean): void {
  useEffect(() => {
    if (!awake || !("wakeLock" in navigator)) return;
    let lock: WakeLockSentinel | undefined;
    const ask = async () => {
      if (document.visibilityState === "visible")
        lock = await navigator.wakeLock.request("screen").catch(() => undefined);
    };
    void ask();
    document.addEventListener("visibilitychange", ask);
    return () => {
      document.removeEventListener("visibilitychange", ask);
      void lock?.release();
    };
  }, [awake]);
}

export function ConversationPage({
  session,
  settings,
  onChange,
  problem,
  onAgain,
  onAgainWithout,
  onBack,
}: Props) {
  const text = useText();
  const state = useSyncExternalStore(session.subscribe, session.snapshot);
  const [settingsOpen, setSettingsOpen] = useState(false);
  const noMicrophone = microphoneProblem(state);
  const [without, setWithout] = useState(noMicrophone !== null);
  const over = state.link.kind === "ended";
  useSpaceBar(session);
  useWakeLock(!over);
  useEffect(() => {
    if (state.microphone === "on") setWithout(false);
  }, [state.microphone]);
  const missing = !over && noMicrophone !== null && !without;
  return (
    <div className="conversation">
      <a className="skip" href="#transcript-title">
        {text.skip}
      </a>
      <header className="bar">
        <h1 className="brand">
          <Mark size={24} /> {text.name}
          {state.server?.model && <small>{state.server.model}</small>}
        </h1>
        <div className="row">
          <LookButtons settings={settings} onChange={onChange} />
          <Downloads session={session} state={state} />
          <button
            type="button"
            className="button quiet square"
            aria-label={text.settings}
            title={text.settings}
            onClick={() => setSettingsOpen(true)}
          >
            <Icon name="settings" />
          </button>
          {!over && (
            <button type="button" className="button quiet end" onClick={() => session.end()}>
              {text.end}
            </button>
          )}
        </div>
      </header>
      <main className="conversation-main">
        <div className="aside">
          {state.link.kind === "ended" ? (
            <Over code={state.link.code} onAgain={onAgain} onBack={onBack} />
          ) : (
            <Stage {...{ session, state, settings, onChange }} />
          )}
          <LatencyCard state={state} />
        </div>
        <div className="conversation-column">
          <Banners session={session} state={state} />
          {missing && (
            <div className="card">
              <MicrophoneHelp
                problem={noMicrophone as Problem}
                onRetry={() => session.listen()}
                onWithout={() => setWithout(true)}
              />
            </div>
          )}
          {over && problem && (
            <div className="card">
              <MicrophoneHelp problem={problem} onRetry={onAgain} onWithout={onAgainWithout} />
            </div>
          )}
          <Transcript state={state} captions={settings.captions} />
          {!over && <Composer session={session} state={state} />}
          {state.link.kind === "open" && (
            <Examples
              questions={state.server?.examples ?? []}
              disabled={false}
              onAsk={(question) => session.ask(question)}
            />
          )}
          {!over && state.turns.length > 0 && (
            <button type="button" className="button quiet forget" onClick={() => session.forget()}>
              {text.forget}
            </button>
          )}
        </div>
      </main>
      {settingsOpen && (
        <SettingsDialog
          settings={settings}
          server={state.server}
          onChange={onChange}
          onClose={() => setSettingsOpen(false)}
        />
      )}
    </div>
  );
}

function Over({
  code,
  onAgain,
  onBack,
}: {
  code: string;
  onAgain: () => void;
  onBack: () => void;
}) {
  const text = useText();
  const words: Record<string, string> = text.ended;
  return (
    <section className="card over" role="status">
      <p>{words[code] ?? text.ended.bye}</p>
      {/* biome-ignore lint/a11y/noAutofocus: the focused button has just disappeared */}
      <button type="button" className="button primary" autoFocus onClick={onAgain}>
        {text.startAgain}
      </button>
      <button type="button" className="button quiet" onClick={onBack}>
        {text.backToStart}
      </button>
    </section>
  );
}
