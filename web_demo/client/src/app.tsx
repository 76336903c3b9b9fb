// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useCallback, useEffect, useState } from "react";
import { ConversationPage } from "./components/conversation-page";
import type { Problem } from "./components/microphone";
import { StartPage } from "./components/start-page";
import { TEXTS, TextContext } from "./i18n/text";
import { Session } from "./session/session";
import { microphoneProblem } from "./session/state";
import { loadSettings, type Settings, saveSettings } from "./settings";

const TOKEN = "funaudiochat.token";

/** Remove the token from the address, where history, screenshots and shared links would keep it. */
function takeToken(): string {
  const url = new URL(window.location.href);
  const token = url.searchParams.get("token");
  if (token === null) return sessionStorage.getItem(TOKEN) ?? "";
  url.searchParams.delete("token");
  window.history.replaceState(null, "", url);
  sessionStorage.setItem(TOKEN, token); // for a reload of this tab
  return token;
}

export function App() {
  const [settings, setSettings] = useState(loadSettings);
  const [token, setToken] = useState(takeToken);
  const [session, setSession] = useState<Session | null>(null);
  const [starting, setStarting] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);

  const change = useCallback(
    (changed: Partial<Settings>) => setSettings((before) => ({ ...before, ...changed })),
    [],
  );

  useEffect(() => {
    saveSettings(settings);
    document.documentElement.lang = settings.language === "zh" ? "zh-CN" : "en";
    document.documentElement.dataset.theme = settings.theme;
    void session?.apply(settings);
  }, [settings, session]);

  useEffect(() => {
    const leave = () => session?.end();
    window.addEventListener("pagehide", leave);
    return () => window.removeEventListener("pagehide", leave);
  }, [session]);

  const start = async (withoutMicrophone: boolean, firstQuestion?: string) => {
    setStarting(true);
    try {
      const created = await Session.create(settings);
      const missing = microphoneProblem(created.state);
      if (missing !== null && !withoutMicrophone) {
        created.end();
        setProblem(missing as Problem);
        return;
      }
      setProblem(null);
      created.connect(token, firstQuestion);
      setSession(created);
    } catch {
      setProblem("unsupported");
    } finally {
      setStarting(false);
    }
  };

  return (
    <TextContext value={TEXTS[settings.language]}>
      {session ? (
        <ConversationPage
          key={session.id}
          session={session}
          settings={settings}
          onChange={change}
          problem={problem}
          onAgain={() => void start(microphoneProblem(session.state) !== null)}
          onAgainWithout={() => void start(true)}
          onBack={() => setSession(null)}
        />
      ) : (
        <StartPage
          settings={settings}
          onChange={change}
          token={token}
          onToken={setToken}
          starting={starting}
          problem={problem}
          onProblem={setProblem}
          onStart={(question) => void start(false, question)}
          onStartWithout={() => void start(true)}
        />
      )}
    </TextContext>
  );
}
