#!/usr/bin/env node
// node drive.js DIR [SCREENSHOT]: opens the page in headless Chromium, waits for its verdict, and uses it once. The picture
// is as wide as $WIDTH, 420, and as bright as $SCHEME, light. Where the network writes what it hears, it is given the files
// of $SOUNDS, by default a sound of the pack, and records the first of them.

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
const EARS = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]; // a file stands for the microphone
const PATIENCE = Number(process.env.PATIENCE ?? 300) * 1000;
const executablePath =
  process.env.CHROMIUM ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!directory || !executablePath) {
  console.error(directory ? "no Chromium found; name one in $CHROMIUM" : "usage: node drive.js DIR [SCREENSHOT]");
  process.exit(2);
}

const sounds = soundsToHear();
const server = spawn(process.execPath, [path.join(here, "serve.js"), directory, "0"]);
const url = await new Promise((found) => server.stdout.once("data", (line) => found(String(line).trim())));
const browser = await puppeteer.launch({ executablePath, args: [...FLAGS, ...EARS, ...(sounds.length ? [`--use-file-for-fake-audio-capture=${sounds[0]}`] : [])] });
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(`page: ${error.message}`));
  await page.setViewport({ width: Number(process.env.WIDTH ?? 420), height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: process.env.SCHEME ?? "light" }]);
  await page.goto(url);
  await page.waitForSelector("body[data-verdict]", { timeout: PATIENCE });
  const passed = (await page.$eval("body", (body) => body.dataset.verdict)) === "pass";
  console.log(await page.$eval("#verdict", (line) => line.textContent));
  for (const line of await page.$$eval("#log li", (lines) => lines.map((li) => li.textContent)))
    console.log(`  ${line}`);
  if (passed) {
    await page.waitForSelector("body[data-offered]", { timeout: PATIENCE });
    await use(page);
    await search(page);
    await transcribe(page);
  }
  if (screenshot) await page.screenshot({ path: screenshot, fullPage: true });
  process.exitCode = passed ? 0 : 1;
} finally {
  await browser.close();
  server.kill();
}

/** Types a text where the page takes one, and sees that similarities come. */
async function use(page) {
  if (!(await page.$("#try-section:not([hidden]) #text-field:not([hidden])"))) return;
  await page.type("#text", "a red bicycle leaning against a wall");
  await page.click("#form button");
  await page.waitForSelector("body[data-compared]", { timeout: PATIENCE });
  const values = await page.$$eval("#samples td.number", (cells) => cells.map((cell) => Number(cell.textContent)));
  console.log(`  similarities of a sample's own text to the samples: ${values.join(", ")}`);
  if (!(Math.abs(values[0] - 1) < 1e-3)) throw new Error("a text is not similar to itself");
}

/** Gives the files of sounds that the page is to hear, none where the network hears none. */
function soundsToHear() {
  if (process.env.SOUNDS) return process.env.SOUNDS.split(path.delimiter).map((file) => path.resolve(file));
  const index = path.join(directory, "goldens/raw/index.json");
  const [first] = existsSync(index) ? (JSON.parse(readFileSync(index, "utf8")).sounds ?? []) : [];
  return first ? [path.resolve(directory, "goldens/raw", first.file)] : [];
}

/** Has the page write what is said in each sound, and in two seconds of the microphone; tells what it shows, as JSON. */
async function transcribe(page) {
  if (!(await page.$("#sound-section:not([hidden])"))) return;
  await page.click("#record");
  await page.waitForFunction(() => document.getElementById("record").textContent === "Stop", { timeout: PATIENCE });
  await new Promise((passed) => setTimeout(passed, 2000));
  await page.click("#record");
  console.log(`  recorded: ${JSON.stringify(await shown(page, 1))}`);
  const input = await page.$("#sound-file");
  for (const [i, file] of sounds.entries()) {
    await input.uploadFile(file);
    await page.click("#sound-form button:not([type])");
    console.log(`  heard: ${JSON.stringify(await shown(page, i + 2))}`);
  }
}

/** Waits for the page's transcript of a number; gives the lines that it shows. */
async function shown(page, number) {
  await page.waitForSelector(`body[data-transcribed="${number}"]`, { timeout: PATIENCE });
  return page.evaluate(() => {
    const transcript = document.getElementById("transcript");
    const names = transcript.hidden ? [] : ["said", "language", "read", "written"];
    return Object.fromEntries(["hearing", ...names].map((name) => [name, document.getElementById(name).textContent]));
  });
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
