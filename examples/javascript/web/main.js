// The page: loads the artifact, replays its samples, then takes what the reader gives: texts and pictures to compare with
// a few sentences and to search, sounds to transcribe.

import { open } from "../browser.js";
import { similarity } from "../lib/embedder.js";
import { replay, summary } from "../lib/replay.js";
import { offerSearch } from "./search.js";
import { offerTranscripts } from "./transcribe.js";

const SAMPLES = [
  "a red bicycle leaning against a wall",
  "how do I reset my password?",
  "stock markets fell sharply on Monday",
  "a bowl of soup with fresh herbs",
];
const at = (id) => document.getElementById(id);

try {
  const embedder = await open(new URL("/artifact/", location.href), showProgress);
  const { family, source } = embedder.pack.manifest;
  at("model").textContent = `${family}, from ${source.file}. Nothing that you type, choose or say leaves this page.`;
  await check(embedder);
  await offer(embedder);
  offerSearch(embedder);
  offerTranscripts(embedder);
  document.body.dataset.offered = "all";
} catch (error) {
  console.error(error);
  conclude(false, error.message);
}

function showProgress(file, bytes, total) {
  at("bar").value = total ? bytes / total : 0;
  at("loading").textContent =
    `${file}: ${(bytes / 1e6).toFixed(1)}${total ? ` of ${(total / 1e6).toFixed(1)}` : ""} MB`;
}

async function check(embedder) {
  at("verdict").textContent = "replaying the pack's samples";
  at("details").hidden = false;
  const result = await replay(embedder, (line) => log(line));
  result.differences.forEach(log);
  result.left.forEach((sample) => log(`left out: ${sample}`));
  at("loading").textContent = "Loaded, and held to the digests of the manifest";
  conclude(!result.differences.length, summary(result));
}

function log(line) {
  at("log").append(Object.assign(document.createElement("li"), { textContent: line }));
}

function conclude(passed, text) {
  document.body.dataset.verdict = passed ? "pass" : "fail";
  at("verdict").className = `verdict ${passed ? "pass" : "fail"}`;
  at("verdict").textContent = text;
}

async function offer(embedder) {
  const { texts, images, embeddings } = embedder.pack.rules;
  if (!embeddings || !(texts?.tokenizer || images?.steps)) return;
  at("text-field").hidden = !texts?.tokenizer;
  at("image-field").hidden = !images?.steps;
  at("try-section").hidden = false;
  const samples = texts?.tokenizer ? await embedder.embed({ texts: SAMPLES }) : [];
  at("samples").replaceChildren(...SAMPLES.slice(0, samples.length).map(row));
  at("form").querySelector("button").disabled = false;
  at("preview").addEventListener("error", () => {
    at("preview").hidden = true;
  });
  at("image").addEventListener("change", () => {
    const [file] = at("image").files;
    at("preview").hidden = !file;
    if (file) at("preview").src = URL.createObjectURL(file);
  });
  at("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = at("text").value.trim();
    const [file] = at("image").files;
    if (!text && !file) {
      at("caption").textContent = "Type a text or choose a picture first.";
      return;
    }
    const given = {};
    if (text) given.texts = [text];
    if (file) given.images = [new Uint8Array(await file.arrayBuffer())];
    try {
      const begun = performance.now();
      const [mine] = await embedder.embed(given);
      const took = `${Math.round(performance.now() - begun)} ms, ${mine.length} numbers`;
      at("caption").textContent = `Similarity to these samples (${took})`;
      samples.forEach((sample, i) => show(at("samples").rows[i], similarity(mine, sample, embeddings)));
      at("caption").className = "quiet";
    } catch (error) {
      at("caption").textContent = error.message;
      at("caption").className = "fail";
      [...at("samples").rows].forEach(clear); // they were those of something else
    }
    document.body.dataset.compared = String(Number(document.body.dataset.compared ?? 0) + 1);
  });
}

function row(sample) {
  const line = document.createElement("tr");
  for (const name of ["sample", "bar", "number"]) line.insertCell().className = name;
  line.cells[0].textContent = sample;
  line.cells[1].append(Object.assign(document.createElement("meter"), { min: 0, max: 1, value: 0, ariaLabel: sample }));
  return line;
}

function clear(line) {
  line.querySelector("meter").value = 0;
  line.cells[2].textContent = "";
}

function show(line, value) {
  line.querySelector("meter").value = Math.max(0, value);
  line.cells[2].textContent = value.toFixed(4);
}
