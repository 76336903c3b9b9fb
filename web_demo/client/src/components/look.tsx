// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useText } from "../i18n/text";
import type { Settings } from "../settings";
import { Icon } from "./icons";

interface Props {
  settings: Settings;
  onChange: (change: Partial<Settings>) => void;
}

const isDark = (theme: Settings["theme"]) =>
  theme === "dark" ||
  (theme === "system" && window.matchMedia("(prefers-color-scheme: dark)").matches);

/** Language and light or dark, one press each. */
export function LookButtons({ settings, onChange }: Props) {
  const text = useText();
  const dark = isDark(settings.theme);
  const other = settings.language === "en" ? "zh" : "en";
  return (
    <div className="row">
      <button
        type="button"
        className="button quiet"
        lang={other}
        onClick={() => onChange({ language: other })}
      >
        {text.otherLanguage}
      </button>
      <button
        type="button"
        className="button quiet square"
        aria-label={`${text.appearance}: ${dark ? text.themes.light : text.themes.dark}`}
        onClick={() => onChange({ theme: dark ? "light" : "dark" })}
      >
        <Icon name={dark ? "light" : "dark"} />
      </button>
    </div>
  );
}
