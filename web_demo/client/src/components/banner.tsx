// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Banners for problems and waiting. */

import { useEffect, useState } from "react";
import { useText } from "../i18n/text";
import type { Session } from "../session/session";
import type { Link, Notice, State } from "../session/state";
import { Icon } from "./icons";

/** Whole seconds until `delayMs` after this was first shown. */
function useCountdown(delayMs: number, attempt: number): number {
  const [endMs, setEndMs] = useState(() => performance.now() + delayMs);
  const [nowMs, setNowMs] = useState(() => performance.now());
  // biome-ignore lint/correctness/useExhaustiveDependencies: every attempt starts the countdown again
  useEffect(() => {
    setEndMs(performance.now() + delayMs);
    const timer = window.setInterval(() => setNowMs(performance.now()), 250);
    return () => window.clearInterval(timer);
  }, [delayMs, attempt]);
  return Math.max(0, Math.ceil((endMs - nowMs) / 1000));
}

interface WaitingProps {
  link: Extract<Link, { kind: "waiting" }>;
  full: boolean;
  session: Session;
}

function Waiting({ link, full, session }: WaitingProps) {
  const text = useText();
  const seconds = useCountdown(link.delayMs, link.attempt);
  const words = full ? text.link.full : text.link.waiting;
  return (
    <div className="banner warn">
      <Icon name="warning" />
      {/* The number changes every second: read out once, when the connection is lost. */}
      <p>
        <span aria-hidden="true">{words(seconds)}</span>
        <span className="sr-only" role="alert">
          {words(Math.ceil(link.delayMs / 1000))}
        </span>
      </p>
      <button type="button" className="button quiet" onClick={() => session.retryNow()}>
        {text.link.retryNow}
      </button>
    </div>
  );
}

function LinkBanner({ link, full, session }: { link: Link; full: boolean; session: Session }) {
  const text = useText();
  switch (link.kind) {
    case "connecting":
      return (
        <div className="banner" role="status">
          <span className="spinner" aria-hidden="true" />
          <p>{text.link.connecting}</p>
        </div>
      );
    case "queued":
      return (
        <div className="banner" role="status">
          <span className="position" aria-hidden="true">
            {link.position}
          </span>
          <p>
            {text.link.queued(link.position, link.size)}
            <small>
              {text.link.wait(
                link.waitS === null ? null : Math.max(1, Math.round(link.waitS / 60)),
              )}
            </small>
          </p>
        </div>
      );
    case "waiting":
      return <Waiting link={link} full={full} session={session} />;
    default:
      return null;
  }
}

function NoticeBanner({ notice, onDismiss }: { notice: Notice; onDismiss: () => void }) {
  const text = useText();
  const words: Record<string, string> = text.notices;
  return (
    <div className="banner warn" role="alert">
      <Icon name="warning" />
      <p>
        {words[notice.code] ?? text.unknownNotice}
        {notice.message && <small>{notice.message}</small>}
      </p>
      <button
        type="button"
        className="button quiet square"
        aria-label={text.dismiss}
        onClick={onDismiss}
      >
        <Icon name="close" size={16} />
      </button>
    </div>
  );
}

export function Banners({ session, state }: { session: Session; state: State }) {
  // The banner of the lost connection says already that the server is full.
  const full =
    state.link.kind === "waiting" && state.notices.some(({ code }) => code === "queue_full");
  return (
    <div className="banners">
      <LinkBanner link={state.link} full={full} session={session} />
      {state.notices
        .filter(({ code }) => !full || code !== "queue_full")
        .map((notice) => (
          <NoticeBanner
            key={notice.id}
            notice={notice}
            onDismiss={() => session.dismiss(notice.id)}
          />
        ))}
    </div>
  );
}
