// Copyright 2026 The Fun-Audio-Chat toolkit contributors.
// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import react from "@vitejs/plugin-react";
import { defineConfig, loadEnv, type Plugin } from "vite";

// The microphone works on localhost and over HTTPS only: with a certificate beside this file the
// page can be opened from another machine.
const certificate =
  existsSync("cert.pem") && existsSync("key.pem")
    ? { cert: readFileSync("cert.pem"), key: readFileSync("key.pem") }
    : undefined;

/** Writes each text file compressed too: the server sends that to browsers that take it. */
const compress: Plugin = {
  name: "compress",
  apply: "build",
  writeBundle({ dir }, bundle) {
    for (const name of Object.keys(bundle)) {
      if (!/\.(js|css|html|svg|wasm)$/.test(name)) continue;
      const path = join(dir ?? "dist", name);
      writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
    }
  },
};

export default defineConfig(({ mode }) => {
  const env = loadEnv(mode, process.cwd(), "VITE_");
  const target = env.VITE_SIMPLEX_TARGET || "http://localhost:11236";
  const path = env.VITE_QUEUE_API_PATH || "/api";
  const backend = (name: string) => name.replace(path, "/api");
  // The Host header stays the page's own: the server compares it with the page's origin.
  const api = { target, ws: true, secure: false };
  return {
    base: "./",
    plugins: [react(), compress],
    build: { target: "es2022", assetsInlineLimit: 0 },
    server: {
      host: certificate ? "0.0.0.0" : "localhost",
      ...(certificate && { https: certificate }),
      proxy: {
        [`${path}/simplex`]: {
          ...api,
          rewrite: (name: string) => backend(name).replace("/api/simplex", "/api/chat"),
        },
        [path]: { ...api, rewrite: backend },
        "/healthz": api,
      },
    },
    test: { include: ["tests/unit/**/*.test.ts"] },
  };
});
