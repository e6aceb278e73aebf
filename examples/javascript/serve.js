#!/usr/bin/env node
// node serve.js DIR [PORT]: the page of web/ on http://localhost:PORT, with the run directory below /artifact/.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { fileURLToPath } from "node:url";

const [directory, port = "8080"] = process.argv.slice(2);
if (!directory) {
  console.error("usage: node serve.js DIR [PORT]");
  process.exit(2);
}
const here = path.dirname(fileURLToPath(import.meta.url));
const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/** The file that a URL asks for, or undefined: nothing outside the two folders is served. */
function fileFor(url) {
  const asked = decodeURIComponent(new URL(url, "http://localhost").pathname);
  if (asked === "/") return path.join(here, "web/index.html");
  const [root, rest] = asked.startsWith("/artifact/") ? [directory, asked.slice(10)] : [here, asked.slice(1)];
  const file = path.resolve(root, rest);
  return file.startsWith(path.resolve(root) + path.sep) ? file : undefined;
}

const server = createServer(async (request, response) => {
  try {
    const file = fileFor(request.url);
    const { size } = await stat(file);
    response.writeHead(200, {
      "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream",
      "Content-Length": size,
      "Cross-Origin-Opener-Policy": "same-origin", // with these two, WebAssembly may use several threads
      "Cross-Origin-Embedder-Policy": "require-corp",
    });
    createReadStream(file).pipe(response);
  } catch {
    response.writeHead(404).end("no such file");
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}`));
