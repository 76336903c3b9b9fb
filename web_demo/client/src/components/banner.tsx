// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** What is wrong or waited for, in plain words. */

import { useEffect, useState } from "react";
import { useText } from "../i18n/text";
import type { Session } from "../session/session";
import type { Link, Notice, State } from "../session/state";
import { Icon } from "./icons";

/** Whole seconds until `delayMs` after this was first shown. */
function useCountdown(delayMs: number, attempt: number): number {
  const [endMs, setEndMs] = useState(() => performance.now() + delayMs);
  const [nowMs, setNowMs] = useState(() => performance.now());
  useEffect(() => {
    setEndMs(performance.now() + delayMs);
    const timer = window.setInterval(() => setNowMs(performance.now()), 250);
    return () => window.clearInterval(timer);
  }, [delayMs, attempt]);
  return Math.max(0, Math.ceil((endMs - nowMs) / 1000));
}

function Waiting({ link, session }: { link: Extract<Link, { kind: "waiting" }>; session: Session }) {
  const text = useText();
  const seconds = useCountdown(link.delayMs, link.attempt);
  return (
    <div className="banner warn">
      <Icon name="warning" />
      {/* The number changes every second: read out once, when the connection is lost. */}
      <p>
        <span aria-hidden="true">{text.link.waiting(seconds)}</span>
        <span className="sr-only" role="alert">
          {text.link.waiting(Math.ceil(link.delayMs / 1000))}
        </span>
      </p>
      <button type="button" className="button quiet" onClick={() => session.retryNow()}>
        {text.link.retryNow}
      </button>
    </div>
  );
}

function LinkBanner({ link, session }: { link: Link; session: Session }) {
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
          <span className="position" aria-hidden="true">{link.position}</span>
          <p>{text.link.queued(link.position, link.size)}</p>
        </div>
      );
    case "waiting":
      return <Waiting link={link} session={session} />;
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
      <button type="button" className="button quiet square" aria-label={text.dismiss} onClick={onDismiss}>
        <Icon name="close" size={16} />
      </button>
    </div>
  );
}

export function Banners({ session, state }: { session: Session; state: State }) {
  return (
    <div className="banners">
      <LinkBanner link={state.link} session={session} />
      {state.notices.map((notice) => (
        <NoticeBanner key={notice.id} notice={notice} onDismiss={() => session.dismiss(notice.id)} />
      ))}
    </div>
  );
}
