// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** The microphone: permission, device choice, 20 ms frames. */

import workletUrl from "./capture.worklet.ts?worker&url";
import { START_WITHIN_MS, startWithin } from "./context";

export type MicrophoneProblem = "denied" | "missing" | "busy" | "insecure" | "unsupported";

/** Why the microphone could not be opened, as a code with a text in i18n. */
export class MicrophoneError extends Error {
  constructor(readonly problem: MicrophoneProblem) {
    super(`microphone: ${problem}`);
  }
}

function problemOf(error: unknown): MicrophoneProblem {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return "denied";
    case "NotFoundError":
    case "OverconstrainedError":
      return "missing";
    default:
      return "busy";
  }
}

/** The chosen device, or the default one if that was unplugged since it was chosen. */
async function request(deviceId: string, audio: MediaTrackConstraints): Promise<MediaStream> {
  const media = navigator.mediaDevices;
  if (!deviceId) return media.getUserMedia({ audio });
  try {
    // "exact": Chromium takes no notice of a device that is only "ideal".
    return await media.getUserMedia({ audio: { ...audio, deviceId: { exact: deviceId } } });
  } catch (error) {
    if ((error as Error).name !== "OverconstrainedError") throw error;
    return media.getUserMedia({ audio });
  }
}

export interface CaptureOptions {
  deviceId: string;
  echoCancellation: boolean;
  noiseSuppression: boolean;
}

export class Capture {
  private constructor(
    private readonly context: AudioContext,
    private readonly stream: MediaStream,
    private readonly node: AudioWorkletNode,
  ) {}

  /** Open the microphone; throws a MicrophoneError on failure. */
  static async open(options: CaptureOptions): Promise<Capture> {
    if (!window.isSecureContext) throw new MicrophoneError("insecure");
    if (!navigator.mediaDevices || !window.AudioWorkletNode)
      throw new MicrophoneError("unsupported");
    const { deviceId, ...switches } = options;
    let stream: MediaStream;
    try {
      stream = await request(deviceId, { channelCount: 1, autoGainControl: true, ...switches });
    } catch (error) {
      throw new MicrophoneError(problemOf(error));
    }
    // The context keeps the device's own rate: Firefox connects no microphone to any other.
    const context = new AudioContext();
    try {
      await context.audioWorklet.addModule(workletUrl);
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      await context.close();
      throw error;
    }
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(node);
    await startWithin(context, START_WITHIN_MS);
    return new Capture(context, stream, node);
  }

  get rateHz(): number {
    return this.context.sampleRate;
  }

  set onFrame(listener: (frame: Float32Array) => void) {
    this.node.port.onmessage = ({ data }) => listener(data);
  }

  /** Called when the device disappears (unplugged, or permission revoked). */
  set onLost(listener: () => void) {
    const track = this.stream.getAudioTracks()[0];
    if (track) track.onended = listener;
  }

  close(): void {
    for (const track of this.stream.getTracks()) track.stop();
    this.node.port.onmessage = null;
    void this.context.close();
  }
}
