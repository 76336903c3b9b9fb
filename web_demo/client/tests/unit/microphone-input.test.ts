// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Capture } from "../../src/audio/capture";
import { OpusEncoder } from "../../src/audio/encoder";
import { MicrophoneInput } from "../../src/session/microphone-input";

vi.mock("../../src/audio/capture.worklet.ts?worker&url", () => ({ default: "" }));
vi.mock("opus-recorder/dist/encoderWorker.min.js?url", () => ({ default: "" }));

class FakeWorker {
  static last: FakeWorker;
  onmessage: (event: { data: unknown }) => void = () => {};
  onerror: (event: { message?: string }) => void = () => {};
  constructor() {
    FakeWorker.last = this;
  }
  postMessage(): void {}
  terminate(): void {}
}

const OPTIONS = { deviceId: "", echoCancellation: true, noiseSuppression: true };

/** Permissions that wait for the test, in order. */
let asked: { give: (capture: Capture) => void; refuse: (error: Error) => void }[] = [];
const microphone = () => ({ close: vi.fn(), rateHz: 48000 }) as unknown as Capture;

beforeEach(() => {
  vi.stubGlobal("Worker", FakeWorker);
  asked = [];
  vi.spyOn(Capture, "open").mockImplementation(
    () => new Promise((give, refuse) => asked.push({ give, refuse })),
  );
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

describe("the microphone", () => {
  it("is not left open when the conversation ended before it was given", async () => {
    const input = new MicrophoneInput(() => {});
    const opening = input.openMicrophone(OPTIONS);
    input.close();
    const late = microphone();
    asked[0]!.give(late);
    expect(await opening).toBe(false);
    expect(late.close).toHaveBeenCalledOnce();
  });

  it("that was asked for last is the one that is open", async () => {
    const input = new MicrophoneInput(() => {});
    const openings = [
      input.openMicrophone(OPTIONS),
      input.openMicrophone(OPTIONS),
      input.openMicrophone(OPTIONS),
    ];
    const [first, last] = [microphone(), microphone()];
    asked[2]!.give(last);
    asked[0]!.give(first);
    asked[1]!.refuse(new Error("unplugged meanwhile"));
    expect(await Promise.all(openings)).toEqual([false, false, true]);
    expect(first.close).toHaveBeenCalledOnce();
    expect(last.close).not.toHaveBeenCalled();
    input.closeMicrophone();
    expect(last.close).toHaveBeenCalledOnce();
  });
});

describe("an encoder that fails", () => {
  it("says so once, and keeps nobody waiting for its pages", async () => {
    const onBroken = vi.fn();
    const encoder = new OpusEncoder(() => {}, onBroken);
    encoder.begin(48000);
    const waiting = encoder.flush();
    FakeWorker.last.onerror({ message: "out of memory" });
    FakeWorker.last.onerror({});
    await expect(waiting).rejects.toThrow("failed (out of memory); reload the page");
    await expect(encoder.flush()).rejects.toThrow("out of memory");
    expect(onBroken).toHaveBeenCalledOnce();
  });
});
