// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * Drives Chromium for tests that are written in another language: one JSON request a line on
 * standard input, one JSON answer a line on standard output.
 *
 *   {"id": 1, "method": "open", "args": [{"url": ..., "wav": ..., "deny": false, "context": {}}]}
 *   {"id": 2, "page": 0, "method": "click", "args": ["text=Start"]}    any method of a page
 *   {"id": 3, "page": 0, "method": "heard", "args": []}                what its loudspeaker got
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

/** Runs in the page before its own code: keeps a copy of all that reaches a loudspeaker. */
function listenIn() {
  const heard = { rateHz: 0, blocks: [] };
  window.heard = heard;
  const connect = AudioNode.prototype.connect;
  AudioNode.prototype.connect = function (target, ...rest) {
    if (target instanceof AudioDestinationNode && !(target.context instanceof OfflineAudioContext)) {
      const tap = target.context.createScriptProcessor(1024, 1, 1);
      heard.rateHz = target.context.sampleRate;
      tap.onaudioprocess = ({ inputBuffer }) => {
        heard.blocks.push({ atMs: performance.now(), samples: inputBuffer.getChannelData(0).slice() });
      };
      connect.call(this, tap);
      connect.call(tap, target);
    }
    return connect.call(this, target, ...rest);
  };
}

/** The copy, as base64 of float32 samples. */
function takeHeard() {
  const { rateHz, blocks } = window.heard;
  const samples = new Float32Array(blocks.reduce((sum, block) => sum + block.samples.length, 0));
  let at = 0;
  for (const block of blocks) {
    samples.set(block.samples, at);
    at += block.samples.length;
  }
  const bytes = new Uint8Array(samples.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return { rateHz, endMs: blocks.at(-1)?.atMs ?? 0, float32: btoa(text) };
}

async function open({ url, wav, deny = false, context: options = {} }) {
  const folder = mkdtempSync(join(tmpdir(), "page-"));
  folders.push(folder);
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    // Without this flag and without a permission, a headless browser denies the microphone.
    args: [...FLAGS, ...(deny ? [] : ["--use-fake-ui-for-media-stream"]), ...(wav ? [`--use-file-for-fake-audio-capture=${wav}`] : [])],
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

async function answer({ page: number, method, args }) {
  if (method === "open") return open(args[0]);
  const { page, problems } = pages[number];
  if (method === "problems") return problems;
  if (method === "heard") return page.evaluate(takeHeard);
  if (method === "quit") return page.context().close();
  if (method === "download") {
    const [download] = await Promise.all([page.waitForEvent("download"), page.click(args[0])]);
    await download.saveAs(args[1]);
    return download.suggestedFilename();
  }
  const path = method.split(".");
  const target = path.slice(0, -1).reduce((object, name) => object[name], page);
  const result = await target[path.at(-1)](...args);
  return ["string", "number", "boolean"].includes(typeof result) || method === "evaluate" ? result : null;
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const reply = await answer(request).then(
    (result) => ({ id: request.id, result: result ?? null }),
    (error) => ({ id: request.id, error: String(error) }),
  );
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
for (const context of contexts) await context.close().catch(() => {});
for (const folder of folders) rmSync(folder, { recursive: true, force: true });
