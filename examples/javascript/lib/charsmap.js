// The table of characters that models of sentencepiece bring with them: "Precompiled" in tokenizer.json. The package of
// tokenizers does something like it for all of them; here it is done as the table says.

import { PackError } from "./errors.js";

const graphemes = new Intl.Segmenter("und", { granularity: "grapheme" });
const utf8 = new TextEncoder();

/** Lets an opened tokenizer's normalizer do what its tables say. */
export function obeyTables(normalizer, described) {
  const stated = flat(described).filter(({ type }) => type === "Precompiled");
  const made = flat(normalizer).filter((one) => one.charsmap !== undefined);
  if (stated.length !== made.length)
    throw new PackError("tokenizer.json: the tables of characters are not where this version of the tokenizers has them");
  for (const one of made) if (one.charsmap) one.normalize = charsmap(one.charsmap);
}

const flat = (normalizer) => (normalizer ? [normalizer, ...(normalizer.normalizers ?? []).flatMap(flat)] : []);

/**
 * Gives the function of a text that a table is, in base64: the size in bytes of a double-array trie, its units of 32 bits,
 * and the texts that take the place of what the trie knows, each up to a zero.
 */
export function charsmap(base64) {
  const blob = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(blob.buffer);
  const size = view.getUint32(0, true);
  const units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
  const texts = blob.subarray(4 + size);

  /** Gives the text in the place of the shortest beginning that the trie knows; undefined if it knows none. */
  const exchanged = (bytes) => {
    let at = offset(units[0]);
    for (const byte of bytes) {
      at ^= byte;
      const unit = units[at];
      if (byte === 0 || unit === undefined || (unit & 0x800000ff) !== byte) return undefined;
      at ^= offset(unit);
      if (unit & 0x100) {
        const begin = units[at] & 0x7fffffff;
        return new TextDecoder().decode(texts.subarray(begin, texts.indexOf(0, begin)));
      }
    }
    return undefined;
  };

  const each = (part) => exchanged(utf8.encode(part)) ?? part;
  return (text) => {
    let made = "";
    for (const { segment } of graphemes.segment(text)) {
      const bytes = utf8.encode(segment);
      const whole = bytes.length < 6 ? exchanged(bytes) : undefined; // longer ones only by their characters, as there
      made += whole ?? Array.from(segment, each).join("");
    }
    return made;
  };
}

/** Where a unit's children are, relative to it. */
const offset = (unit) => (unit >>> 10) << ((unit & 0x200) >>> 6);
