// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
/**
 * The bytes on the socket. One WebSocket frame is one message; its first byte is the type.
 *
 *   00 handshake  version, model       04 metadata  UTF-8 JSON
 *   01 audio      Ogg/Opus bytes       05 error     UTF-8
 *   02 text       UTF-8                06 ping
 *   03 control    one action byte      07 coloured  colour byte, UTF-8
 *                                      08 file      an audio file
 */

const ACTIONS = ["start", "endTurn", "pause", "restart"] as const;
export type Action = (typeof ACTIONS)[number];

export type Message =
  | { type: "handshake"; version: number; model: number }
  | { type: "audio"; data: Uint8Array }
  | { type: "text"; text: string }
  | { type: "control"; action: Action }
  | { type: "metadata"; data: unknown }
  | { type: "error"; text: string }
  | { type: "ping" }
  | { type: "coloured"; colour: number; text: string }
  | { type: "file"; data: Uint8Array };

function frame(
  type: number,
  payload: Uint8Array | readonly number[] = [],
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(1 + payload.length);
  bytes[0] = type;
  bytes.set(payload, 1);
  return bytes;
}

/** The bytes of `message`. */
export function encode(message: Message): Uint8Array<ArrayBuffer> {
  const utf8 = (text: string) => new TextEncoder().encode(text);
  switch (message.type) {
    case "handshake":
      return frame(0, [message.version, message.model]);
    case "audio":
      return frame(1, message.data);
    case "text":
      return frame(2, utf8(message.text));
    case "control":
      return frame(3, [ACTIONS.indexOf(message.action)]);
    case "metadata":
      return frame(4, utf8(JSON.stringify(message.data)));
    case "error":
      return frame(5, utf8(message.text));
    case "ping":
      return frame(6);
    case "coloured":
      return frame(7, [message.colour, ...utf8(message.text)]);
    case "file":
      return frame(8, message.data);
  }
}

/**
 * Reads one frame. Whatever cannot be understood (an empty frame, an unknown type or action, broken
 * JSON) is `null`, never an exception: a newer server may say things this page does not know.
 * Invalid UTF-8 reads as U+FFFD, a short handshake as zeros, a control without a byte as `start`.
 */
export function decode(bytes: Uint8Array): Message | null {
  const payload = bytes.subarray(1);
  const text = (from = 0) => new TextDecoder().decode(payload.subarray(from));
  switch (bytes[0]) {
    case 0:
      return { type: "handshake", version: payload[0] ?? 0, model: payload[1] ?? 0 };
    case 1:
      return { type: "audio", data: payload };
    case 2:
      return { type: "text", text: text() };
    case 3: {
      const action = ACTIONS[payload[0] ?? 0];
      return action ? { type: "control", action } : null;
    }
    case 4:
      try {
        return { type: "metadata", data: JSON.parse(text()) };
      } catch {
        return null;
      }
    case 5:
      return { type: "error", text: text() };
    case 6:
      return { type: "ping" };
    case 7:
      return payload.length ? { type: "coloured", colour: payload[0]!, text: text(1) } : null;
    case 8:
      return { type: "file", data: payload };
    default:
      return null;
  }
}
