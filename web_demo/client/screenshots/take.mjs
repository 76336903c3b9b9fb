// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * Takes the pictures in this folder: `npm run build && node screenshots/take.mjs`.
 * The page is the real one; the conversation is written below, so that the pictures stay the same.
 * Those in Chinese need a font that has it (Debian's fonts-wqy-microhei).
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { preview } from "vite";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const voice = pages(readFileSync(here("../../../tests/golden/web_demo/opus_recorder_speech.bin")));
const question = here("../../../examples/question.wav");

const INFO = {
  protocol: 2,
  model: "Fun-Audio-Chat-8B",
  sample_rate: 24000,
  frame_ms: 40,
  voices: ["anna", "ben", "mei"],
  answers: ["speech", "text"],
  vad: true,
  tools: ["get_weather", "get_time", "get_battery"].map((name) => ({
    name,
    description: "",
    parameters: {},
  })),
  default_system_prompt: "You are asked to generate both text and speech tokens at the same time.",
  defaults: { voice: "anna" },
  recording: false,
  limits: {
    utterance_seconds: 60,
    message_bytes: 16777216,
    text_chars: 4000,
    system_prompt_chars: 4000,
  },
  sessions: 1,
  max_sessions: 4,
  queue: 0,
  token_required: false,
};

const TURNS = {
  en: [
    ["Hello! Can you hear me well?", "Loud and clear. What shall we talk about?"],
    [
      "What is the weather like in Lisbon today? I leave in an hour.",
      "Sunny and 24 degrees, with a light wind from the west. Take sunglasses; you will not need a coat.",
    ],
    [
      "And how do I say “one coffee, please” there?",
      "Um café, por favor. Say the last word softly: fa",
    ],
  ],
  zh: [
    ["你好，听得清楚吗？", "听得很清楚。我们聊点什么？"],
    [
      "里斯本今天天气怎么样？我一小时后出发。",
      "晴天，二十四度，有一点西风。带上墨镜，不用带外套。",
    ],
    ["那里“请来一杯咖啡”怎么说？", "Um café, por favor。最后一个词要说得"],
  ],
};

function metadata(socket, data) {
  socket.send(Buffer.concat([Buffer.of(4), Buffer.from(JSON.stringify({ t_ms: 0, ...data }))]));
}

/** Splits a recording into its Ogg pages, each of which follows its length. */
function pages(recorded) {
  const found = [];
  for (let at = 0; at < recorded.length; ) {
    const end = at + 4 + recorded.readUInt32LE(at);
    found.push(recorded.subarray(at + 4, end));
    at = end;
  }
  return found;
}

/** Sends the assistant's speech twice, one message per Ogg page. */
function speak(socket) {
  for (let round = 0; round < 2; round++) {
    for (const page of voice) {
      socket.send(Buffer.concat([Buffer.of(1), page]));
    }
  }
}

async function converse(page, socket, turns) {
  for (const [i, [question, answer]] of turns.entries()) {
    const turn = i + 1;
    const last = turn === turns.length;
    if (last) {
      metadata(socket, { event: "listening", on: true, hands_free: false });
      await page.waitForTimeout(2500);
      metadata(socket, { event: "listening", on: false, hands_free: false });
    }
    metadata(socket, { event: "turn_start", turn, source: "voice", seconds: 1.6 + 1.3 * i });
    if (turn === 2) {
      metadata(socket, {
        event: "tool_call",
        turn,
        name: "get_weather",
        arguments: { city: "Lisbon" },
      });
      metadata(socket, {
        event: "tool_result",
        turn,
        name: "get_weather",
        result: { celsius: 24, sky: "sunny" },
      });
    }
    metadata(socket, { event: "transcript", turn, text: question });
    if (last) {
      metadata(socket, { event: "first_text", turn, ms: 96 });
      metadata(socket, { event: "first_codes", turn, ms: 131 });
      metadata(socket, { event: "first_audio", turn, ms: 288 });
      await page.waitForTimeout(300);
      speak(socket);
    }
    socket.send(Buffer.concat([Buffer.of(2), Buffer.from(answer)]));
    if (!last) metadata(socket, { event: "turn_end", turn, reason: "done", text: answer });
  }
}

const VIEWS = {
  light: { viewport: { width: 1280, height: 800 } },
  dark: { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
  phone: {
    viewport: { width: 390, height: 844 },
    deviceScaleFactor: 1.5,
    isMobile: true,
    hasTouch: true,
  },
};

async function take(browser, url, view, language) {
  const context = await browser.newContext({
    ...VIEWS[view],
    locale: language === "zh" ? "zh-CN" : "en-US",
    permissions: ["microphone"],
  });
  const page = await context.newPage();
  page.setDefaultTimeout(180000);
  let socket;
  await page.route("**/api/info*", (route) => route.fulfill({ json: INFO }));
  await page.routeWebSocket("**/api/simplex*", (opened) => {
    socket = opened;
    opened.send(Buffer.of(0, 0, 0));
    metadata(opened, {
      event: "ready",
      ...INFO,
      session: "a",
      resume: "b",
      resumed: false,
      settings: {},
    });
    metadata(opened, { event: "listening", on: true, hands_free: false });
    opened.onMessage((data) => {
      if (data[0] === 3 && data[1] === 0)
        metadata(opened, { event: "listening", on: true, hands_free: false });
    });
  });
  const name = language === "zh" ? `${view}-zh` : view;
  const shot = (what) =>
    page.screenshot({ path: here(`${what}-${name}.jpg`), type: "jpeg", quality: 75 });
  await page.goto(url);
  await page.waitForSelector(".server-line.good");
  await shot("start");
  await page.evaluate(() => {
    navigator.mediaDevices.getUserMedia = () =>
      Promise.reject(new DOMException("", "NotAllowedError"));
  });
  await page.click(".button.big");
  await page.click("#main-button");
  await page.waitForSelector(".mic-help");
  await shot("denied");
  await page.evaluate(() => {
    delete navigator.mediaDevices.getUserMedia; // restores the prototype's own
  });
  await page.click(".mic-help .button"); // try again
  await page.waitForSelector(".is-listening");
  await converse(page, socket, TURNS[language]);
  await page.waitForSelector(".is-speaking");
  await page.waitForTimeout(1200);
  await shot("conversation");
  await page.click(".bar > .row > .square"); // settings
  await page.waitForSelector("dialog");
  await shot("settings");
  await context.close();
}

const server = await preview({ root: here(".."), preview: { port: 4179 } });
const url = server.resolvedUrls.local[0];
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    `--use-file-for-fake-audio-capture=${question}`,
  ],
});
try {
  for (const view of Object.keys(VIEWS)) await take(browser, url, view, "en");
  await take(browser, url, "light", "zh");
} finally {
  await browser.close();
  await server.close();
}
