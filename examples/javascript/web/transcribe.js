// The page's ear: a sound that was chosen or recorded, and what the network writes of it.

import { decodeSound } from "../browser.js";
import { isWave } from "../lib/sounds.js";

const at = (id) => document.getElementById(id);

let sound; // { name, file } of what was chosen or recorded last
let recorder; // of the microphone, while it records

/** Offers a form for sounds where the network writes what it hears. */
export function offerTranscripts(embedder) {
  const { sounds, transcripts } = embedder.pack.rules;
  if (!sounds?.spectrogram || !transcripts?.tokenizer) return;
  at("sound-section").hidden = false;
  at("sound-file").addEventListener("change", () => {
    const [file] = at("sound-file").files;
    if (file) take(file.name, file);
  });
  at("sound-form").addEventListener("submit", (event) => {
    event.preventDefault();
    transcribe(embedder);
  });
  at("player").addEventListener("error", () => {
    at("player").hidden = true; // of what the browser does not play
  });
  at("record").addEventListener("click", () => (recorder ? recorder.stop() : record(embedder)));
}

/** Keeps a sound for the next transcript, and for the reader's own ears. */
function take(name, file) {
  sound = { name, file };
  URL.revokeObjectURL(at("player").src);
  at("player").src = URL.createObjectURL(file);
  at("player").hidden = false;
  at("transcript").hidden = true; // it was that of another sound
  say(name);
  enable(true);
}

/** Records until the button is pressed again, then transcribes. */
async function record(embedder) {
  enable(false);
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
    recorder.addEventListener("stop", () => {
      stream.getTracks().forEach((track) => track.stop());
      at("sound-file").value = ""; // what was chosen before is no longer what is transcribed
      take("the recording", new Blob(parts, { type: recorder.mimeType }));
      recorder = undefined;
      at("record").textContent = "Record";
      transcribe(embedder);
    });
    recorder.start();
    at("record").textContent = "Stop";
    at("record").disabled = false;
    say("Recording: say something, then press Stop.");
  } catch (error) {
    say(`There is no microphone for this page (${error.message}): allow it, or choose a file.`, "fail");
    enable(true);
  }
}

async function transcribe(embedder) {
  const { sounds, transcripts } = embedder.pack.rules;
  const { name, file } = sound;
  enable(false);
  at("transcript").hidden = true;
  try {
    say(`Reading ${name}`);
    const bytes = new Uint8Array(await file.arrayBuffer());
    const own = isWave(bytes);
    const [samples, reading] = await timed(async () => embedder.samples(own ? bytes : await decodeSound(bytes, sounds.rate)));
    const programs = [sounds.spectrogram.entry_point, ...Object.values(transcripts.entry_points)];
    const closed = programs.filter((entry) => !embedder.sessions[entry]);
    const [, opening] = await timed(() => Promise.all(closed.map((entry) => embedder.open(entry))));
    const given = { samples, rate: sounds.rate };
    const [{ text, windows }, writing] = await timed(() => embedder.transcribe(given, { progress }));
    const tokens = windows.reduce((count, { ids }) => count + ids.length, 0);
    at("said").textContent = text;
    at("language").textContent = [...new Set(windows.map(({ language }) => languageName(language)))].join(", ");
    at("read").textContent =
      `${seconds((1000 * samples.length) / sounds.rate)} of sound in ${seconds(reading)}` +
      (own ? "" : ", decoded by this browser, which resamples by its own rules");
    at("written").textContent =
      `${count(tokens, "token")} of ${count(windows.length, "window")} in ${seconds(writing)}` +
      (closed.length ? `, after ${seconds(opening)} to open the programs` : "");
    at("transcript").hidden = false;
    say(name);
  } catch (error) {
    say(`${name}: ${error.message}`, "fail");
  }
  enable(true);
  document.body.dataset.transcribed = String(Number(document.body.dataset.transcribed ?? 0) + 1);
}

/** Says which window is next, and lets the page show it: a program that runs lets nothing else happen. */
async function progress(done, all) {
  say(all === 1 ? "Listening" : `Listening to window ${done + 1} of ${all}`);
  await new Promise((shown) => setTimeout(shown, 20));
}

/** Gives what a function gives, and the milliseconds that it took. */
async function timed(work) {
  const begun = performance.now();
  return [await work(), performance.now() - begun];
}

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 100 ? 3 : 2)} s`;
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

/** Names a language by its token, <|en|>, in words where the browser knows it. */
function languageName(token) {
  if (token === null) return "the only one of this network";
  const code = token.replace(/^<\|(.*)\|>$/, "$1");
  try {
    return `${new Intl.DisplayNames("en", { type: "language" }).of(code)} (${code})`;
  } catch {
    return token; // no code of a language
  }
}

function enable(whether) {
  at("record").disabled = !whether;
  at("sound-file").disabled = !whether;
  at("sound-form").querySelector("button").disabled = !whether || !sound;
}

function say(text, kind = "quiet") {
  at("hearing").textContent = text;
  at("hearing").className = kind;
}
