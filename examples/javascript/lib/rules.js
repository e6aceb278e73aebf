// The words of preprocess.json: which keys each part has, and which values are done here. Others are refused.
//
// docs/pack.md is the same in prose. A value that nothing is done for must not pass for one that is.

import { PackError } from "./errors.js";

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
const isObject = (given) => typeof given === "object" && given !== null && !Array.isArray(given);

const SIZE = whole(1);
const ID = whole(0);
const LIMIT = { known: `null or ${whole(2).known}`, legal: (given) => given === null || whole(2).legal(given) };
const TEXT = { known: "a text", legal: (given) => typeof given === "string" };
const NAME = { known: "a text that is not empty", legal: (given) => TEXT.legal(given) && given !== "" };
const OBJECT = { known: "an object", legal: isObject };
const OBJECT_OR_NULL = { known: "null or an object", legal: (given) => given === null || isObject(given) };
const LIST = { known: "a list", legal: Array.isArray };

const DOCUMENT = { format_version: oneOf(1), texts: OBJECT_OR_NULL, images: OBJECT_OR_NULL, embeddings: OBJECT };
const TEXTS = {
  tokenizer: oneOf(null, "tokenizer.json"),
  inputs: OBJECT,
  vocab_size: SIZE,
  first_id: ID,
  last_id: ID,
  pad_id: ID,
  max_tokens: OBJECT,
  truncation: oneOf("keep the first tokens and the special tokens", "keep the last tokens and the special tokens"),
  padding: oneOf("after the text, to the longest of the batch"),
  prefix: TEXT,
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
const EMBEDDINGS = {
  output: NAME,
  width: SIZE,
  dtype: oneOf("float32"),
  pooling: oneOf("cls", "mean"),
  normalize: oneOf(true, false),
  similarity: oneOf("dot", "cosine"),
};
const RESIZE = {
  filter: oneOf("bicubic", "bilinear"),
  antialias: oneOf(true),
  arithmetic: oneOf("uint8"),
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
  hold("preprocess.json", document, DOCUMENT);
  const { texts, images, embeddings } = document;
  if (!texts && !images) refuse("preprocess.json", "texts and images are null", "one of them at least");
  if (texts) checkTexts("preprocess.json: texts", texts);
  if (images) checkImages("preprocess.json: images", images);
  hold("preprocess.json: embeddings", embeddings, EMBEDDINGS);
  const right = embeddings.normalize ? "dot" : "cosine";
  if (embeddings.similarity !== right)
    refuse("preprocess.json: embeddings", `similarity is ${show(embeddings.similarity)}`, `${right}, by normalize`);
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
  hold(where, rules, { ...TEXTS, ...((rules.tokenizer ?? null) === null ? { missing: NAME } : {}) });
  hold(`${where}.inputs`, rules.inputs, { ids: NAME, mask: NAME });
  const entries = Object.keys(rules.max_tokens);
  if (!entries.length) refuse(where, "max_tokens is {}", "an entry point's name and its limit, at least once");
  hold(`${where}.max_tokens`, rules.max_tokens, Object.fromEntries(entries.map((entry) => [entry, LIMIT])));
  for (const key of ["first_id", "last_id", "pad_id"])
    if (rules[key] >= rules.vocab_size)
      refuse(where, `${key} is ${rules[key]}`, `below vocab_size, ${rules.vocab_size}`);
}

function checkImages(where, rules) {
  hold(where, rules, IMAGES);
  let least = { height: LARGEST, width: LARGEST }; // what the picture measures at least; unknown before the first step
  let last = {};
  rules.steps.forEach((step, i) => {
    const place = `${where}.steps[${i}]`;
    if (!isObject(step) || !STEPS.has(step.do))
      refuse(place, isObject(step) ? `do is ${show(step.do ?? null)}` : show(step), [...STEPS.keys()].join(", "));
    const { do: name, ...rest } = step;
    hold(`${place} (${name})`, rest, STEPS.get(name)(step));
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
  const { texts, images, embeddings } = document;
  const wanted = new Map();
  if (texts) for (const name of Object.values(texts.inputs)) wanted.set(name, described("int32", ["batch", "tokens"]));
  if (images) wanted.set(images.input, described(images.dtype, ["batch", images.size, images.size, 3]));
  const taken = new Map();
  const limits = {};
  for (const [entry, { inputs, outputs, axes }] of Object.entries(entryPoints)) {
    for (const { name, dtype, shape } of inputs) taken.set(name, described(dtype, shape));
    if (axes.tokens) limits[entry] = axes.tokens.max;
    const gives = outputs.map(({ name, dtype, shape }) => `${name} ${described(dtype, shape)}`).join(", ");
    const states = `${embeddings.output} ${described(embeddings.dtype, ["batch", embeddings.width])}`;
    if (gives !== states) refuse("preprocess.json: embeddings", states, `what ${entry} gives, ${gives}`);
  }
  const same = (a, b) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());
  const [made, took] = [Object.fromEntries(wanted), Object.fromEntries(taken)];
  if (!same(made, took)) refuse("preprocess.json: its inputs", show(made), `what the entry points take, ${show(took)}`);
  const beyond = (stated, most) => most !== null && (stated === null || stated > most);
  const named = texts && same(Object.keys(texts.max_tokens).sort(), Object.keys(limits).sort());
  if (texts && (!named || Object.keys(limits).some((entry) => beyond(texts.max_tokens[entry], limits[entry]))))
    refuse("preprocess.json: texts", `max_tokens is ${show(texts.max_tokens)}`, `at most ${show(limits)}`);
}

const described = (dtype, shape) => `${dtype}[${shape}]`;
