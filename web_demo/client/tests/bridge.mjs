// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * Drives Chromium for tests that are written in another language: one JSON request a line on
 * standard input, one JSON answer a line on standard output.
 *
 *   {"id": 1, "method": "open", "args": [{"url": ..., "wav": ..., "deny": false, "context": {}}]}
 *   {"id": 2, "page": 0, "method": "click", "args": ["text=Start"]}    any method of a page
 *   {"id": 3, "page": 0, "method": "heard", "args": []}                what its loudspeaker got
 *   {"id": 4, "page": 0, "method": "see", "args": [".hint", {}]}       wait until it is there; its text
 *   {"id": 5, "page": null, "method": "closeAll", "args": []}          the browsers end
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=user-gesture-required",
  "--use-fake-device-for-media-stream",
];

const pages = [];
const folders = [];
const contexts = [];

/** Runs in the page before its own code: an audio worklet keeps a copy of all a loudspeaker gets. */
function listenIn() {
  const tap = `registerProcessor("test-tap", class extends AudioWorkletProcessor {
    constructor() {
      super();
      this.samples = new Float32Array(4096);
      this.filled = 0;
      this.loudUntilS = 0;
    }
    process([[block]]) {
      if (!block) return true;
      this.samples.set(block, this.filled);
      this.filled += block.length;
      if (block.some((sample) => Math.abs(sample) > 1e-3)) this.loudUntilS = currentTime;
      if (this.filled === this.samples.length) {
        this.port.postMessage({ samples: this.samples.slice(), loudUntilS: this.loudUntilS });
        this.filled = 0;
      }
      return true;
    }
  });`;
  const heard = { pieces: [], context: null, loudUntilS: 0 };
  window.heard = heard;
  const { addModule } = AudioWorklet.prototype;
  AudioWorklet.prototype.addModule = async function (...args) {
    await addModule.call(this, URL.createObjectURL(new Blob([tap], { type: "text/javascript" })));
    return addModule.apply(this, args);
  };
  const { connect } = AudioNode.prototype;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (
      target instanceof AudioDestinationNode &&
      !(target.context instanceof OfflineAudioContext)
    ) {
      const node = new AudioWorkletNode(target.context, "test-tap", { numberOfOutputs: 0 });
      heard.context = target.context;
      node.port.onmessage = ({ data }) => {
        heard.pieces.push(data.samples);
        heard.loudUntilS = data.loudUntilS;
      };
      connect.call(this, node);
    }
    return connect.call(this, target, ...rest);
  };
}

/** The copy, as base64 of float32 samples. */
function takeHeard() {
  const { context, pieces } = window.heard;
  const samples = new Float32Array(pieces.length * 4096);
  for (const [i, piece] of pieces.entries()) samples.set(piece, i * 4096);
  const bytes = new Uint8Array(samples.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192)
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return { rateHz: context.sampleRate, float32: btoa(text) };
}

async function open({ url, wav, deny = false, context: options = {} }) {
  const folder = mkdtempSync(join(tmpdir(), "page-"));
  folders.push(folder);
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    // Without this flag and without a permission, a headless browser denies the microphone.
    args: [
      ...FLAGS,
      ...(deny ? [] : ["--use-fake-ui-for-media-stream"]),
      ...(wav ? [`--use-file-for-fake-audio-capture=${wav}`] : []),
    ],
    reducedMotion: "reduce", // less to draw for a loaded machine
    locale: "en-US",
    viewport: { width: 1280, height: 800 },
    acceptDownloads: true,
    ...options,
  });
  contexts.push(context);
  await context.addInitScript(listenIn);
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(30000);
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => {
    if (message.type() === "error") problems.push(message.text());
  });
  await page.goto(url);
  pages.push({ page, problems });
  return pages.length - 1;
}

async function closeAll() {
  while (contexts.length)
    await contexts
      .pop()
      .close()
      .catch(() => {});
  while (folders.length) rmSync(folders.pop(), { recursive: true, force: true });
}

async function answer({ page: number, method, args }) {
  if (method === "open") return open(args[0]);
  if (method === "closeAll") return closeAll();
  const { page, problems } = pages[number];
  if (method === "problems") return problems;
  if (method === "heard") return page.evaluate(takeHeard);
  if (method === "see") {
    // By its handle, so that what is gone a moment later was seen all the same.
    const shown = await page.waitForSelector(args[0], args[1]);
    // biome-ignore lint/performance/useDomNodeTextContent: hidden text must not count as seen
    return shown.evaluate((element) => element.innerText ?? "");
  }
  if (method === "download") {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(args[0])]);
    await download.saveAs(args[1]);
    return download.suggestedFilename();
  }
  const path = method.split(".");
  const target = path.slice(0, -1).reduce((object, name) => object[name], page);
  const result = await target[path.at(-1)](...args);
  return ["string", "number", "boolean"].includes(typeof result) || method === "evaluate"
    ? result
    : null;
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const reply = await answer(request).then(
    (result) => ({ id: request.id, result: result ?? null }),
    (error) => ({ id: request.id, error: String(error) }),
  );
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
await closeAll();
