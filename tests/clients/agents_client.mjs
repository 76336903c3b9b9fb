// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0

// OpenAI's Agents SDK in Node: two spoken turns, an interruption, a tool call, an error, close.

import { readFileSync } from "node:fs";
import { RealtimeAgent, RealtimeSession, tool } from "@openai/agents/realtime";

const [url, model] = process.argv.slice(2);
const result = {};
const weather = tool({
  name: "get_weather",
  description: "Weather of a city",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
    additionalProperties: false,
  },
  strict: true,
  execute: async ({ city }) => {
    result.tool = { name: "get_weather", city };
    return '{"condition": "sunny", "degrees": 20}';
  },
});
const agent = new RealtimeAgent({ name: "Assistant", tools: [weather] });
const begin = async () => {
  const session = new RealtimeSession(agent, { transport: "websocket", model });
  session.on("error", (error) => {
    result.error = JSON.stringify(error);
  });
  await session.connect({
    apiKey: "token",
    url: `${url.replace("http", "ws")}/v1/realtime?model=${model}`,
  });
  return session;
};
let session = await begin();
const next = (name) => new Promise((resolve) => session.once(name, (...values) => resolve(values)));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (name) => {
  const data = Buffer.concat([readFileSync(`${name}.pcm`), Buffer.alloc(96000)]);
  session.sendAudio(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
};
for (const [turn, name] of [
  ["first", "question"],
  ["second", "follow_up"],
]) {
  const end = next("agent_end");
  say(name);
  result[turn] = (await end)[2];
  await pause(2000);
}
const audio = next("audio");
say("question");
await audio;
const interrupted = next("audio_interrupted");
say("question");
await interrupted;
result.interrupted = true;
session.close();
session = await begin();
const called = next("agent_tool_end");
session.sendMessage("What is the weather in Paris?");
await called;
result.told = (await next("agent_end"))[2];
session.transport.sendEvent({ type: "nothing" });
while (!result.error) await pause(50);
session.close();
console.log(JSON.stringify(result));
process.exit(0);
