// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Microphone test before a session, and help when it cannot be opened. */

import { useEffect, useRef, useState } from "react";
import { Capture, MicrophoneError, type MicrophoneProblem } from "../audio/capture";
import { useText } from "../i18n/text";
import type { Settings } from "../settings";
import { MicrophoneChoice } from "./devices";
import { Icon } from "./icons";
import { loudness, Waveform } from "./waveform";

export type Problem = MicrophoneProblem | "lost";
const HOLD_MS = 1500;

/** Classify the recent peak level. */
function wordFor(peak: number): "silent" | "quiet" | "good" | "loud" {
  if (peak > 0.98) return "loud";
  const loud = loudness(peak);
  if (loud > 0.35) return "good";
  return loud > 0.05 ? "quiet" : "silent";
}

interface CheckProps {
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
  onProblem: (problem: Problem | null) => void;
}

export function MicrophoneCheck({ settings, onChange, onProblem }: CheckProps) {
  const text = useText();
  const [testing, setTesting] = useState(false);
  const [word, setWord] = useState<ReturnType<typeof wordFor>>("silent");
  const level = useRef(0);
  const { inputId: deviceId, echoCancellation, noiseSuppression } = settings;

  useEffect(() => {
    if (!testing) return;
    let capture: Capture | null = null;
    let left = false;
    let held = { peak: 0, atMs: 0 };
    Capture.open({ deviceId, echoCancellation, noiseSuppression }).then(
      (opened) => {
        onProblem(null);
        if (left) return opened.close();
        capture = opened;
        opened.onFrame = (frame) => {
          level.current = frame.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
          const nowMs = performance.now();
          if (level.current > held.peak || nowMs - held.atMs > HOLD_MS)
            held = { peak: level.current, atMs: nowMs };
          setWord(wordFor(held.peak));
        };
      },
      (error: unknown) => {
        onProblem(error instanceof MicrophoneError ? error.problem : "busy");
        setTesting(false);
      },
    );
    return () => {
      left = true;
      level.current = 0;
      capture?.close();
    };
  }, [testing, deviceId, echoCancellation, noiseSuppression, onProblem]);

  return (
    <div className="mic-check">
      <MicrophoneChoice settings={settings} onChange={onChange} />
      <div className="mic-test">
        <button
          type="button"
          className="button quiet"
          aria-pressed={testing}
          onClick={() => setTesting(!testing)}
        >
          <Icon name="microphone" size={18} />
          {testing ? text.stopCheck : text.checkMicrophone}
        </button>
        {testing && <Waveform className="you" level={() => level.current} />}
      </div>
      <p className="hint" role="status">
        {testing && (word === "silent" ? text.checkHint : text.levels[word])}
      </p>
    </div>
  );
}

interface HelpProps {
  problem: Problem;
  onRetry: () => void;
  onWithout: () => void;
}

export function MicrophoneHelp({ problem, onRetry, onWithout }: HelpProps) {
  const text = useText();
  const help = text.microphoneProblems[problem];
  const heading = useRef<HTMLHeadingElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: another problem moves the focus again
  useEffect(() => heading.current?.focus(), [problem]);
  return (
    <section className="mic-help" role="alert" aria-labelledby="mic-help-title">
      <h2 id="mic-help-title" ref={heading} tabIndex={-1}>
        <Icon name="muted" /> {help.title}
      </h2>
      <p>{help.text}</p>
      <ol>
        {help.steps.map((step) => (
          <li key={step}>{step}</li>
        ))}
      </ol>
      <p>{text.withoutMicrophone}</p>
      <div className="row">
        <button type="button" className="button" onClick={onRetry}>
          {text.tryAgain}
        </button>
        <button type="button" className="button quiet" onClick={onWithout}>
          {text.goOnWithout}
        </button>
      </div>
    </section>
  );
}
