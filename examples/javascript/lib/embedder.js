// Texts, pictures and sounds to embeddings, scores and texts: the tokenizer and the rules of the pack, the ONNX programs
// in onnxruntime.

import { obeyTables } from "./charsmap.js";
import { InputError } from "./errors.js";
import { read, readTexts, whole } from "./given.js";
import { PackError, size } from "./pack.js";
import { normalized, pixels, values } from "./pictures.js";
import { ACTIVATIONS, CUT, pairTemplate } from "./scores.js";
import { samples, windows } from "./sounds.js";
import { decoder, greedy, heard, languageOf, prompt } from "./transcripts.js";

/** Which tokens of a text that is too long are kept, by the words of preprocess.json. */
const KEPT = {
  "keep the first tokens and the special tokens": (ids, count) => ids.slice(0, count),
  "keep the last tokens and the special tokens": (ids, count) => ids.slice(Math.max(0, ids.length - count)),
  "none: a longer text is refused": (ids, count) => {
    if (ids.length > count)
      throw new PackError(`a text has ${ids.length} tokens, but the network reads at most ${count} between the special ones`);
    return ids;
  },
};

/** Where padding stands, by the words of preprocess.json. */
const PADDED = {
  "after the text, to the longest of the batch": (row, padding) => [...row, ...padding],
  "before the text, to the longest of the batch": (row, padding) => [...padding, ...row],
  "after the text, to max_tokens": (row, padding) => [...row, ...padding],
};

export class Embedder {
  /**
   * @param pack the opened Pack
   * @param runtime { ort, open(program) -> session, Tokenizer, decode(bytes) -> picture }: what differs between
   *   Node and browsers
   */
  constructor(pack, runtime) {
    this.pack = pack;
    this.runtime = runtime;
    this.entryPoints = pack.manifest.entry_points;
    this.sessions = {};
    this.cut = []; // which of the texts that were embedded last were longer than the pack says
    if (pack.rules.images?.steps) this.values = values(pack.rules.images);
  }

  /**
   * Embeds texts, pictures (the bytes of PNG or JPEG files), or pairs of both: one Float32Array for each row, in order.
   *
   * `given` is a text, a list of texts, or { texts, images }, each a list or one alone. What is no list gives one
   * Float32Array. Rows are run in batches of like length; `cut` names the texts that were longer than the pack says.
   *
   * Options, after it or beside texts and images: before each text stands the prompt called `promptName`, or `prompt`
   * itself, by default the one that the pack says; `dims` keeps so many numbers of each vector, made as long as 1 again
   * where the network's are; a batch has at most `batchSize` rows, 32.
   */
  async embed(given, options = {}) {
    const { texts, images, alone, promptName, prompt, dims, batchSize = 32 } = await read(given, options);
    const entry = this.#entryFor(texts, images);
    const { outputs, width, normalize } = this.pack.rules.embeddings;
    const size = whole("batchSize", batchSize, 1);
    const kept = dims === undefined ? width : whole("dims", dims, 1, width);
    const before = texts ? this.#before(promptName, prompt) : "";
    const encoded = texts && (await Promise.all(texts.map((text) => this.#encoded(text, entry, before))));
    this.cut = (encoded ?? []).flatMap(({ cut }, row) => (cut ? [row] : []));
    const leading = texts ? await this.promptTokens(before, entry) : 0;
    const vectors = Array((texts ?? images).length);
    for (const rows of batches(encoded?.map(({ ids }) => ids.length) ?? images.map(() => 0), size)) {
      const inputs = {};
      if (images) Object.assign(inputs, await this.pictures(rows.map((row) => images[row])));
      if (texts) Object.assign(inputs, this.batch(rows.map((row) => encoded[row].ids), leading));
      const { data } = (await this.run(entry, inputs))[outputs[entry]];
      rows.forEach((row, i) => {
        const vector = data.slice(i * width, i * width + kept);
        vectors[row] = kept < width && normalize ? unit(vector) : vector;
      });
    }
    return alone ? vectors[0] : vectors;
  }

  /** Gives how near two embeddings are, by the rule that the pack states; more is nearer. */
  similarity(a, b) {
    if (a.length !== b.length)
      throw new InputError(`embeddings of ${a.length} and ${b.length} numbers cannot be compared: make both alike`);
    return similarity(a, b, this.pack.rules.embeddings);
  }

  /** Counts the tokens of each text, special ones and the prompt's included, and those that would be cut. */
  async tokenCount(texts, { promptName, prompt } = {}) {
    const before = this.#before(promptName, prompt);
    const found = await Promise.all(readTexts(texts).map((text) => this.#encoded(text, undefined, before)));
    const counts = found.map(({ ids }) => ids.length);
    return typeof texts === "string" ? counts[0] : counts;
  }

  /**
   * Scores texts, or pairs of them, a query and a passage each: a number for each row, or with several labels a number
   * for each of preprocess.json's `labels`.
   *
   * @param activation what makes scores of logits: identity, sigmoid, tanh, softmax; by default what the pack says
   */
  async score(rows, { activation = this.pack.rules.scores?.activation } = {}) {
    const { scores } = this.pack.rules;
    if (!scores) throw new PackError("this network gives no scores of texts");
    if (!Object.hasOwn(ACTIVATIONS, activation))
      throw new PackError(`activation is ${activation}; known: ${Object.keys(ACTIVATIONS).join(", ")}`);
    if (!rows.length) return [];
    const [[entry, output]] = Object.entries(scores.outputs);
    const inputs = this.batchRows(await Promise.all(rows.map((row, i) => this.#row(row, i, entry))));
    const { data, dims } = (await this.run(entry, inputs))[output];
    const found = rows.map((_, i) => ACTIVATIONS[activation](Array.from(data.slice(i * dims[1], (i + 1) * dims[1]))));
    return dims[1] === 1 ? found.map(([score]) => score) : found;
  }

  async #row(row, i, entry) {
    if (typeof row === "string") return single(await this.ids(row, entry));
    if (!Array.isArray(row) || row.length !== 2 || row.some((text) => typeof text !== "string"))
      throw new PackError(`row ${i} is ${JSON.stringify(row)}, expected a text or two of them`);
    return this.pair(...row, entry);
  }

  /** Names the entry point that embeds texts, pictures, or both together; undefined if there is none. */
  embeds({ texts, images }) {
    const { rules } = this.pack;
    const [ids, pixels] = [rules.texts?.inputs.ids, rules.images?.input];
    return Object.keys(rules.embeddings?.outputs ?? {}).find((name) => {
      const takes = this.entryPoints[name].inputs.map((spec) => spec.name);
      return takes.includes(ids) === Boolean(texts) && takes.includes(pixels) === Boolean(images);
    });
  }

  #entryFor(texts, images) {
    if (!this.pack.rules.embeddings) throw new PackError("this network gives no embeddings of texts or pictures");
    const entry = this.embeds({ texts, images });
    const given = [texts && "texts", images && "images"].filter(Boolean).join(" and ");
    if (!entry) throw new InputError(`this network has no entry point for ${given} that embeds it`);
    return entry;
  }

  #before(promptName, prompt) {
    if (promptName !== undefined && prompt !== undefined)
      throw new InputError(`promptName is ${promptName} and prompt is ${JSON.stringify(prompt)}: give one of them`);
    if (prompt !== undefined && typeof prompt !== "string") throw new InputError("prompt is no string");
    return prompt ?? this.prompt(promptName);
  }

  /** Gives the prompt of a name; without one, the default. */
  prompt(name = this.pack.rules.texts?.default_prompt) {
    const prompts = this.pack.rules.texts?.prompts ?? {};
    if (name === null || name === undefined) return "";
    if (!Object.hasOwn(prompts, name))
      throw new InputError(`there is no prompt ${name} (prompts: ${Object.keys(prompts).join(", ") || "none"})`);
    return prompts[name];
  }

  /** Counts the tokens of a prompt, special ones before it included. */
  async promptTokens(prompt, entry) {
    if (!prompt) return 0;
    return (await this.ids(prompt, entry, "")).length - (this.pack.rules.texts.last_id === null ? 0 : 1);
  }

  /**
   * Gives the ids of a text with a prompt before it, for an entry point: the special tokens around as many of its
   * tokens as fit.
   */
  async ids(text, entry, prompt = this.prompt()) {
    return (await this.#encoded(text, entry, prompt)).ids;
  }

  /** Gives the ids of a text, and whether it was cut; for no entry point it is not. */
  async #encoded(text, entry, prompt) {
    const words = await this.#words(prompt + text);
    const rules = this.pack.rules.texts;
    const [first, last] = [rules.first_id, rules.last_id].map((id) => (id === null ? [] : [id]));
    const room = (rules.max_tokens[entry] ?? Infinity) - first.length - last.length;
    return { ids: [...first, ...KEPT[rules.truncation](words, room), ...last], cut: words.length > room };
  }

  /** Gives { ids, types } of two texts that are read together, for an entry point: cut as preprocess.json says. */
  async pair(first, second, entry) {
    const words = [await this.#words(first), await this.#words(second)];
    const rules = this.pack.rules.texts;
    if (!rules.pairs) throw new PackError("this network takes single texts, no pairs");
    const template = pairTemplate(this.described.post_processor);
    const limit = rules.max_tokens[entry] ?? Infinity;
    const room = limit - template.filter(({ text }) => text === undefined).length;
    const counts = CUT[rules.pairs](words[0].length, words[1].length, room, limit);
    const kept = words.map((ids, i) => KEPT[rules.truncation](ids, counts[i]));
    const parts = template.map(({ id, text, type }) => ({ ids: text === undefined ? [id] : kept[text], type }));
    return { ids: parts.flatMap(({ ids }) => ids), types: parts.flatMap(({ ids, type }) => ids.map(() => type)) };
  }

  /** Gives the ids of a text's own tokens. */
  async #words(text) {
    const rules = this.pack.rules.texts;
    if (!rules?.tokenizer) throw new PackError(`the pack has no tokenizer: ${rules?.missing ?? "no text is read"}`);
    this.described ??= await this.pack.json(rules.tokenizer);
    this.tokenizer ??= this.#opened();
    const { ids } = this.tokenizer.encode(plainSigma(text, this.described.normalizer), { add_special_tokens: false });
    const strange = ids.find((id) => id >= rules.vocab_size);
    if (strange !== undefined)
      throw new PackError(`${rules.tokenizer} gives the id ${strange}, preprocess.json knows ${rules.vocab_size}`);
    return ids;
  }

  #opened() {
    const tokenizer = new this.runtime.Tokenizer(this.described, {});
    obeyTables(tokenizer.normalizer, this.described.normalizer);
    return tokenizer;
  }

  /** Pads rows of ids to the longest. Of each, so many tokens are the prompt's. */
  batch(rows, promptTokens = 0) {
    return this.batchRows(rows.map(single), promptTokens);
  }

  /** Pads rows, { ids, types } each, to the longest; padding is of type 0. */
  batchRows(several, promptTokens = 0) {
    const rows = several.map(({ ids }) => ids);
    const { inputs, pad_id, padding, max_tokens } = this.pack.rules.texts;
    const empty = rows.findIndex((row) => !row.length);
    if (empty >= 0) throw new PackError(`text ${empty} is of no tokens`);
    const whole = padding === "after the text, to max_tokens" ? Object.values(max_tokens) : [];
    const tokens = Math.max(...rows.map((row) => row.length), ...whole);
    const pad = (row, value) => PADDED[padding](row, Array(tokens - row.length).fill(value));
    const ids = rows.flatMap((row) => pad(row, pad_id));
    const shape = [rows.length, tokens];
    const masks = rows.map((row) => pad(Array(row.length).fill(1), 0));
    const made = {
      ids: { shape, data: ids },
      mask: { shape, data: masks.flat() },
      positions: { shape, data: masks.flatMap(counted) },
      types: { shape, data: several.flatMap(({ types }) => pad(types, 0)) },
      prompt: { shape: [rows.length], data: rows.map(() => promptTokens) },
    };
    return Object.fromEntries(Object.entries(inputs).map(([kind, name]) => [name, made[kind]]));
  }

  /** Decodes and prepares the bytes of pictures. */
  async pictures(files) {
    const rules = this.pack.rules.images;
    if (!rules?.steps) throw new PackError(`the pack cannot prepare pictures: ${rules?.missing ?? "none are seen"}`);
    const ready = [];
    for (const file of files) ready.push(normalized(pixels(await this.runtime.decode(file), rules), this.values, rules));
    const data = new Float32Array(ready.length * ready[0].length);
    ready.forEach((picture, i) => data.set(picture, i * picture.length));
    return { [rules.input]: { shape: [files.length, rules.size, rules.size, 3], data } };
  }

  /** Opens the bytes of sounds: { samples: (windows, samples) }, a row for each window. */
  sounds(files) {
    const rules = this.pack.rules.sounds;
    const rows = files.flatMap((file) => windows(this.samples(file), rules));
    const data = new Float32Array(rows.length * rules.samples);
    rows.forEach((row, i) => data.set(row, i * rules.samples));
    return { [rules.input]: { shape: [rows.length, rules.samples], data } };
  }

  /** Opens the bytes of a WAV file, or takes { samples, rate }: a Float32Array at the network's rate. */
  samples(sound) {
    const rules = this.pack.rules.sounds;
    if (!rules?.spectrogram) throw new PackError(`the pack cannot prepare sounds: ${rules?.missing ?? "none are heard"}`);
    return samples(sound, rules);
  }

  /** Makes the spectrograms of windows of samples, by the program that the pack names. */
  async spectrograms(ready) {
    const { entry_point: entry, output } = this.pack.rules.sounds.spectrogram;
    const { data, dims } = (await this.run(entry, ready))[output];
    return { [output]: { data, shape: dims } };
  }

  /**
   * Writes what is said in a sound, the bytes of a WAV file or { samples, rate }: { text, windows }, of each window
   * { text, ids, language }. Without a `language`, it is the one that the pack states, or that the network hears in the
   * first window.
   * @param progress called, and waited for, before each window, with (windows that are done, all windows)
   */
  async transcribe(sound, { language, task, progress = () => {} } = {}) {
    const rules = this.pack.rules.transcripts;
    if (!rules) throw new PackError("this network writes no texts of sounds");
    const told = Object.keys(rules.languages).length && Object.keys(rules.tasks).length;
    let spoken = language ?? rules.language;
    const found = [];
    const all = windows(this.samples(sound), this.pack.rules.sounds);
    for (const window of all) {
      await progress(found.length, all.length);
      const ready = { [this.pack.rules.sounds.input]: { shape: [1, window.length], data: window } };
      const kept = await heard(this, rules, await this.spectrograms(ready));
      if (told) spoken ??= await languageOf(this, rules, kept);
      const ids = await greedy(this, rules, prompt(rules, spoken, task), kept);
      found.push({ text: await this.written(ids), ids, language: spoken });
    }
    const texts = found.map(({ text }) => text.trim()).filter((text) => text);
    return { text: texts.join(" "), windows: found };
  }

  /** Gives the text of the tokens that a network chose. */
  async written(ids) {
    const rules = this.pack.rules.transcripts;
    if (!rules?.tokenizer) throw new PackError(`the pack has no tokenizer: ${rules?.missing ?? "no text is written"}`);
    this.decoded ??= decoder(await this.pack.json(rules.tokenizer), rules);
    return this.decoded(ids);
  }

  /** Opens a program, unless it is open: `run` does that by itself, the first time. */
  open(entry) {
    return (this.sessions[entry] ??= this.runtime.open(this.entryPoints[entry].programs.onnx));
  }

  /** Runs an entry point on ready inputs, { name: { shape, data } }; gives { data, dims } of each output. */
  async run(entry, inputs) {
    const { ort } = this.runtime;
    const session = await this.open(entry);
    const feeds = {};
    for (const spec of this.entryPoints[entry].inputs) {
      const { shape, data } = inputs[spec.name];
      feeds[spec.name] =
        spec.dtype === "int32" // the manifest's dtype is the network's; ONNX takes ids and masks as int64
          ? new ort.Tensor(
              "int64",
              BigInt64Array.from(data, (id) => BigInt(id)),
              shape,
            )
          : new ort.Tensor("float32", data, shape);
    }
    const given = await session.run(feeds);
    const outputs = {};
    for (const { name, dtype } of this.entryPoints[entry].outputs) {
      const output = given[name];
      if (!output) throw new PackError(`${entry} gives no output ${name}`);
      if (output.type !== dtype || output.data.length !== size(output.dims))
        throw new PackError(`${entry}: ${name} is ${output.type}, ${dtype} was promised`);
      outputs[name] = { data: output.data, dims: output.dims };
    }
    return outputs;
  }

  /** Frees the memory of a program, or of all; it is opened again when it is needed. */
  async close(entry) {
    for (const name of entry === undefined ? Object.keys(this.sessions) : [entry]) {
      const session = await this.sessions[name];
      delete this.sessions[name];
      await session?.release();
    }
  }
}

/** A text that is read alone: all of its tokens are of type 0. */
/** Numbers the tokens of a row, of which a mask says which are no padding, from 0. */
function counted(mask) {
  let count = 0;
  return mask.map((real) => Math.max((count += real) - 1, 0));
}

const single = (ids) => ({ ids, types: ids.map(() => 0) });

/**
 * Lower-cases the Greek capital sigma where the tokenizer would: it takes letters one by one and never gives the form
 * for the end of a word, which JavaScript's toLowerCase gives.
 */
function plainSigma(text, normalizer) {
  const lower = [normalizer, ...(normalizer?.normalizers ?? [])].some((n) => n?.lowercase || n?.type === "Lowercase");
  return lower ? text.replaceAll("\u03a3", "\u03c3") : text;
}

/** Attention's memory grows with the square of the tokens: longer texts than so many come in fewer rows. */
const USUAL = 512;

/** Gives the rows of each batch, the longest first. */
function* batches(lengths, batchSize) {
  const order = [...lengths.keys()].sort((a, b) => lengths[b] - lengths[a]);
  for (let start = 0, size; start < order.length; start += size) {
    const longest = Math.max(lengths[order[start]], 1);
    size = Math.max(1, Math.min(batchSize, Math.floor((batchSize * USUAL ** 2) / longest ** 2)));
    yield order.slice(start, start + size);
  }
}

function unit(vector) {
  const length = Math.max(Math.sqrt(dot(vector, vector)), 1e-12);
  return vector.map((value) => value / length);
}

const sum = (a, b, term) => a.reduce((total, value, i) => total + term(value, b[i]), 0);
const dot = (a, b) => sum(a, b, (x, y) => x * y);

/** By the words of preprocess.json; more is nearer, so that a distance is negative. */
const SIMILARITIES = {
  dot,
  cosine: (a, b) => dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)),
  euclidean: (a, b) => -Math.sqrt(sum(a, b, (x, y) => (x - y) ** 2)),
  manhattan: (a, b) => -sum(a, b, (x, y) => Math.abs(x - y)),
};

/** The similarity of two embeddings, by the rule that preprocess.json states. */
export const similarity = (a, b, rules) => SIMILARITIES[rules.similarity](a, b);
