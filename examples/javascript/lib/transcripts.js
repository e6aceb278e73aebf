// Texts of sounds: the loop over the programs that chooses token after token, and the text that these become.

import { InputError, PackError } from "./errors.js";

/** Gives the tokens that a text begins with. */
export function prompt(rules, language = rules.language, task = "transcribe") {
  const named = (kind, name) => {
    if (!Object.hasOwn(rules[kind], name ?? ""))
      throw new InputError(`there is no ${kind.slice(0, -1)} ${name} (${kind}: ${Object.keys(rules[kind]).join(", ")})`);
    return rules[kind][name];
  };
  const several = Object.keys(rules.languages).length && Object.keys(rules.tasks).length;
  if (!several && language !== null) throw new InputError("this network writes one language, and takes none");
  const told = several ? [named("languages", language), named("tasks", task)] : [];
  return [rules.start, ...told, ...(rules.no_timestamps === null ? [] : [rules.no_timestamps])];
}

/** Gives what the decoder attends to of one spectrogram: the tensors that `keep` gives, as inputs. */
export async function heard(embedder, rules, features) {
  const states = await step(embedder, rules.entry_points.hear, features);
  return step(embedder, rules.entry_points.keep, states);
}

/** Names the language that the network hears: of `start` alone, the one whose token scores best. */
export async function languageOf(embedder, rules, sound) {
  const { scores } = await scored(embedder, rules, rules.entry_points.begin, [rules.start], sound);
  return Object.entries(rules.languages).reduce((best, one) => (scores[one[1]] > scores[best[1]] ? one : best))[0];
}

/** Chooses the best token again and again, until the text ends: at most `most` of them. */
export async function greedy(embedder, rules, begun, sound, most = rules.max_tokens - begun.length) {
  const { begin, next } = rules.entry_points;
  const chosen = [];
  let { scores, outputs } = await scored(embedder, rules, begin, begun, sound);
  while (chosen.length < most) {
    const never = new Set(chosen.length ? rules.suppress : [...rules.suppress, ...rules.suppress_first]);
    let best = -1;
    for (let id = 0; id < scores.length; id++) if (!never.has(id) && !(scores[id] <= scores[best])) best = id;
    chosen.push(best);
    if (best === rules.end || chosen.length === most) break;
    const past = Object.entries(rules.caches).map(([input, output]) => [input, outputs[output]]);
    ({ scores, outputs } = await scored(embedder, rules, next, [best], { ...sound, ...Object.fromEntries(past) }));
  }
  return chosen;
}

/** Runs an entry point on some tokens; gives its outputs, and the scores of the token that follows the last. */
async function scored(embedder, rules, entry, ids, inputs) {
  const { name } = embedder.entryPoints[entry].inputs.find((spec) => !Object.hasOwn(inputs, spec.name));
  const outputs = await step(embedder, entry, { ...inputs, [name]: { shape: [1, ids.length], data: ids } });
  const caches = Object.values(rules.caches);
  const { shape, data } = outputs[Object.keys(outputs).find((output) => !caches.includes(output))];
  return { outputs, scores: data.slice(data.length - shape.at(-1)) };
}

/** Runs an entry point; gives outputs as inputs are given. */
async function step(embedder, entry, inputs) {
  const outputs = Object.entries(await embedder.run(entry, inputs));
  return Object.fromEntries(outputs.map(([name, { data, dims }]) => [name, { data, shape: dims }]));
}

/** Byte-level vocabularies write each byte as a character: these as they are, the others from 256 on. */
const BYTES = (() => {
  const plain = (byte) => (33 <= byte && byte <= 126) || (161 <= byte && byte <= 172) || byte >= 174;
  let other = 256;
  return new Map(Array.from({ length: 256 }, (_, byte) => [String.fromCodePoint(plain(byte) ? byte : other++), byte]));
})();

/** Gives what makes texts of tokens, by a tokenizer.json of bytes; special tokens and times are left out. */
export function decoder({ model, decoder, added_tokens: added }, { no_timestamps: times }) {
  if (model?.type !== "BPE" || decoder?.type !== "ByteLevel")
    throw new PackError(`tokenizer.json: ${model?.type} with the decoder ${decoder?.type} is not read here; known: BPE with ByteLevel`);
  const words = new Map(Object.entries(model.vocab).map(([word, id]) => [id, word]));
  for (const { id, content } of added) words.set(id, content);
  const special = new Set(added.filter((token) => token.special).map(({ id }) => id));
  return (ids) => {
    const kept = ids.filter((id) => words.has(id) && !special.has(id) && (times === null || id <= times));
    const bytes = kept.flatMap((id) => {
      const found = [...words.get(id)].map((letter) => BYTES.get(letter));
      return found.includes(undefined) ? [...new TextEncoder().encode(words.get(id))] : found;
    });
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
  };
}
