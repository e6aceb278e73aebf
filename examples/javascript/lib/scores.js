// Texts that are read two at a time, and scores: how a pair is cut, where its special tokens stand, what makes scores.

import { PackError } from "./errors.js";

/**
 * How many tokens of each text are kept, by the words of preprocess.json: of so many, in the room that the special
 * tokens leave below the limit.
 */
export const CUT = {
  "token by token from the longer one": (first, second, room) => {
    if (first + second <= room) return [first, second];
    const kept = Math.min(first, second, Math.floor(room / 2)); // of the shorter one; of two alike, of the first
    return first <= second ? [kept, room - kept] : [room - kept, kept];
  },
  "the first to three quarters of max_tokens, then the second": (first, second, room, limit) => {
    const kept = Math.min(first, Math.floor((limit * 3) / 4));
    return [kept, Math.min(second, Math.max(0, room - kept))];
  },
};

/**
 * Gives what a pair becomes by tokenizer.json's `post_processor`: a list in which each is a special token, { id, type },
 * or one of the two texts, { text, type }.
 */
export function pairTemplate(processor) {
  const several = processor?.type === "Sequence" ? processor.processors : [processor];
  const found = several.filter((one) => one && one.type !== "ByteLevel");
  const make = found.length === 1 && TEMPLATES[found[0].type];
  if (!make)
    throw new PackError(
      `tokenizer.json: post_processor is ${found.map(({ type }) => type).join(", ") || "none"}, of which no pairs are ` +
        `made here; known: one of ${Object.keys(TEMPLATES).join(", ")}`,
    );
  return make(found[0]);
}

const TEMPLATES = {
  TemplateProcessing: ({ pair, special_tokens }) =>
    pair.flatMap(({ Sequence, SpecialToken }) =>
      Sequence
        ? [{ text: Sequence.id === "A" ? 0 : 1, type: Sequence.type_id }]
        : special_tokens[SpecialToken.id].ids.map((id) => ({ id, type: SpecialToken.type_id })),
    ),
  BertProcessing: ({ cls, sep }) => [
    { id: cls[1], type: 0 },
    { text: 0, type: 0 },
    { id: sep[1], type: 0 },
    { text: 1, type: 1 },
    { id: sep[1], type: 1 },
  ],
  RobertaProcessing: ({ cls, sep }) => [
    { id: cls[1], type: 0 },
    { text: 0, type: 0 },
    { id: sep[1], type: 0 },
    { id: sep[1], type: 0 },
    { text: 1, type: 0 },
    { id: sep[1], type: 0 },
  ],
};

/** What makes scores of a row of logits, by the words of preprocess.json. */
export const ACTIVATIONS = {
  identity: (row) => row,
  sigmoid: (row) => row.map((x) => 1 / (1 + Math.exp(-x))),
  tanh: (row) => row.map(Math.tanh),
  softmax: (row) => {
    const parts = row.map((x) => Math.exp(x - Math.max(...row)));
    const total = parts.reduce((sum, part) => sum + part, 0);
    return parts.map((part) => part / total);
  },
};
