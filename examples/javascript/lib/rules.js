// The words of preprocess.json: which keys each part has, and which values are done here. Others are refused.
//
// docs/pack.md is the same in prose. A value that nothing is done for must not pass for one that is.

import { PackError } from "./errors.js";
import { ACTIVATIONS, CUT } from "./scores.js";

const LARGEST = 2 ** 31 - 1;
const between = (low) => (given) => typeof given === "number" && low <= given && given <= LARGEST;
const whole = (low) => ({
  known: `a whole number from ${low} to ${LARGEST}`,
  legal: (given) => between(low)(given) && Number.isInteger(given),
});
const three = (low) => ({
  known: `a list of three numbers from ${low} to ${LARGEST}`,
  legal: (given) => Array.isArray(given) && given.length === 3 && given.every(between(low)),
});
const oneOf = (...values) => ({
  known: values.map((value) => JSON.stringify(value)).join(" or "),
  legal: (given) => values.some((value) => JSON.stringify(value) === JSON.stringify(given)),
});
const someOf = (...values) => ({
  known: `a list of one or more of ${values.map((value) => JSON.stringify(value)).join(", ")}`,
  legal: (given) => Array.isArray(given) && given.length > 0 && given.every((value) => values.includes(value)),
});
const isObject = (given) => typeof given === "object" && given !== null && !Array.isArray(given);

const SIZE = whole(1);
const ID = whole(0);
const IDS = {
  known: `a list of whole numbers from 0 to ${LARGEST}`,
  legal: (given) => Array.isArray(given) && given.every(ID.legal),
};
const orNull = ({ known, legal }) => ({ known: `null or ${known}`, legal: (given) => given === null || legal(given) });
const LIMIT = orNull(whole(2));
const TEXT = { known: "a text", legal: (given) => typeof given === "string" };
const NAME = { known: "a text that is not empty", legal: (given) => TEXT.legal(given) && given !== "" };
const OBJECT = { known: "an object", legal: isObject };
const OBJECT_OR_NULL = orNull(OBJECT);
const LIST = { known: "a list", legal: Array.isArray };

const FORMAT = 3;
const DOCUMENT = {
  format_version: oneOf(FORMAT),
  texts: OBJECT_OR_NULL,
  images: OBJECT_OR_NULL,
  embeddings: OBJECT_OR_NULL,
};
const TEXTS = {
  tokenizer: oneOf(null, "tokenizer.json"),
  inputs: OBJECT,
  vocab_size: SIZE,
  first_id: orNull(ID),
  last_id: orNull(ID),
  pad_id: ID,
  max_tokens: OBJECT,
  truncation: oneOf(
    "keep the first tokens and the special tokens",
    "keep the last tokens and the special tokens",
    "none: a longer text is refused",
  ),
  padding: oneOf(
    "after the text, to the longest of the batch",
    "before the text, to the longest of the batch",
    "after the text, to max_tokens",
  ),
  prompts: OBJECT,
  default_prompt: orNull(TEXT),
};
const IMAGES = {
  input: NAME,
  layout: oneOf("NHWC"),
  dtype: oneOf("float32"),
  colour: oneOf("RGB"),
  size: SIZE,
  exif_orientation: oneOf("ignored"),
  frame: oneOf(0),
  steps: LIST,
};
const UNSTATED = { input: NAME, missing: NAME }; // all that is said of what nobody says how to prepare
const SOUNDS = {
  input: NAME,
  dtype: oneOf("float32"),
  rate: SIZE,
  channels: oneOf("mean"),
  resample: OBJECT,
  samples: SIZE,
  shorter: oneOf("silence after the sound"),
  longer: oneOf("windows, one after the other"),
  least: SIZE,
  spectrogram: OBJECT,
};
const RESAMPLE = {
  filter: oneOf("windowed sinc"),
  window: oneOf("hann"),
  zero_crossings: oneOf(6),
  rolloff: oneOf(0.99),
  arithmetic: oneOf("float64"),
};
const SPECTROGRAM = {
  entry_point: NAME,
  output: NAME,
  window: oneOf("hann"),
  n_fft: whole(2),
  hop: SIZE,
  edges: oneOf("reflected"),
  bands: SIZE,
  scale: oneOf("slaney"),
  highest: oneOf(8000),
  least_power: oneOf(1e-10),
  decades: oneOf(8),
  last_frame: oneOf("left out"),
};
const TRANSCRIPTS = {
  tokenizer: oneOf(null, "tokenizer.json"),
  entry_points: OBJECT,
  caches: OBJECT,
  start: ID,
  languages: OBJECT,
  tasks: OBJECT,
  language: orNull(TEXT),
  no_timestamps: orNull(ID),
  suppress: IDS,
  suppress_first: IDS,
  end: ID,
  pad: ID,
  max_tokens: whole(2),
};
const STAGES = { hear: NAME, keep: NAME, begin: NAME, next: NAME };
const EMBEDDINGS = {
  outputs: OBJECT,
  width: SIZE,
  dtype: oneOf("float32"),
  pooling: someOf(
    "cls",
    "max",
    "mean",
    "mean_sqrt_len_tokens",
    "weightedmean",
    "lasttoken",
    "first end of text",
    "last token",
  ),
  normalize: oneOf(true, false),
  similarity: oneOf("dot", "cosine", "euclidean", "manhattan"),
};
const SCORES = {
  outputs: OBJECT,
  labels: {
    known: "a list of one text or more",
    legal: (given) => Array.isArray(given) && given.length > 0 && given.every(TEXT.legal),
  },
  dtype: oneOf("float32"),
  activation: oneOf(...Object.keys(ACTIVATIONS)),
};
const RESIZE = {
  filter: oneOf("bicubic", "bilinear"),
  antialias: oneOf(true),
  arithmetic: oneOf("uint8", "float32"),
  nearest_in_modes: oneOf(["1", "P"]),
  alpha: oneOf("premultiplied"),
};
const STEPS = new Map([
  [
    "resize",
    (step) => ({
      ...("shorter_side" in step || !("height" in step || "width" in step)
        ? { shorter_side: SIZE, longer_side: oneOf("floor", "round") }
        : { height: SIZE, width: SIZE }),
      ...RESIZE,
      ...(step.filter === "bicubic" ? { a: oneOf(-0.5) } : {}),
    }),
  ],
  ["crop", () => ({ height: SIZE, width: SIZE, offset: oneOf("half to even", "floor") })],
  ["colour", () => ({ to: oneOf("RGB"), alpha: oneOf("dropped", "over white") })],
  ["normalize", () => ({ divide: oneOf(255), mean: three(-LARGEST), std: three(1e-6) })],
]);

/** Throws PackError unless the document preprocess.json says what can be done here, and nothing else. */
export function check(document) {
  if ([1, 2].includes(document?.format_version))
    refuse("preprocess.json", `format_version is ${document.format_version}`, `${FORMAT}; run \`bgevis-convert pack DIR\` again`);
  const more = ["sounds", "transcripts", "scores"].filter((key) => isObject(document) && key in document);
  hold("preprocess.json", document, { ...DOCUMENT, ...Object.fromEntries(more.map((key) => [key, OBJECT])) });
  const { texts, images, sounds, transcripts, embeddings, scores } = document;
  if (texts) checkTexts("preprocess.json: texts", texts);
  if (images) checkImages("preprocess.json: images", images);
  if (sounds) checkSounds("preprocess.json: sounds", sounds);
  const heard = sounds ? [sounds.input, ...("missing" in sounds ? [] : [sounds.spectrogram.output])] : [];
  const names = [...Object.values(texts?.inputs ?? {}), ...(images ? [images.input] : []), ...heard];
  if (new Set(names).size < names.length)
    refuse("preprocess.json", `its inputs are ${names.join(", ")}`, "another name for each");
  if (transcripts) {
    if (!sounds?.spectrogram)
      refuse("preprocess.json", "transcripts is an object", "left out where no sounds are prepared");
    checkTranscripts("preprocess.json: transcripts", transcripts);
  }
  if (scores) {
    if (!names.length || embeddings)
      refuse("preprocess.json", "scores are stated beside embeddings, or without texts", "one of them");
    hold("preprocess.json: scores", scores, SCORES);
    byName("preprocess.json: scores", "outputs", scores, NAME);
  }
  if (!embeddings) return;
  if (!names.length) refuse("preprocess.json", "embeddings is an object", "null where texts and images are, without sounds");
  hold("preprocess.json: embeddings", embeddings, EMBEDDINGS);
  byName("preprocess.json: embeddings", "outputs", embeddings, NAME);
}

function hold(where, given, keys) {
  if (!isObject(given)) refuse(where, `it is ${show(given)}`, "an object");
  for (const key of Object.keys(given))
    if (!Object.hasOwn(keys, key)) refuse(where, `the key ${show(key)} is not known`, Object.keys(keys).join(", "));
  for (const [key, { known, legal }] of Object.entries(keys)) {
    if (!Object.hasOwn(given, key)) refuse(where, `there is no ${key}`, known);
    if (!legal(given[key])) refuse(where, `${key} is ${show(given[key])}`, known);
  }
}

function refuse(where, came, known) {
  throw new PackError(`${where}: ${came}; known: ${known}`);
}

function show(value) {
  const text = JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}

function checkTexts(where, rules) {
  const pairs = "pairs" in rules ? { pairs: oneOf(...Object.keys(CUT)) } : {};
  hold(where, rules, { ...TEXTS, ...pairs, ...((rules.tokenizer ?? null) === null ? { missing: NAME } : {}) });
  const more = ["mask", "prompt", "types", "positions"].filter((key) => key in rules.inputs).map((key) => [key, NAME]);
  hold(`${where}.inputs`, rules.inputs, { ids: NAME, ...Object.fromEntries(more) });
  const names = Object.keys(rules.prompts);
  hold(`${where}.prompts`, rules.prompts, Object.fromEntries(names.map((name) => [name, TEXT])));
  if (rules.default_prompt !== null && !names.includes(rules.default_prompt))
    refuse(where, `default_prompt is ${show(rules.default_prompt)}`, ["null", ...names.map(show)].join(", "));
  byName(where, "max_tokens", rules, LIMIT);
  for (const key of ["first_id", "last_id", "pad_id"])
    if (rules[key] !== null && rules[key] >= rules.vocab_size)
      refuse(where, `${key} is ${rules[key]}`, `below vocab_size, ${rules.vocab_size}`);
}

/** Holds what is said of each entry point, or of each cache, of one at least. */
function byName(where, key, rules, word) {
  const what = key === "caches" ? "a cache's" : "an entry point's";
  if (!Object.keys(rules[key]).length) refuse(where, `${key} is {}`, `${what} name and ${word.known}, at least once`);
  holdEach(where, key, rules, word);
}

function holdEach(where, key, rules, word) {
  hold(`${where}.${key}`, rules[key], Object.fromEntries(Object.keys(rules[key]).map((name) => [name, word])));
}

function checkSounds(where, rules) {
  hold(where, rules, "missing" in rules ? UNSTATED : SOUNDS);
  if ("missing" in rules) return;
  hold(`${where}.resample`, rules.resample, RESAMPLE);
  hold(`${where}.spectrogram`, rules.spectrogram, SPECTROGRAM);
  const { samples, least, spectrogram } = rules;
  const { hop, n_fft: points } = spectrogram;
  if (samples % hop) refuse(where, `samples is ${samples}`, `a multiple of spectrogram.hop, ${hop}`);
  if (points % 2 || points > samples)
    refuse(`${where}.spectrogram`, `n_fft is ${points}`, `an even number up to samples, ${samples}`);
  if (least > samples) refuse(where, `least is ${least}`, `up to samples, ${samples}`);
}

function checkTranscripts(where, rules) {
  hold(where, rules, { ...TRANSCRIPTS, ...((rules.tokenizer ?? null) === null ? { missing: NAME } : {}) });
  hold(`${where}.entry_points`, rules.entry_points, STAGES);
  byName(where, "caches", rules, NAME);
  for (const key of ["languages", "tasks"]) holdEach(where, key, rules, ID);
  const names = Object.keys(rules.languages);
  if (rules.language !== null && !names.includes(rules.language))
    refuse(where, `language is ${show(rules.language)}`, ["null", ...names.map(show)].join(", "));
}

function checkImages(where, rules) {
  hold(where, rules, "missing" in rules ? UNSTATED : IMAGES);
  if ("missing" in rules) return;
  let least = { height: LARGEST, width: LARGEST }; // what the picture measures at least; unknown before the first step
  let last = {};
  let [coloured, floats] = [false, false];
  rules.steps.forEach((step, i) => {
    const place = `${where}.steps[${i}]`;
    if (!isObject(step) || !STEPS.has(step.do))
      refuse(place, isObject(step) ? `do is ${show(step.do ?? null)}` : show(step), [...STEPS.keys()].join(", "));
    const { do: name, ...rest } = step;
    hold(`${place} (${name})`, rest, STEPS.get(name)(step));
    const begins = step.arithmetic === "float32";
    if ((floats && name !== "normalize") || (begins && !coloured))
      refuse(`${place} (${name})`, "it stands beside a resize in float32", "it after colour, then normalize");
    floats ||= begins;
    coloured ||= name === "colour";
    if (name !== "resize" && name !== "crop") return;
    for (const side of ["height", "width"])
      if (name === "crop" && step[side] > least[side])
        refuse(`${place} (crop)`, `${side} is ${step[side]}`, `at most ${least[side]}, what the steps before leave`);
    least = { height: step.height ?? step.shorter_side, width: step.width ?? step.shorter_side };
    last = step;
  });
  const done = rules.steps.map((step) => step.do);
  const count = (name) => done.filter((other) => other === name).length;
  if (count("colour") !== 1 || count("normalize") !== 1 || done.at(-1) !== "normalize")
    refuse(`${where}.steps`, `they are ${done}`, "colour and normalize once each, normalize last");
  if (last.height !== rules.size || last.width !== rules.size)
    refuse(where, `size is ${rules.size}`, "height and width of the last step that resizes or crops");
}

/** Throws PackError unless names, shapes and limits are those of the manifest's entry points. */
export function fits(document, entryPoints) {
  const { texts, images, sounds, transcripts, embeddings } = document;
  const part = embeddings ? "embeddings" : "scores";
  const stated = document[part];
  const width = embeddings?.width ?? stated?.labels.length;
  const outputs = Object.entries(stated?.outputs ?? {});
  const makes = new Map();
  const read = { dtype: "int32", shape: ["texts", "tokens"] };
  const counted = { dtype: "int32", shape: ["texts"] };
  for (const [kind, name] of Object.entries(texts?.inputs ?? {})) makes.set(name, kind === "prompt" ? counted : read);
  if (images) makes.set(images.input, "missing" in images ? null : pixels(images));
  for (const [name, made] of heardAs(sounds)) makes.set(name, made);
  for (const [entry, output] of outputs) {
    if (!Object.hasOwn(entryPoints, entry))
      refuse(`preprocess.json: ${part}.outputs`, entry, Object.keys(entryPoints).join(", "));
    const states = ({ name, dtype, shape }) =>
      name === output && dtype === stated.dtype && shape.length === 2 && shape[1] === width;
    if (!entryPoints[entry].outputs.some(states))
      refuse(
        `preprocess.json: ${part}`,
        `${output} ${stated.dtype}[rows,${width}]`,
        `what ${entry} gives, ${entryPoints[entry].outputs.map(described)}`,
      );
  }
  // What the pack is for: what embeds or scores, else what takes nothing but what is made, else all.
  const everything = Object.keys(entryPoints);
  const onlyMade = (entry) => entryPoints[entry].inputs.every(({ name }) => makes.has(name));
  const whole = outputs.length ? outputs.map(([entry]) => entry) : everything.filter(onlyMade);
  if (sounds?.spectrogram) whole.push(fitSpectrogram(sounds, entryPoints, makes));
  const isMade = (entry) => (spec) => makes.has(spec.name) && madeAs(makes.get(spec.name), spec, entryPoints[entry]);
  for (const entry of whole)
    for (const spec of entryPoints[entry].inputs)
      if (!isMade(entry)(spec))
        refuse(`preprocess.json: inputs of ${entry}`, `${described(spec)} is not made`, [...makes.keys()].join(", "));
  const concerned = whole.length ? whole : everything;
  const taken = new Set(concerned.flatMap((entry) => entryPoints[entry].inputs.filter(isMade(entry))).map(nameOf));
  for (const name of makes.keys())
    if (!taken.has(name)) refuse("preprocess.json", `it makes ${name}`, `what one of ${concerned.join(", ")} takes`);
  if (transcripts) fitTranscripts(transcripts, sounds, entryPoints);
  if (!texts) return;
  const limits = {};
  for (const entry of concerned)
    for (const { name, shape } of entryPoints[entry].inputs)
      if (name === texts.inputs.ids) limits[entry] = most(entryPoints[entry], shape.at(-1));
  const named = Object.keys(texts.max_tokens).sort().join("\n") === Object.keys(limits).sort().join("\n");
  if (!named || Object.entries(limits).some(([entry, limit]) => beyond(texts.max_tokens[entry], limit)))
    refuse("preprocess.json: texts", `max_tokens is ${show(texts.max_tokens)}`, `at most ${show(limits)}`);
}

/** What becomes of sounds: names, with dtype and shape, or null where nobody says how they are prepared. */
function heardAs(sounds) {
  if (!sounds) return [];
  if ("missing" in sounds) return [[sounds.input, null]];
  const { input, dtype, samples, spectrogram } = sounds;
  const features = { dtype, shape: ["windows", spectrogram.bands, samples / spectrogram.hop] };
  return [
    [input, { dtype, shape: ["windows", samples] }],
    [spectrogram.output, features],
  ];
}

/** Gives the entry point that makes the spectrogram. */
function fitSpectrogram({ spectrogram }, entryPoints, makes) {
  const { entry_point: entry, output } = spectrogram;
  const where = "preprocess.json: sounds.spectrogram";
  if (!Object.hasOwn(entryPoints, entry)) refuse(where, `it names ${entry}`, Object.keys(entryPoints).join(", "));
  const { outputs } = entryPoints[entry];
  if (!outputs.some((spec) => spec.name === output && madeAs(makes.get(output), spec, entryPoints[entry])))
    refuse(where, `it is ${output} of ${show(makes.get(output))}`, `what ${entry} gives, ${outputs.map(described)}`);
  return entry;
}

/** Holds what is said of texts that come out to the entry points that give their tokens. */
function fitTranscripts(rules, sounds, entryPoints) {
  const where = "preprocess.json: transcripts";
  for (const [key, entry] of Object.entries(rules.entry_points))
    if (!Object.hasOwn(entryPoints, entry))
      refuse(`${where}.entry_points`, `${key} names ${entry}`, Object.keys(entryPoints).join(", "));
  const { hear, keep, begin, next } = rules.entry_points;
  const given = (entry) => entryPoints[entry].outputs.map(nameOf);
  const taken = (entry) => entryPoints[entry].inputs.map(nameOf);
  const [cached, caches] = [Object.keys(rules.caches), Object.values(rules.caches)];
  const chain = [
    [hear, [sounds.spectrogram.output], 0],
    [keep, given(hear), 0],
    [begin, given(keep), 1],
    [next, [...given(keep), ...cached], 1],
  ];
  for (const [entry, made, ids] of chain) {
    const other = taken(entry).filter((name) => !made.includes(name));
    if (other.length !== ids) refuse(where, `${entry} takes ${other.join(", ") || "no ids"} beside what is made`, "the ids");
  }
  let scored;
  for (const entry of [begin, next]) {
    const { outputs } = entryPoints[entry];
    const others = outputs.filter(({ name }) => !caches.includes(name));
    const whole = new Set(caches).size === cached.length && cached.length === outputs.length - 1;
    if (!whole || others.length !== 1 || others[0].shape.length !== 3 || typeof others[0].shape[2] !== "number")
      refuse(where, `caches are ${show(rules.caches)}`, `all that ${entry} gives but its scores, ${given(entry).join(", ")}`);
    [scored] = others;
  }
  const strange = cached.filter((name) => !taken(next).includes(name));
  if (strange.length) refuse(where, `caches name ${strange.join(", ")}`, `what ${next} takes`);
  const { start, end, pad, no_timestamps: times, languages, tasks, suppress, suppress_first: first } = rules;
  const ids = [start, end, pad, times ?? 0, ...Object.values(languages), ...Object.values(tasks), ...suppress, ...first];
  const largest = ids.reduce((most, id) => Math.max(most, id), 0);
  if (largest >= scored.shape.at(-1)) refuse(where, `it names the token ${largest}`, `below ${scored.shape.at(-1)}`);
  const read = entryPoints[begin].inputs.find(({ name }) => !given(keep).includes(name));
  const limit = most(entryPoints[begin], read.shape.at(-1));
  if (beyond(rules.max_tokens, limit)) refuse(where, `max_tokens is ${rules.max_tokens}`, `at most ${limit}`);
}

const nameOf = ({ name }) => name;
const pixels = ({ dtype, size }) => ({ dtype, shape: ["images", size, size, 3] });
const described = ({ name, dtype, shape }) => `${name} ${dtype}[${shape}]`;
const beyond = (stated, limit) => limit !== null && (stated === null || stated > limit);

/** The largest size of a dimension: itself, its axis' bound; null where nothing bounds it, or it is a sum of axes. */
const most = (entryPoint, dim) => (typeof dim === "number" ? dim : (entryPoint.axes[dim]?.max ?? null));

/** Says whether what is made is taken: any axis is one, by any name; the first is that of the rows. */
function madeAs(made, { dtype, shape }, entryPoint) {
  if (!made) return true; // of which nobody says what it is
  if (dtype !== made.dtype || shape.length !== made.shape.length || typeof shape[0] === "number") return false;
  return shape.slice(1).every((dim, i) => {
    const size = made.shape[i + 1];
    if (typeof size === "string") return true;
    return typeof dim === "number" ? dim === size : !beyond(size, most(entryPoint, dim));
  });
}
