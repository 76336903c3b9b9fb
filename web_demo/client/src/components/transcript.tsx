// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** The transcript of both sides, by turn. */

import { useEffect, useRef, useState } from "react";
import { useText } from "../i18n/text";
import { phaseOf, type State, type ToolUse, type Turn } from "../session/state";
import { Icon } from "./icons";

/** Keep the view at the end unless the user has scrolled up. */
function useFollow(change: unknown) {
  const box = useRef<HTMLDivElement>(null);
  const follow = useRef(true);
  // biome-ignore lint/correctness/useExhaustiveDependencies: new content is what moves the end
  useEffect(() => {
    const element = box.current;
    if (element && follow.current) element.scrollTop = element.scrollHeight;
  }, [change]);
  const onScroll = () => {
    const element = box.current;
    if (element)
      follow.current = element.scrollHeight - element.scrollTop - element.clientHeight < 60;
  };
  return { box, onScroll };
}

export function Transcript({ state, captions }: { state: State; captions: boolean }) {
  const text = useText();
  const { box, onScroll } = useFollow(state.turns);
  return (
    <section className="transcript card" aria-labelledby="transcript-title">
      <h2 id="transcript-title" className="sr-only">
        {text.conversation}
      </h2>
      {/* biome-ignore lint/a11y/useSemanticElements: turns are no form fields */}
      <div
        ref={box}
        className="turns"
        // biome-ignore lint/a11y/noNoninteractiveTabindex: the keyboard scrolls it
        tabIndex={0}
        role="group"
        aria-labelledby="transcript-title"
        onScroll={onScroll}
      >
        {state.turns.length === 0 && <p className="empty">{text.emptyConversation}</p>}
        {captions &&
          state.turns.map((turn) => (
            <TurnView key={turn.id} turn={turn} active={state.answering === turn.number} />
          ))}
      </div>
      <Announcer state={state} captions={captions} />
    </section>
  );
}

function questionNote(turn: Turn, text: ReturnType<typeof useText>): string {
  if (turn.source === "text") return text.typed;
  if (turn.source === "file") return text.fromFile;
  return turn.seconds === null ? text.spokenUnknown : text.spoken(turn.seconds);
}

function TurnView({ turn, active }: { turn: Turn; active: boolean }) {
  const text = useText();
  const waiting = active && !turn.answer;
  return (
    <article className="turn">
      <div className="line you">
        <h3>
          {text.you} <small>{questionNote(turn, text)}</small>
        </h3>
        {turn.question && <p dir="auto">{turn.question}</p>}
      </div>
      <div className="line bot">
        <h3>
          {text.assistant}
          {turn.end === "interrupted" && <small> {text.interruptedMark}</small>}
          {turn.end === "error" && <small className="bad"> {text.errorMark}</small>}
        </h3>
        {turn.tools.map((tool, i) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: tool calls are only ever appended
          <ToolView key={`${tool.name}-${i}`} tool={tool} />
        ))}
        {waiting ? (
          <Dots />
        ) : (
          <p dir="auto">
            {turn.answer}
            {turn.end === "interrupted" && " —"}
          </p>
        )}
      </div>
    </article>
  );
}

const Dots = () => (
  <p className="dots" aria-hidden="true">
    <span />
    <span />
    <span />
  </p>
);

function ToolView({ tool }: { tool: ToolUse }) {
  const text = useText();
  const given = Object.entries(tool.arguments)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
  return (
    <details className="tool">
      <summary>
        <Icon name="tool" size={16} /> <span className="sr-only">{text.tool}: </span>
        <code>
          {tool.name}({given})
        </code>
        {tool.result === undefined && <em> {text.toolRunning}</em>}
      </summary>
      {tool.result !== undefined && <pre>{JSON.stringify(tool.result, null, 2)}</pre>}
    </details>
  );
}

/** Announces each finished turn as a whole and every change of phase, never partial text. */
function Announcer({ state, captions }: { state: State; captions: boolean }) {
  const text = useText();
  const last = state.turns.at(-1);
  const [announced, setAnnounced] = useState("");
  const question =
    last?.source === "voice" && last.question ? `${text.you}: ${last.question}. ` : "";
  const finished = last?.end && captions ? `${question}${text.assistant}: ${last.answer}` : "";
  useEffect(() => {
    if (finished) setAnnounced(finished); // stays until the next turn is complete
  }, [finished]);
  return (
    <>
      <div className="sr-only" role="status">
        {text.phases[phaseOf(state)]}
      </div>
      <div className="sr-only" role="log" aria-live="polite" aria-atomic="true">
        {announced}
      </div>
    </>
  );
}
