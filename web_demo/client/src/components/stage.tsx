// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Who is speaking, both waveforms, and the main button. */

import { useEffect, useRef } from "react";

import { useText } from "../i18n/text";
import type { Session } from "../session/session";
import { microphoneProblem, phaseOf, type State } from "../session/state";
import type { Settings } from "../settings";
import { Slider, Switch } from "./controls";
import { Icon, type IconName } from "./icons";
import { Waveform } from "./waveform";

interface Props {
  session: Session;
  state: State;
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
}

/** What the main button does in this state: its words and its picture. */
function mainAction(state: State): {
  action: "speak" | "send" | "interrupt" | "mute" | "unmute" | "wait";
  icon: IconName;
} {
  switch (phaseOf(state)) {
    case "offline":
      return { action: "wait", icon: "wait" };
    case "listening":
    case "hearing":
      return state.handsFree ? { action: "mute", icon: "muted" } : { action: "send", icon: "send" };
    case "thinking":
    case "speaking":
      return { action: "interrupt", icon: "stop" };
    case "idle":
      return state.handsFree
        ? { action: "unmute", icon: "microphone" }
        : { action: "speak", icon: "microphone" };
  }
}

export function Stage({ session, state, settings, onChange }: Props) {
  const text = useText();
  const phase = phaseOf(state);
  const { action, icon } = mainAction(state);
  const handsFreeHints: Partial<Record<typeof phase, string>> = text.handsFreeHints;
  const hint = (state.handsFree && handsFreeHints[phase]) || text.hints[phase];
  const vad = state.server?.vad ?? false;
  const heard = state.listening && state.microphone === "on";
  // A microphone that cannot be opened cannot be pressed: the words say what can be done.
  const typing = (action === "speak" || action === "unmute") && microphoneProblem(state) !== null;
  const disabled = action === "wait" || typing;
  const button = useRef<HTMLButtonElement>(null);
  // A button loses the focus while it is disabled: the keyboard finds it again when nothing else took it.
  useEffect(() => {
    if (!disabled && document.activeElement === document.body) button.current?.focus();
  }, [disabled]);
  return (
    <section className={`stage card is-${phase}`} aria-label={`${text.you}, ${text.assistant}`}>
      <div className="lane you">
        <span className="lane-name">{text.you}</span>
        <Waveform className="you" level={() => (heard ? session.input.level : 0)} reversed />
      </div>
      <div className="stage-middle">
        <button
          ref={button}
          type="button"
          id="main-button"
          className="main-button"
          disabled={disabled}
          aria-describedby="stage-hint"
          onClick={() => session.toggle()}
        >
          <Icon name={icon} size={34} />
          <span>{typing ? text.noMicrophone : text.actions[action]}</span>
        </button>
        <p className="phase">
          <span className="dot" aria-hidden="true" />
          {state.link.kind === "queued" ? text.inQueue : text.phases[phase]}
        </p>
        <p id="stage-hint" className="hint">
          {typing ? text.typeInstead : hint}{" "}
          <span className="key-hint">
            {phase !== "offline" && !typing && <kbd>{text.spaceKey}</kbd>}
          </span>
        </p>
      </div>
      <div className="lane bot">
        <span className="lane-name">{text.assistant}</span>
        <Waveform className="bot" level={() => session.assistantLevel()} />
      </div>
      <div className="stage-settings">
        <Switch
          label={text.handsFree}
          hint={vad || phase === "offline" ? undefined : text.handsFreeOff}
          checked={settings.handsFree && vad}
          disabled={!vad}
          onChange={(handsFree) => onChange({ handsFree })}
        />
        <Slider
          label={text.volume}
          {...{ min: 0, max: 1, step: 0.05, value: settings.volume }}
          show={(share) => `${Math.round(share * 100)} %`}
          onChange={(volume) => onChange({ volume })}
        />
      </div>
    </section>
  );
}
