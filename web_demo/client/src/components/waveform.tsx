// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { useEffect, useRef } from "react";

const BAR_PX = 3;
const GAP_PX = 2;
const BAR_MS = 40;
const CALM_BAR_MS = 250;
const MAX_BARS = 120;

/** Map a peak level to perceived loudness: 0 at -50 dB and below, 1 at full scale. */
export function loudness(level: number): number {
  return level > 0 ? Math.max(0, Math.min(1, 1 + (20 * Math.log10(level)) / 50)) : 0;
}

function draw(canvas: HTMLCanvasElement, bars: number[], colour: string, reversed: boolean): void {
  const scale = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.fillStyle = colour;
  const count = Math.ceil(width / (BAR_PX + GAP_PX));
  for (let i = 0; i < count; i++) {
    const bar = Math.max(BAR_PX, (bars[bars.length - 1 - i] ?? 0) * height);
    const at = i * (BAR_PX + GAP_PX);
    context.globalAlpha = 1 - 0.75 * (i / count);
    context.beginPath();
    context.roundRect(
      reversed ? width - at - BAR_PX : at,
      (height - bar) / 2,
      BAR_PX,
      bar,
      BAR_PX / 2,
    );
    context.fill();
  }
}

interface Props {
  /** Peak of the last moment, 0 to 1. */
  level: () => number;
  className: string;
  /** New audio enters at the right instead of the left. */
  reversed?: boolean;
}

/** The last seconds of a voice. Decoration: who speaks is said in words beside it. */
export function Waveform({ level, className, reversed = false }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const latest = useRef(level);
  latest.current = level;

  useEffect(() => {
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const bars = new Array<number>(MAX_BARS).fill(0);
    const barMs = calm ? CALM_BAR_MS : BAR_MS;
    let due = performance.now();
    let peak = 0;
    let request = 0;
    let drawnLook = ""; // silence is not drawn again unless it would look different
    const tick = (nowMs: number) => {
      peak = Math.max(peak, latest.current());
      if (nowMs >= due) {
        // With reduced motion one level for all bars: a meter that breathes instead of a river.
        if (calm) bars.fill(loudness(peak));
        bars.push(loudness(peak));
        bars.shift();
        peak = 0;
        due = Math.max(due + barMs, nowMs - barMs);
        const element = canvas.current;
        if (element) {
          const colour = getComputedStyle(element).color;
          const look = bars.some((bar) => bar > 0) ? "" : `${colour} ${element.clientWidth}`;
          if (!look || look !== drawnLook) draw(element, bars, colour, reversed);
          drawnLook = look;
        }
      }
      request = requestAnimationFrame(tick);
    };
    request = requestAnimationFrame(tick);
    return () => cancelAnimationFrame(request);
  }, [reversed]);

  // biome-ignore lint/a11y/noAriaHiddenOnFocusable: a canvas without tabIndex takes no focus
  return <canvas ref={canvas} className={`waveform ${className}`} aria-hidden="true" />;
}
