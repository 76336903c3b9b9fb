// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Line icons on a 24-unit grid; decoration only, so hidden from screen readers. */

const PATHS = {
  microphone:
    "M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3ZM5.5 11a6.5 6.5 0 0 0 13 0M12 17.5V21",
  muted:
    "M9 9v2a3 3 0 0 0 4.6 2.5M15 10.5V6a3 3 0 0 0-5.8-1M5.5 11a6.5 6.5 0 0 0 10.4 5.2M18.5 11a6.4 6.4 0 0 1-.5 2.5M12 17.5V21M4 4l16 16",
  send: "M5 12h14M13 6l6 6-6 6",
  stop: "M6 6h12v12H6z",
  wait: "M12 7v5l3 2M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17Z",
  attach: "M8 12.5 14 6.4a3.2 3.2 0 0 1 4.6 4.5l-8 8a5 5 0 0 1-7.1-7L11 4.3",
  download: "M12 4v11M7.5 10.5 12 15l4.5-4.500M5 19.500h14",
  settings: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.500v5M9 14.500v5",
  close: "M6 6l12 12M18 6 6 18",
  light:
    "M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8ZM12 3v1.500M12 19.500V21M3 12h1.500M19.5 12H21M5.6 5.600l1 1M17.4 17.400l1 1M5.6 18.400l1-1M17.4 6.600l1-1",
  dark: "M19.5 14.500A8 8 0 0 1 9.5 4.500a8 8 0 1 0 10 10Z",
  tool: "M14.5 6.500a4 4 0 0 0 5 5L11 20a2.1 2.1 0 0 1-3-3l8.5-8.500M14.5 6.500a4 4 0 0 1 4.2-2.700L16.5 6l1.5 1.5 2.3-2.2",
  warning: "M12 4 3 19.500h18L12 4ZM12 10v4.500M12 17.200v.1",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 20 }: { name: IconName; size?: number }) {
  return (
    <svg
      className="icon"
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill="none"
      stroke="currentColor"
      strokeWidth="1.8"
      strokeLinecap="round"
      strokeLinejoin="round"
      aria-hidden="true"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** Two voices facing each other. */
export function Mark({ size = 28 }: { size?: number }) {
  return (
    <svg className="mark" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true">
      <g strokeWidth="2.8" strokeLinecap="round">
        <path className="mark-you" d="M4 14v4M8.5 10.500v11M13 6v20" />
        <path className="mark-bot" d="M19 6v20M23.5 10.500v11M28 14v4" />
      </g>
    </svg>
  );
}
