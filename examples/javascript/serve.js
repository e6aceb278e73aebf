#!/usr/bin/env node
// node serve.js DIR [PORT]: the page of web/ on http://localhost:PORT, with the run directory below /artifact/.

import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { pipeline } from "node:stream";
import { fileURLToPath } from "node:url";

const [directory, port = "8080"] = process.argv.slice(2);
if (!directory) {
  console.error("usage: node serve.js DIR [PORT]");
  process.exit(2);
}
const here = path.dirname(fileURLToPath(import.meta.url));
const HOSTS = ["localhost", "127.0.0.1"]; // any other name led here by somebody else's DNS
const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

/** The file that a URL asks for; throws if there is none: nothing outside the two folders is served, nor through a link. */
async function fileFor(url) {
  const asked = decodeURIComponent(new URL(url, "http://localhost").pathname);
  if (asked === "/") return path.join(here, "web/index.html");
  const [root, rest] = asked.startsWith("/artifact/") ? [directory, asked.slice(10)] : [here, asked.slice(1)];
  const [whole, file] = [await realpath(root), path.resolve(root, rest)];
  const real = await realpath(file);
  if (!real.startsWith(whole + path.sep) || real !== path.join(whole, path.relative(path.resolve(root), file))) {
    throw new Error("it lies elsewhere");
  }
  return real;
}

const server = createServer(async (request, response) => {
  try {
    if (!HOSTS.includes(new URL(`http://${request.headers.host}`).hostname)) throw new Error("another host's name");
    const file = await fileFor(request.url);
    const found = await stat(file);
    if (!found.isFile()) throw new Error("no file");
    response.writeHead(200, {
      "Content-Type": TYPES[path.extname(file)] ?? "application/octet-stream",
      "Content-Length": found.size,
      "Cross-Origin-Opener-Policy": "same-origin", // with these two, WebAssembly may use several threads
      "Cross-Origin-Embedder-Policy": "require-corp",
    });
    pipeline(createReadStream(file), response, () => {}); // what fails underway ends this answer, not the server
  } catch {
    response.writeHead(404).end("no such file");
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}`));
