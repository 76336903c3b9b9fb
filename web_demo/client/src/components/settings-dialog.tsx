// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useEffect, useRef, useState } from "react";
import { useText } from "../i18n/text";
import type { ServerInfo } from "../protocol/events";
import { DEFAULTS, type Settings } from "../settings";
import { Choice, OptionalNumber, Slider, Switch } from "./controls";
import { LoudspeakerChoice, MicrophoneChoice } from "./devices";
import { Icon } from "./icons";
import { Personas } from "./start-page";

interface Props {
  settings: Settings;
  server: ServerInfo | null;
  onChange: (change: Partial<Settings>) => void;
  onClose: () => void;
}

export function SettingsDialog({ settings, server, onChange, onClose }: Props) {
  const text = useText();
  const dialog = useRef<HTMLDialogElement>(null);
  const [resets, setResets] = useState(0);
  useEffect(() => dialog.current?.showModal(), []);
  const follows = (server?.protocol ?? 1) >= 2; // a reference server has no settings to follow
  return (
    <dialog ref={dialog} className="settings" aria-labelledby="settings-title" onClose={onClose}>
      <header className="bar">
        <h2 id="settings-title">{text.settings}</h2>
        <button
          type="button"
          className="button quiet square"
          aria-label={text.close}
          onClick={() => dialog.current?.close()}
        >
          <Icon name="close" />
        </button>
      </header>
      <div className="settings-body">
        {follows && server && <Answers {...{ settings, server, onChange }} />}
        {follows && server?.vad && <Turns {...{ settings, onChange }} />}
        <AudioDevices {...{ settings, onChange }} />
        {follows && <Sampling key={resets} {...{ settings, onChange }} />}
        <p className="hint">{follows && text.actsNext}</p>
        <button
          type="button"
          className="button quiet"
          onClick={() => {
            onChange({ ...DEFAULTS, language: settings.language, theme: settings.theme });
            setResets(resets + 1);
          }}
        >
          {text.reset}
        </button>
      </div>
    </dialog>
  );
}

type GroupProps = Pick<Props, "settings" | "onChange">;

function Answers({ settings, server, onChange }: GroupProps & { server: ServerInfo }) {
  const text = useText();
  return (
    <section>
      <h3>{text.groups.voice}</h3>
      <Personas {...{ settings, server, onChange }} />
      {server.voices.length > 0 && (
        <Choice
          label={text.voice}
          value={
            server.voices.includes(settings.voice)
              ? settings.voice
              : String(server.defaults.voice ?? "")
          }
          options={server.voices.map((voice) => ({ value: voice, label: voice }))}
          onChange={(voice) => onChange({ voice })}
        />
      )}
      {server.answers.length > 1 && (
        <Choice
          label={text.answerIn}
          value={settings.answer}
          options={(["speech", "text"] as const).map((value) => ({
            value,
            label: text.answers[value],
          }))}
          onChange={(answer) => onChange({ answer: answer as Settings["answer"] })}
        />
      )}
      {server.tools.length > 0 && (
        <Switch
          label={text.tools}
          hint={text.toolsNote(server.tools.map((tool) => tool.name).join(", "))}
          checked={settings.tools}
          onChange={(tools) => onChange({ tools })}
        />
      )}
      <Switch
        label={text.transcribe}
        checked={settings.transcribe}
        onChange={(transcribe) => onChange({ transcribe })}
      />
    </section>
  );
}

function Turns({ settings, onChange }: GroupProps) {
  const text = useText();
  return (
    <section>
      <h3>{text.groups.turns}</h3>
      <Switch
        label={text.handsFree}
        checked={settings.handsFree}
        onChange={(handsFree) => onChange({ handsFree })}
      />
      <Slider
        label={text.endSilence}
        {...{ min: 200, max: 3000, step: 100, value: settings.endSilenceMs }}
        show={(ms) => `${(ms / 1000).toFixed(1)} s`}
        onChange={(endSilenceMs) => onChange({ endSilenceMs })}
      />
      <Slider
        label={text.vadThreshold}
        {...{ min: 0.1, max: 0.95, step: 0.05, value: settings.vadThreshold }}
        show={(share) => `${Math.round(share * 100)} %`}
        onChange={(vadThreshold) => onChange({ vadThreshold })}
      />
    </section>
  );
}

function AudioDevices({ settings, onChange }: GroupProps) {
  const text = useText();
  return (
    <section>
      <h3>{text.groups.audio}</h3>
      <MicrophoneChoice settings={settings} onChange={onChange} />
      <LoudspeakerChoice settings={settings} onChange={onChange} />
      <Switch
        label={text.echoCancellation}
        checked={settings.echoCancellation}
        onChange={(echoCancellation) => onChange({ echoCancellation })}
      />
      <Switch
        label={text.noiseSuppression}
        checked={settings.noiseSuppression}
        onChange={(noiseSuppression) => onChange({ noiseSuppression })}
      />
      <Switch
        label={text.captions}
        checked={settings.captions}
        onChange={(captions) => onChange({ captions })}
      />
    </section>
  );
}

function Sampling({ settings, onChange }: GroupProps) {
  const text = useText();
  const placeholder = text.modelDefault;
  return (
    <section>
      <h3>{text.groups.model}</h3>
      <Switch
        label={text.sampleText}
        checked={settings.sampleText}
        onChange={(sampleText) => onChange({ sampleText })}
      />
      <div className="grid">
        <OptionalNumber
          label={text.temperature}
          {...{ placeholder, min: 0.05, max: 2, step: 0.05, value: settings.temperature }}
          onChange={(temperature) => onChange({ temperature })}
        />
        <OptionalNumber
          label={text.topP}
          {...{ placeholder, min: 0.05, max: 1, step: 0.05, value: settings.topP }}
          onChange={(topP) => onChange({ topP })}
        />
        <OptionalNumber
          label={text.topK}
          {...{ placeholder, min: 0, max: 1000, step: 1, value: settings.topK }}
          onChange={(topK) => onChange({ topK })}
        />
        <OptionalNumber
          label={text.repetitionPenalty}
          {...{ placeholder, min: 0.5, max: 2, step: 0.05, value: settings.repetitionPenalty }}
          onChange={(repetitionPenalty) => onChange({ repetitionPenalty })}
        />
        <OptionalNumber
          label={text.seed}
          {...{ placeholder, min: 0, max: 2147483647, step: 1, value: settings.seed }}
          onChange={(seed) => onChange({ seed })}
        />
        <OptionalNumber
          label={text.maxNewTokens}
          {...{ placeholder, min: 1, max: 2048, step: 1, value: settings.maxNewTokens }}
          onChange={(maxNewTokens) => onChange({ maxNewTokens })}
        />
      </div>
    </section>
  );
}
