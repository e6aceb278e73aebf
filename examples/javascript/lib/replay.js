// The pack's samples through this runtime: ids of texts and pairs, bytes of pictures, samples and texts of sounds,
// embeddings and scores.

import { PackError } from "./pack.js";
import { pixels } from "./pictures.js";
import { ACTIVATIONS } from "./scores.js";
import { greedy, heard } from "./transcripts.js";

const CLOSE = 1e-6; // numbers that are made of numbers, by docs/pack.md
const CHOSEN = "goldens/procedures/transcribe.safetensors"; // tokens that every runtime must choose

/**
 * Replays the pack; gives { checks, counts, differences, left }: how much was compared, what did not agree, and
 * what was left out: pictures that this decoder cannot show, samples that the pack says it does not have.
 * @param note called with a line for each entry point
 */
export async function replay(embedder, note = () => {}) {
  const { pack, runtime } = embedder;
  const found = { differences: [], left: [], counts: { texts: 0, pictures: 0, sounds: 0, cases: 0 }, worst: 0 };
  const goldens = await pack.json("goldens/index.json");
  const raw = await pack.json("goldens/raw/index.json");
  const texts = Object.fromEntries((raw.texts ?? []).map((text) => [text.name, text]));
  const pairs = Object.fromEntries((raw.pairs ?? []).map((pair) => [pair.name, pair]));
  const files = {};
  for (const { name, file } of raw.images ?? []) files[name] = await pack.bytes(`goldens/raw/${file}`);
  const sounds = {};
  for (const { name, file } of raw.sounds ?? []) sounds[name] = await pack.bytes(`goldens/raw/${file}`);

  for (const { name, text, ids } of Object.values(texts))
    for (const [entry, wanted] of Object.entries(ids)) {
      found.counts.texts++;
      const got = await embedder.ids(text, entry);
      if (String(got) !== String(wanted))
        found.differences.push(`text "${name}" for ${entry}: ids are ${brief(got)}, expected ${brief(wanted)}`);
    }
  for (const { name, texts: both, ids, types } of Object.values(pairs))
    for (const entry of Object.keys(ids)) {
      found.counts.texts++;
      const got = await embedder.pair(...both, entry);
      for (const [kind, wanted] of Object.entries({ ids: ids[entry], types: types[entry] }))
        if (String(got[kind]) !== String(wanted))
          found.differences.push(
            `pair "${name}" for ${entry}: ${kind} are ${brief(got[kind])}, expected ${brief(wanted)}`,
          );
    }
  if (pack.rules.scores) replayActivation(pack.rules.scores, raw, found);
  const { texts: read, images: pictures, sounds: audible, transcripts } = pack.rules;
  for (const [kind, rules] of Object.entries({ texts: read, pictures, sounds: audible, transcripts }))
    if (rules?.missing) found.left.push(`raw ${kind} (${rules.missing})`);
  await replayPictures(embedder, raw.images ?? [], files, found);
  await replaySounds(embedder, raw.sounds ?? [], sounds, found);
  await replayTranscripts(embedder, raw.transcripts ?? [], found);

  for (const entry of Object.keys(embedder.entryPoints)) {
    const cases = goldens[entry]?.cases ?? {};
    if (!Object.keys(cases).length) found.differences.push(`${entry}: the pack has no cases for it`);
    const arrays = await pack.tensors(`goldens/${entry}.safetensors`);
    for (const [name, { inputs, budgets }] of Object.entries(cases)) {
      const ready = Object.fromEntries(inputs.map((input) => [input, arrays[`${name}/inputs/${input}`]]));
      await replayCase(embedder, entry, name, ready, arrays, budgets, found);
      const sample = raw.cases?.[entry]?.[name];
      if (!sample) continue;
      const fromRaw = {};
      if (sample.images) Object.assign(fromRaw, await embedder.pictures(sample.images.map((image) => required(files, image, "goldens/raw/index.json: images"))));
      if (sample.pairs) {
        const both = sample.pairs.map((pair) => required(pairs, pair, "goldens/raw/index.json: pairs").texts);
        const rows = await Promise.all(both.map(([first, second]) => embedder.pair(first, second, entry)));
        Object.assign(fromRaw, embedder.batchRows(rows));
      }
      if (sample.texts) {
        const rows = await Promise.all(sample.texts.map((text) => embedder.ids(required(texts, text, "goldens/raw/index.json: texts").text, entry)));
        Object.assign(fromRaw, embedder.batch(rows, await embedder.promptTokens(embedder.prompt(), entry)));
      }
      if (sample.sounds) {
        const ready = embedder.sounds(sample.sounds.map((sound) => required(sounds, sound, "goldens/raw/index.json: sounds")));
        Object.assign(fromRaw, inputs.includes(pack.rules.sounds.input) ? ready : await embedder.spectrograms(ready));
      }
      if (sample.texts || sample.pairs)
        for (const input of inputs.filter((name) => Object.values(pack.rules.texts.inputs).includes(name)))
          if (String(fromRaw[input].data) !== String(ready[input].data))
            found.differences.push(`${entry}, ${name}: ${input} made of the texts is not the ready one`);
      await replayCase(embedder, entry, `${name}, from texts and files`, fromRaw, arrays, budgets, found, name);
    }
    await embedder.close(entry);
    note(`${entry}: ${Object.keys(cases).length} cases`);
  }
  return { ...found, runtime: runtime.name };
}

/** Holds the function that makes scores of logits to the pack's table. */
function replayActivation({ activation, labels }, raw, found) {
  const { logits, scores } = required(raw, "scores", "goldens/raw/index.json");
  const rows = Math.max(logits.length, scores.length);
  for (let i = 0; i < rows; i++) {
    const got = ACTIVATIONS[activation](logits[i] ?? []);
    const near = got.length === labels.length && got.every((score, k) => Math.abs(score - scores[i]?.[k]) <= CLOSE);
    if (!near) found.differences.push(`${activation} of [${logits[i]}] is [${got}], expected [${scores[i]}]`);
  }
  if (!rows) found.differences.push("goldens/raw/index.json: scores has no rows");
}

/** Gives what the pack must have. */
function required(object, key, where) {
  if (object?.[key] === undefined) throw new PackError(`${where} has no "${key}"`);
  return object[key];
}

async function replayCase(embedder, entry, title, inputs, arrays, budgets, found, name = title) {
  const goldens = embedder.entryPoints[entry].outputs.map((spec) => expected(entry, name, spec, arrays, budgets));
  found.counts.cases++;
  let outputs;
  try {
    outputs = await embedder.run(entry, inputs);
  } catch (error) {
    found.differences.push(`${entry}, ${title}: ${error.message}`);
    return;
  }
  for (const { output, wanted, allowed, kept, kind } of goldens) {
    const got = kept ? chosen(outputs[output], kept) : outputs[output];
    if (String(got.dims) !== String(wanted.shape)) {
      found.differences.push(`${entry}, ${title}: ${output} is [${got.dims}], expected [${wanted.shape}]`);
      continue;
    }
    const counts = kept ? () => true : meant(kind, wanted.shape, inputs);
    const error = wanted.data.reduce(
      (most, value, i) => (counts(i) ? maximum(most, Math.abs(got.data[i] - value)) : most),
      0,
    );
    if (!(error <= allowed))
      found.differences.push(`${entry}, ${title}: ${output} differs by ${error}, ${allowed} is allowed`);
    found.worst = maximum(found.worst, error / allowed);
  }
}

/** What is expected of an output, and how far from it a result may lie. */
function expected(entry, name, spec, arrays, budgets) {
  const output = spec.name;
  const wanted = required(arrays, `${name}/outputs/${output}`, `goldens/${entry}.safetensors`);
  if (spec.dtype !== "float32") throw new PackError(`${entry}: ${output} is ${spec.dtype}, compared are float32 alone`);
  const kept = arrays[`${name}/positions/${output}`];
  if (wanted.dtype !== "F64") throw new PackError(`${entry}, ${name}: ${output} is ${wanted.dtype}, expected F64`);
  const { allowed } = required(budgets, output, `${entry}, ${name}: budgets`);
  if (!(Number.isFinite(allowed) && allowed > 0))
    throw new PackError(`${entry}, ${name}: ${allowed} is no budget, expected a number above 0`);
  return { output, wanted, allowed, kept, kind: spec.kind };
}

/** Says of which numbers of an output a mask among the inputs says that they mean something: of all without one. */
function meant({ valid, is }, shape, inputs) {
  const mask = valid ? inputs[valid.replace("~", "")] : null;
  if (!mask) return () => true;
  const [rows, length] = mask.shape ?? mask.dims;
  const axis = is === "cache" ? 2 : 1; // of keys and values the heads come first
  const each = shape.slice(axis + 1).reduce((size, dim) => size * dim, 1);
  const row = shape.reduce((size, dim) => size * dim, 1) / rows;
  const before = length - shape[axis];
  const wanted = valid.startsWith("~") ? 0 : 1;
  return (i) => {
    const place = before + (Math.floor(i / each) % shape[axis]);
    return Number(mask.data[Math.floor(i / row) * length + place]) === wanted;
  };
}

/** Keeps of an output, (rows, positions, classes), the positions of each row that the golden has. */
function chosen({ data, dims: [, positions, classes] }, { shape, data: kept }) {
  const places = Array.from(kept, (place, i) => Math.floor(i / shape[1]) * positions + Number(place));
  const values = places.flatMap((place) => Array.from(data.subarray(place * classes, (place + 1) * classes)));
  return { data: values, dims: [...shape, classes] };
}

/** Math.max, but NaN if either is, wherever it stands. */
const maximum = (a, b) => (a > b || Number.isNaN(a) ? a : b);

async function replayPictures(embedder, images, files, found) {
  if (!images.length) return;
  const { pack } = embedder;
  const wanted = await pack.tensors("goldens/raw/pixels.safetensors");
  const table = wanted.values.data;
  if (!table.every((value, i) => Math.abs(value - embedder.values[i]) <= CLOSE))
    found.differences.push("preprocess.json's mean and std do not give the pack's values");
  for (const { name, core } of images) {
    let got;
    try {
      got = pixels(await embedder.runtime.decode(files[name]), pack.rules.images);
    } catch (error) {
      if (core) found.differences.push(`picture "${name}": ${error.message}`);
      else found.left.push(`picture ${name} (${error.message})`);
      continue;
    }
    found.counts.pictures++;
    const { data } = wanted[name];
    const within = got.data instanceof Uint8Array ? 0 : 255 * CLOSE;
    const different = got.data.reduce(
      (count, sample, i) => count + !(Math.abs(sample - data[i]) <= within),
      got.data.length === data.length ? 0 : 1,
    );
    const what = within ? "samples" : "bytes";
    if (different && core) found.differences.push(`picture "${name}": ${different} of ${data.length} ${what} differ`);
    else if (different) found.left.push(`picture ${name} (${different} of ${data.length} ${what} differ)`);
  }
}

/** Holds what sounds become to the pack's samples. */
async function replaySounds(embedder, sounds, files, found) {
  if (!sounds.length) return;
  const wanted = await embedder.pack.tensors("goldens/raw/samples.safetensors");
  for (const { name } of sounds) {
    const got = embedder.samples(files[name]);
    const { data } = required(wanted, name, "goldens/raw/samples.safetensors");
    found.counts.sounds++;
    const error = data.reduce((most, value, i) => maximum(most, Math.abs(got[i] - value)), 0);
    if (got.length !== data.length)
      found.differences.push(`sound "${name}": ${got.length} samples, expected ${data.length}`);
    else if (!(error <= CLOSE)) found.differences.push(`sound "${name}": samples differ by ${error}, ${CLOSE} is allowed`);
  }
}

/** Holds texts of tokens to the pack's, and the tokens that this runtime chooses to those that every one must. */
async function replayTranscripts(embedder, texts, found) {
  const { pack } = embedder;
  for (const { name, ids, text } of texts) {
    found.counts.texts++;
    const got = await embedder.written(ids);
    if (got !== text) found.differences.push(`tokens of "${name}": the text is ${brief(got)}, expected ${brief(text)}`);
  }
  const rules = pack.rules.transcripts;
  if (!rules) return;
  const golden = await pack.tensors(CHOSEN);
  const { input } = pack.rules.sounds;
  const [ids, begun, drawn] = ["ids", "inputs/input_ids", `inputs/${input}`].map((name) => required(golden, name, CHOSEN));
  for (let row = 0; row < ids.shape[0]; row++) {
    const one = (tensor) => Array.from(tensor.data.slice(row * part(tensor), (row + 1) * part(tensor)), Number);
    const ready = { [input]: { shape: [1, part(drawn)], data: Float32Array.from(one(drawn)) } };
    const kept = await heard(embedder, rules, await embedder.spectrograms(ready));
    const wanted = one(ids);
    const got = await greedy(embedder, rules, one(begun), kept, wanted.length);
    while (got.length < wanted.length) got.push(rules.pad);
    if (String(got) !== String(wanted))
      found.differences.push(`row ${row} of ${CHOSEN}: tokens are ${brief(got)}, expected ${brief(wanted)}`);
  }
}

/** How many numbers a row has. */
const part = ({ shape, data }) => data.length / shape[0];

/** A few of the ids, or of a text's letters. */
const brief = (all) => {
  if (typeof all === "string") return JSON.stringify(all.length > 60 ? `${all.slice(0, 57)}...` : all);
  return all.length > 12 ? `[${all.slice(0, 12)}, ... ${all.length} ids]` : `[${all}]`;
};

/** One line for people. */
export function summary({ counts, differences, worst, runtime }) {
  const heard = counts.sounds ? `, ${counts.sounds} sounds` : "";
  const did = `${counts.cases} cases, ${counts.texts} tokenizations${heard} and ${counts.pictures} pictures`;
  return differences.length
    ? `FAIL: ${differences.length} differences among ${did} in ${runtime}`
    : `pass: ${did} agree in ${runtime}, at most ${worst.toFixed(2)} of what is allowed`;
}
