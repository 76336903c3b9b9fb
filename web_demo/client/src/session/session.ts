// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/** Runs one session: connects microphone, socket and audio output, and keeps the page's state. */

import { MicrophoneError } from "../audio/capture";
import { SAMPLE_RATE_HZ } from "../audio/decoder";
import type { PlayoutReport } from "../audio/playout.worklet";
import { Recording } from "../audio/recording";
import { parseEvent, type ServerEvent } from "../protocol/events";
import type { Action, Message } from "../protocol/messages";
import { type Settings, serverSettings } from "../settings";
import { AudioOutput } from "./audio-output";
import { Connection } from "./connection";
import { MicrophoneInput } from "./microphone-input";
import { QUIET_MS, ReferenceAdapter } from "./reference";
import { type Change, current, INITIAL, phaseOf, reduce, type State } from "./state";

/** Time after the handshake within which a server must send its first event. */
const EVENTS_WITHIN_MS = 700;
const PLAYED_EVERY_MS = 500;

let sessions = 0;

export class Session {
  readonly id = ++sessions;
  state: State = INITIAL;
  readonly recording = new Recording();
  readonly input = new MicrophoneInput((page) =>
    this.connection?.send({ type: "audio", data: page }),
  );

  private readonly listeners = new Set<() => void>();
  private connection: Connection | null = null;
  private reference: ReferenceAdapter | null = null;
  private eventsTimer = 0;
  private quietTimer = 0;
  private askedAtMs: number | null = null;
  private playedReportedAtMs = 0;
  private freshClip = { user: true, assistant: true };
  private firstQuestion = "";

  private constructor(
    private settings: Settings,
    private readonly output: AudioOutput,
  ) {
    output.onReport = (report) => this.onPlayout(report);
    output.onSamples = (samples) => this.record("assistant", SAMPLE_RATE_HZ, samples);
    output.player.setVolume(settings.volume);
    this.chooseOutput();
    this.input.onSamples = (frame, rateHz) => this.record("user", rateHz, frame);
    this.input.onLost = () => this.change({ kind: "microphone", microphone: "lost" });
    this.input.onBroken = () => this.notice("encoder_failed");
  }

  /**
   * Must be called from a click or key press. A hands-free session asks for the microphone at once:
   * `state.microphone` tells whether it could be opened. Otherwise the button asks for it.
   */
  static async create(settings: Settings): Promise<Session> {
    const session = new Session(settings, await AudioOutput.create());
    if (!session.output.player.running) session.notice("output_silent");
    if (settings.handsFree) await session.openMicrophone();
    return session;
  }

  /** @param firstQuestion is asked as soon as the session is ready. */
  connect(token: string, firstQuestion = ""): void {
    this.firstQuestion = firstQuestion;
    this.connection = new Connection(token, {
      onMessage: (message) => this.receive(message),
      onConnecting: () => this.change({ kind: "link", link: { kind: "connecting" } }),
      onWaiting: (attempt, delayMs, code) => {
        this.output.endReply();
        this.closeMicrophone();
        this.change({ kind: "link", link: { kind: "waiting", attempt, delayMs } });
        if (code) this.notice(code);
      },
      onEnded: (code) => this.end(code),
    });
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };
  readonly snapshot = (): State => this.state;

  assistantLevel(): number {
    return this.state.playing ? this.output.player.level() : 0;
  }

  // User actions

  /** Perform the main button's current action. */
  toggle(): void {
    const phase = phaseOf(this.state);
    if (phase === "listening" || phase === "hearing") void this.finish();
    else if (phase !== "offline") this.listen();
  }

  /** Open the microphone and listen; stops a reply that is pending or playing. */
  listen(): void {
    this.begin();
    if (this.state.microphone !== "on") void this.openMicrophone();
  }

  /** The question is complete (push to talk), or the microphone is muted (hands-free). */
  async finish(): Promise<void> {
    this.askedAtMs = performance.now();
    this.input.open = false;
    this.closeMicrophone();
    if (!this.state.handsFree) this.change({ kind: "complete" });
    try {
      await this.input.flush();
    } catch {
      return this.change({ kind: "playback_stopped" }); // the user has been told by onBroken
    }
    this.control("pause");
  }

  ask(text: string): void {
    this.releaseMicrophone();
    this.interrupt();
    this.change({ kind: "asked", source: "text", question: text, nowMs: performance.now() });
    this.connection?.send({ type: "text", text });
  }

  async askFile(file: File): Promise<void> {
    if (this.reference) return this.streamFile(file);
    const limit = this.state.server?.limits.message_bytes;
    if (typeof limit === "number" && file.size + 1 > limit) return this.notice("file_too_large");
    const data = new Uint8Array(await file.arrayBuffer());
    this.releaseMicrophone();
    this.interrupt();
    this.change({ kind: "asked", source: "file", question: file.name, nowMs: performance.now() });
    this.connection?.send({ type: "file", data });
  }

  /** Clear the conversation, here and on the server. */
  forget(): void {
    this.releaseMicrophone();
    this.stopPlayback();
    this.control("restart");
    this.change({ kind: "forget" });
  }

  retryNow(): void {
    this.connection?.retryNow();
  }

  dismiss(id: number): void {
    this.change({ kind: "dismiss", id });
  }

  /** Apply changed settings; reopens the microphone if its own settings changed while it is open. */
  async apply(settings: Settings): Promise<void> {
    const before = this.settings;
    this.settings = settings;
    this.output.player.setVolume(settings.volume);
    if (settings.outputId !== before.outputId) this.chooseOutput();
    this.sendSettings(before);
    if (settings.handsFree !== before.handsFree) return this.followHandsFree();
    const keys = ["inputId", "echoCancellation", "noiseSuppression"] as const;
    const { microphone } = this.state;
    if (microphone === "off" || keys.every((key) => settings[key] === before[key])) return;
    if (microphone === "on" || settings.handsFree) await this.openMicrophone();
    else this.change({ kind: "microphone", microphone: "off" }); // another device may do: the button tries it
  }

  /** Keep the microphone open in hands-free mode; otherwise the button opens it. */
  private async followHandsFree(): Promise<void> {
    const { link, microphone, server } = this.state;
    if (!this.settings.handsFree || !server?.vad) this.closeMicrophone();
    else if (link.kind === "open" && microphone === "off") await this.openMicrophone();
  }

  private sendSettings(before: Settings): void {
    const server = this.state.server;
    if (!server || this.reference || this.state.link.kind !== "open") return;
    const data = serverSettings(this.settings, server);
    if (JSON.stringify(data) === JSON.stringify(serverSettings(before, server))) return;
    this.connection?.send({ type: "metadata", data });
  }

  private async openMicrophone(): Promise<void> {
    const { inputId: deviceId, echoCancellation, noiseSuppression } = this.settings;
    try {
      const opened = await this.input.openMicrophone({
        deviceId,
        echoCancellation,
        noiseSuppression,
      });
      if (opened) this.change({ kind: "microphone", microphone: "on" });
    } catch (error) {
      const problem = error instanceof MicrophoneError ? error.problem : "busy";
      this.change({ kind: "microphone", microphone: problem });
    }
  }

  private closeMicrophone(): void {
    this.input.closeMicrophone();
    if (this.state.microphone === "on") this.change({ kind: "microphone", microphone: "off" });
  }

  /** Close the microphone before a typed or file question, which replaces a spoken one. */
  private releaseMicrophone(): void {
    if (!this.state.handsFree) this.closeMicrophone();
  }

  /** Export the session as WAV; null, and a notice, if the browser cannot render it. */
  async wav(): Promise<Blob | null> {
    try {
      return await this.recording.wav();
    } catch {
      this.notice("wav_failed");
      return null;
    }
  }

  /** End the session; transcript and recording stay available. */
  end(code = "bye"): void {
    if (this.state.link.kind === "ended") return;
    this.connection?.close();
    this.connection = null;
    window.clearTimeout(this.eventsTimer);
    window.clearTimeout(this.quietTimer);
    this.stopPlayback();
    this.input.close();
    this.output.close();
    this.change({ kind: "link", link: { kind: "ended", code } });
  }

  private chooseOutput(): void {
    this.output.player.setOutput(this.settings.outputId).catch(() => this.notice("output_missing"));
  }

  private control(action: Action): void {
    this.connection?.send({ type: "control", action });
    this.fromReference((reference) => reference.sent(action));
  }

  private begin(): void {
    void this.output.player.resume();
    this.interrupt();
    this.control("start");
  }

  private interrupt(): void {
    const { answering, playing, asking } = this.state;
    if (answering !== null || playing) this.reportPlayed();
    if (answering !== null || playing || asking) this.stopPlayback();
  }

  private stopPlayback(): void {
    if (!this.freshClip.assistant) this.recording.cut("assistant", this.output.heardMs());
    this.freshClip.assistant = true;
    this.output.stopPlayback();
    this.change({ kind: "playback_stopped" });
  }

  private reportPlayed(): void {
    const turn = current(this.state);
    if (this.reference || turn === null) return;
    this.playedReportedAtMs = performance.now();
    const data = { event: "played", turn, ms: this.output.heardMs() };
    this.connection?.send({ type: "metadata", data });
  }

  /** Stream a file as speech to a server that accepts no files. */
  private async streamFile(file: File): Promise<void> {
    this.releaseMicrophone();
    this.begin(); // earlier speech is not part of it
    this.change({ kind: "complete" });
    try {
      if (await this.input.streamFile(file)) await this.finish();
    } catch {
      this.change({ kind: "playback_stopped" });
      this.notice("file_unreadable");
    }
  }

  // Events from the server and the audio output

  private receive(message: Message): void {
    if (message.type === "handshake") {
      this.onHandshake();
      return;
    }
    if (message.type === "metadata") {
      const event = parseEvent(message.data);
      if (event) this.onEvent(event);
      return;
    }
    if (this.eventsTimer) this.assumeReference();
    if (message.type === "audio" && this.output.play(message.data)) {
      this.change({ kind: "packet", nowMs: performance.now() });
      this.watchQuiet();
    }
    if (message.type === "text" || message.type === "coloured") this.onText(message.text);
    if (message.type === "error" && this.reference) {
      this.notice("model_error", message.text);
      this.fromReference((reference) => reference.end("error"));
    }
  }

  private onHandshake(): void {
    this.reference = null;
    this.eventsTimer = window.setTimeout(() => this.assumeReference(), EVENTS_WITHIN_MS);
    this.output.beginStream();
    this.input.beginStream();
  }

  private assumeReference(): void {
    window.clearTimeout(this.eventsTimer);
    this.eventsTimer = 0;
    this.reference = new ReferenceAdapter();
    const prompt = this.settings.systemPrompt.trim();
    if (prompt) this.connection?.send({ type: "metadata", data: { system_prompt: prompt } });
    this.fromReference((reference) => reference.begin());
  }

  private fromReference(events: (reference: ReferenceAdapter) => ServerEvent[]): void {
    if (this.reference) for (const event of events(this.reference)) this.onEvent(event);
  }

  private onEvent(event: ServerEvent): void {
    let nowMs = performance.now();
    switch (event.event) {
      case "queue":
        this.closeMicrophone(); // nobody listens yet
        break;
      case "ready":
        window.clearTimeout(this.eventsTimer);
        this.eventsTimer = 0;
        if (event.protocol >= 2) {
          this.reference = null; // it only took long to say that it sends events
          window.clearTimeout(this.quietTimer);
          this.connection?.send({ type: "metadata", data: serverSettings(this.settings, event) });
        }
        if (this.state.turns.length && !event.resumed) this.notice("new_conversation");
        break;
      case "listening":
        this.input.open = event.on;
        this.freshClip.user ||= !event.on;
        break;
      case "speech_start":
        this.stopPlayback();
        break;
      case "speech_end":
        this.askedAtMs = nowMs;
        break;
      case "turn_start":
        if (event.source === "voice") nowMs = this.askedAtMs ?? nowMs;
        this.askedAtMs = null;
        this.freshClip.assistant = true;
        this.output.beginReply();
        break;
      case "turn_end":
        if (event.turn !== current(this.state)) break; // a newer turn may be playing
        if (event.reason === "interrupted") this.stopPlayback();
        else this.output.endReply();
        break;
    }
    this.change({ kind: "server", event, nowMs });
    if (event.event === "ready") this.onReady();
  }

  private onReady(): void {
    void this.followHandsFree();
    if (this.firstQuestion && !this.reference) this.ask(this.firstQuestion);
    this.firstQuestion = "";
  }

  private onText(text: string): void {
    const read = this.reference?.received(text) ?? { events: [], text };
    for (const event of read.events) this.onEvent(event);
    if (read.text) this.change({ kind: "text", text: read.text, nowMs: performance.now() });
    this.watchQuiet();
  }

  private onPlayout(report: PlayoutReport): void {
    const nowMs = performance.now();
    if (report.event) this.change({ kind: "playback", on: report.event === "started", nowMs });
    this.change({ kind: "playout", stalls: report.stalls, bufferMs: report.targetMs });
    if (this.state.playing && nowMs - this.playedReportedAtMs >= PLAYED_EVERY_MS)
      this.reportPlayed();
    this.watchQuiet();
  }

  /** A reference server never reports the end of a reply: silence after its audio marks it. */
  private watchQuiet(): void {
    if (!this.reference) return;
    window.clearTimeout(this.quietTimer);
    if (this.freshClip.assistant || this.state.playing) return;
    this.quietTimer = window.setTimeout(
      () => this.fromReference((reference) => reference.end("done")),
      QUIET_MS,
    );
  }

  private record(side: "user" | "assistant", rateHz: number, samples: Float32Array): void {
    this.recording.add(side, performance.now(), rateHz, samples, this.freshClip[side]);
    this.freshClip[side] = false;
  }

  private notice(code: string, message = ""): void {
    this.change({ kind: "notice", code, message });
  }

  private change(change: Change): void {
    const before = this.state;
    this.state = reduce(before, change);
    if (this.state === before) return;
    for (const listener of this.listeners) listener();
  }
}
