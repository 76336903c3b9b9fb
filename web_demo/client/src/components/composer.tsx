// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Typed questions and audio files. */

import { useRef, useState } from "react";
import { useText } from "../i18n/text";
import type { Session } from "../session/session";
import type { State } from "../session/state";
import { Icon } from "./icons";

export function Composer({ session, state }: { session: Session; state: State }) {
  const text = useText();
  const [words, setWords] = useState("");
  const file = useRef<HTMLInputElement>(null);
  const open = state.link.kind === "open";
  const mayType = open && (state.server?.protocol ?? 1) >= 2;
  const limit = state.server?.limits.text_chars;
  return (
    <form
      className="composer card"
      onSubmit={(event) => {
        event.preventDefault();
        if (!words.trim()) return;
        session.ask(words.trim());
        setWords("");
      }}
    >
      <input
        ref={file}
        type="file"
        accept="audio/*,video/webm,.opus,.flac"
        className="sr-only"
        tabIndex={-1}
        aria-hidden="true"
        onChange={({ target }) => {
          if (target.files?.[0]) void session.askFile(target.files[0]);
          target.value = "";
        }}
      />
      <button
        type="button"
        className="button quiet square"
        aria-label={text.attach}
        title={text.attach}
        disabled={!open}
        onClick={() => file.current?.click()}
      >
        <Icon name="attach" />
      </button>
      <input
        type="text"
        aria-label={text.writeHere}
        placeholder={open && !mayType ? text.noTyping : text.writeHere}
        disabled={!mayType}
        maxLength={typeof limit === "number" ? limit : undefined}
        enterKeyHint="send"
        value={words}
        onChange={(event) => setWords(event.target.value)}
      />
      <button
        type="submit"
        className="button primary square"
        aria-label={text.sendText}
        disabled={!mayType || !words.trim()}
      >
        <Icon name="send" />
      </button>
    </form>
  );
}
