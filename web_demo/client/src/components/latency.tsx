// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Latency of the last reply, by stage. */

import { useState } from "react";
import { useText } from "../i18n/text";
import type { Latency, State } from "../session/state";

type Stage = "text" | "tokens" | "audio" | "answer" | "play";

/**
 * The stages of a turn in order, each with the time it took alone. If the server
 * reports no timings, everything up to the first packet is one stage.
 */
export function stagesOf(latency: Latency): { stage: Stage; ms: number }[] {
  const { serverTextMs, serverTokensMs, serverAudioMs, packetMs, audioMs } = latency;
  const known = serverAudioMs !== undefined && audioMs !== undefined && audioMs >= serverAudioMs;
  const marks: [Stage, number | undefined][] = known
    ? [
        ["text", serverTextMs],
        ["tokens", serverTokensMs],
        ["audio", serverAudioMs],
        ["play", audioMs],
      ]
    : [
        ["answer", packetMs],
        ["play", audioMs],
      ];
  const stages: { stage: Stage; ms: number }[] = [];
  let before = 0;
  for (const [stage, mark] of marks) {
    if (mark === undefined || mark < before) continue;
    stages.push({ stage, ms: mark - before });
    before = mark;
  }
  return stages;
}

export function median(values: number[]): number | null {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length
    ? (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
    : null;
}

export function LatencyCard({ state }: { state: State }) {
  const text = useText();
  const [wide] = useState(() => window.matchMedia("(min-width: 821px)").matches); // phones need the room
  const timed = state.turns.filter(
    ({ latency }) => latency.audioMs !== undefined || latency.textMs !== undefined,
  );
  const last = timed.at(-1);
  const middle = median(timed.flatMap(({ latency }) => latency.audioMs ?? []));
  return (
    <details className="latency card" open={wide}>
      <summary>
        <h2>{text.latency}</h2>
        {last && <strong>{Math.round(last.latency.audioMs ?? last.latency.textMs!)} ms</strong>}
      </summary>
      {last ? <LastTurn latency={last.latency} /> : <p className="hint">{text.latencyNone}</p>}
      <dl className="metrics">
        <Metric name={text.median} value={middle === null ? "–" : `${Math.round(middle)} ms`} />
        <Metric
          name={text.buffer}
          value={state.bufferMs ? `${Math.round(state.bufferMs)} ms` : "–"}
        />
        <Metric name={text.stalls} value={String(state.stalls)} />
      </dl>
    </details>
  );
}

function Metric({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function LastTurn({ latency }: { latency: Latency }) {
  const text = useText();
  if (latency.audioMs === undefined) return <p className="hint">{text.latencyTextOnly}</p>;
  const stages = stagesOf(latency);
  return (
    <>
      <p className="hint">{text.latencyTotal}</p>
      <div className="stage-bar" aria-hidden="true">
        {stages.map(({ stage, ms }) => (
          <span key={stage} className={`part-${stage}`} style={{ flexGrow: Math.max(1, ms) }} />
        ))}
      </div>
      <ul className="stage-list">
        {stages.map(({ stage, ms }) => (
          <li key={stage}>
            <span className={`swatch part-${stage}`} aria-hidden="true" />
            {text.stages[stage]} <b>{Math.round(ms)} ms</b>
          </li>
        ))}
      </ul>
    </>
  );
}
