// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useEffect, useState } from "react";
import { canChooseOutput } from "../audio/player";
import { useText } from "../i18n/text";
import type { Settings } from "../settings";
import { Choice } from "./controls";

/** Devices of one kind; their names are known once the microphone was allowed. */
function useDevices(kind: MediaDeviceKind): MediaDeviceInfo[] {
  const [devices, setDevices] = useState<MediaDeviceInfo[]>([]);
  useEffect(() => {
    const media = navigator.mediaDevices;
    if (!media) return;
    const refresh = async () => {
      const found = await media.enumerateDevices().catch(() => []);
      setDevices(
        found.filter(
          (device) => device.kind === kind && device.deviceId && device.deviceId !== "default",
        ),
      );
    };
    void refresh();
    media.addEventListener("devicechange", refresh);
    const timer = window.setInterval(refresh, 3000); // a permission that is given fires no event
    return () => {
      media.removeEventListener("devicechange", refresh);
      window.clearInterval(timer);
    };
  }, [kind]);
  return devices;
}

interface Props {
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
}

function options(devices: MediaDeviceInfo[], defaultLabel: string) {
  return [
    { value: "", label: defaultLabel },
    ...devices.map((device, i) => ({ value: device.deviceId, label: device.label || `#${i + 1}` })),
  ];
}

export function MicrophoneChoice({ settings, onChange }: Props) {
  const text = useText();
  const devices = useDevices("audioinput");
  const value = devices.some((device) => device.deviceId === settings.inputId)
    ? settings.inputId
    : "";
  return (
    <Choice
      label={text.microphone}
      value={value}
      options={options(devices, text.defaultDevice)}
      onChange={(inputId) => onChange({ inputId })}
    />
  );
}

/** Absent where the browser always plays on the system's own choice. */
export function LoudspeakerChoice({ settings, onChange }: Props) {
  const text = useText();
  const devices = useDevices("audiooutput");
  if (!canChooseOutput) return null;
  const value = devices.some((device) => device.deviceId === settings.outputId)
    ? settings.outputId
    : "";
  return (
    <Choice
      label={text.loudspeaker}
      value={value}
      options={options(devices, text.defaultDevice)}
      onChange={(outputId) => onChange({ outputId })}
    />
  );
}
