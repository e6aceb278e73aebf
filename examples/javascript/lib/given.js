// What `embed` is given, as lists: each row is checked, and named by its place where it is wrong.

import { InputError } from "./errors.js";

const OPTIONS = ["promptName", "prompt", "dims", "batchSize"];
const KNOWN = ["texts", "images", ...OPTIONS];

/**
 * Reads a text, a list of texts, or { texts, images }, with options beside them or after them.
 * @returns { texts, images, alone, promptName, prompt, dims, batchSize }, where one row that is no list is `alone`
 */
export async function read(given, options) {
  if (given === null || given === undefined) throw nothing();
  const plain = typeof given === "string" || Symbol.iterator in Object(given);
  const all = { ...(plain ? { texts: given } : given), ...options };
  const strange = Object.keys(all).find((key) => !KNOWN.includes(key));
  if (typeof given !== "object" && !plain) throw new InputError(`embed was given ${show(given)}, expected texts or images`);
  if (strange !== undefined) throw new InputError(`embed was given ${strange}, expected some of ${KNOWN.join(", ")}`);
  const { texts, images, ...rest } = all;
  if (texts === undefined && images === undefined) throw nothing();
  const alone = { texts: typeof texts === "string", images: isPicture(images) };
  if (texts !== undefined && images !== undefined && alone.texts !== alone.images)
    throw new InputError("one of texts and images is a list and the other is not: pairs are two lists, or one of each");
  const found = {
    ...rest,
    alone: alone.texts || alone.images,
    texts: texts === undefined ? undefined : checked("texts", list("texts", texts, alone.texts)),
    images: images === undefined ? undefined : await bytes(list("images", images, alone.images)),
  };
  if (found.texts && found.images && found.texts.length !== found.images.length)
    throw new InputError(
      `${found.texts.length} texts and ${found.images.length} images: there must be one text for each image`,
    );
  return found;
}

const nothing = () => new InputError("nothing to embed: give a text, a list of texts, or { texts, images }");

/** Gives texts as a list. */
export const readTexts = (texts) => checked("texts", list("texts", texts, typeof texts === "string"));

/** Throws InputError unless `value` is a whole number within bounds. */
export function whole(name, value, low, high = Infinity) {
  if (Number.isInteger(value) && low <= value && value <= high) return value;
  const bounds = high === Infinity ? `of at least ${low}` : `from ${low} to ${high}`;
  throw new InputError(`${name} is ${show(value)}, expected a whole number ${bounds}`);
}

function list(name, value, alone) {
  if (alone) return [value];
  if (typeof value !== "object" || value === null || !(Symbol.iterator in value))
    throw new InputError(`${name} is ${show(value)}, expected a list of them, or one alone`);
  return [...value];
}

function checked(name, texts) {
  texts.forEach((text, i) => {
    if (typeof text !== "string") throw new InputError(`${name}[${i}] is ${show(text)}, expected a string`);
    if (/\p{Surrogate}/u.test(text)) throw new InputError(`${name}[${i}] holds half of a character, a lone surrogate`);
  });
  return texts;
}

const isPicture = (value) => value instanceof Uint8Array || value instanceof ArrayBuffer || value instanceof Blob;

/** Gives the bytes of files, of buffers and of what a page's input for files has. */
function bytes(images) {
  return Promise.all(
    images.map(async (image, i) => {
      if (!isPicture(image))
        throw new InputError(`images[${i}] is ${show(image)}, expected the bytes of a PNG or JPEG file, a Uint8Array`);
      if (image instanceof Uint8Array) return image;
      return new Uint8Array(image instanceof Blob ? await image.arrayBuffer() : image);
    }),
  );
}

function show(value) {
  const shown = typeof value === "string" ? JSON.stringify(value) : String(Object(value) === value ? typeof value : value);
  return shown.length > 40 ? `${shown.slice(0, 37)}...` : shown;
}
