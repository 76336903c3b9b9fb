// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createServer as createVite, type ViteDevServer } from "vite";
import { afterEach, expect, it, vi } from "vitest";

let backend: Server | undefined;
let vite: ViteDevServer | undefined;

afterEach(async () => {
  vi.unstubAllEnvs();
  await vite?.close();
  backend?.close();
});

it.each(["/api", "/talk"])(
  "the dev server passes %s on as the server of the page's own host would get it",
  async (path) => {
    backend = createServer((request, response) => {
      response.end(JSON.stringify({ url: request.url, host: request.headers.host }));
    });
    await new Promise<void>((resolve) => backend!.listen(0, "127.0.0.1", resolve));
    vi.stubEnv(
      "VITE_SIMPLEX_TARGET",
      `http://127.0.0.1:${(backend.address() as AddressInfo).port}`,
    );
    vi.stubEnv("VITE_QUEUE_API_PATH", path);
    const configFile = new URL("../../vite.config.ts", import.meta.url).pathname;
    vite = await createVite({
      configFile,
      logLevel: "silent",
      optimizeDeps: { noDiscovery: true },
    });
    await vite.listen(0);
    const { port } = vite.httpServer!.address() as AddressInfo;
    const get = async (name: string) => (await fetch(`http://localhost:${port}${name}`)).json();
    const host = `localhost:${port}`;
    expect(await get(`${path}/info?token=x`)).toEqual({ url: "/api/info?token=x", host });
    expect(await get(`${path}/simplex`)).toEqual({ url: "/api/chat", host });
    expect(await get("/healthz")).toEqual({ url: "/healthz", host });
  },
  60000,
);
