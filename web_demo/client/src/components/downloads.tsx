// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useEffect, useRef } from "react";
import { useText } from "../i18n/text";
import { asJson, asText, save } from "../session/export";
import type { Session } from "../session/session";
import type { State } from "../session/state";
import { Icon } from "./icons";

const stamp = () => new Date().toISOString().slice(0, 16).replace(/[:T]/g, "-");

export function Downloads({ session, state }: { session: Session; state: State }) {
  const text = useText();
  const menu = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const close = (event: Event) => {
      const escaped = event instanceof KeyboardEvent && event.key === "Escape";
      const outside =
        event instanceof PointerEvent && !menu.current?.contains(event.target as Node);
      if (menu.current && (escaped || outside)) menu.current.open = false;
    };
    window.addEventListener("pointerdown", close);
    window.addEventListener("keydown", close);
    return () => {
      window.removeEventListener("pointerdown", close);
      window.removeEventListener("keydown", close);
    };
  }, []);
  const name = (kind: string) => `conversation-${stamp()}.${kind}`;
  const file = (kind: "txt" | "json", content: string, type: string) => {
    save(new Blob([content], { type }), name(kind));
    if (menu.current) menu.current.open = false;
  };
  const wav = async () => {
    if (menu.current) menu.current.open = false;
    const recording = await session.wav();
    if (recording) save(recording, name("wav"));
  };
  const none = state.turns.length === 0;
  return (
    <details ref={menu} className="menu">
      <summary className="button quiet square" aria-label={text.download} title={text.download}>
        <Icon name="download" />
      </summary>
      <div className="menu-list card">
        <button type="button" disabled={session.recording.empty} onClick={() => void wav()}>
          {text.downloads.wav}
        </button>
        <button
          type="button"
          disabled={none}
          onClick={() =>
            file("txt", asText(state, text.you, text.assistant), "text/plain;charset=utf-8")
          }
        >
          {text.downloads.txt}
        </button>
        <button
          type="button"
          disabled={none}
          onClick={() => file("json", asJson(state, new Date()), "application/json")}
        >
          {text.downloads.json}
        </button>
      </div>
    </details>
  );
}
