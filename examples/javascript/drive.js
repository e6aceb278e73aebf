#!/usr/bin/env node
// node drive.js DIR [SCREENSHOT]: opens the page in headless Chromium, waits for its verdict, and uses it once. The picture
// is as wide as $WIDTH, 420.

import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import puppeteer from "puppeteer-core";

const here = path.dirname(fileURLToPath(import.meta.url));
const [directory, screenshot] = process.argv.slice(2);
const FLAGS = [
  ...["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
  "--disable-sync",
];
const PATIENCE = Number(process.env.PATIENCE ?? 300) * 1000;
const executablePath =
  process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!directory || !executablePath) {
  console.error(directory ? "no Chromium found; name one in $CHROMIUM" : "usage: node drive.js DIR [SCREENSHOT]");
  process.exit(2);
}

const server = spawn(process.execPath, [path.join(here, "serve.js"), directory, "0"]);
const url = await new Promise((found) => server.stdout.once("data", (line) => found(String(line).trim())));
const browser = await puppeteer.launch({ executablePath, args: FLAGS });
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(`page: ${error.message}`));
  await page.setViewport({ width: Number(process.env.WIDTH ?? 420), height: 900 });
  await page.goto(url);
  await page.waitForSelector("body[data-verdict]", { timeout: PATIENCE });
  const passed = (await page.$eval("body", (body) => body.dataset.verdict)) === "pass";
  console.log(await page.$eval("#verdict", (line) => line.textContent));
  for (const line of await page.$$eval("#log li", (lines) => lines.map((li) => li.textContent)))
    console.log(`  ${line}`);
  if (passed) {
    await use(page);
    await search(page);
  }
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  process.exitCode = passed ? 0 : 1;
} finally {
  await browser.close();
  server.kill();
}

/** Types a text where the page takes one, and sees that similarities come. */
async function use(page) {
  await page.waitForSelector("#form button:not([disabled])", { timeout: PATIENCE });
  if (!(await page.$("#text-field:not([hidden])"))) return;
  await page.type("#text", "a red bicycle leaning against a wall");
  await page.click("#form button");
  await page.waitForSelector("body[data-compared]", { timeout: PATIENCE });
  const values = await page.$$eval("#samples td.number", (cells) => cells.map((cell) => Number(cell.textContent)));
  console.log(`  similarities of a sample's own text to the samples: ${values.join(", ")}`);
  if (!(Math.abs(values[0] - 1) < 1e-3)) throw new Error("a text is not similar to itself");
}

/** Searches the pack's own pictures by a text where the page does that, and tells what it found, the nearest first. */
async function search(page) {
  if (!(await page.$("#search-section:not([hidden])"))) return;
  const { images } = JSON.parse(readFileSync(path.join(directory, "goldens/raw/index.json"), "utf8"));
  const plain = images.filter(({ mode, core }) => core && mode === "RGB");
  const input = await page.$("#pictures");
  await input.uploadFile(...plain.map(({ file }) => path.join(directory, "goldens/raw", file)));
  await page.waitForSelector("#search-form button:not([disabled])", { timeout: PATIENCE });
  await page.type("#query", "a red fox");
  await page.click("#search-form button");
  await page.waitForSelector("body[data-searched]", { timeout: PATIENCE });
  const found = await page.$$eval("#gallery li", (items) =>
    items.map((item) => [...item.querySelectorAll("span")].map((span) => span.textContent)),
  );
  console.log(`  found for "a red fox": ${JSON.stringify(found)}`);
  if (found.length !== plain.length) throw new Error(`${plain.length} pictures were given, ${found.length} are shown`);
}
