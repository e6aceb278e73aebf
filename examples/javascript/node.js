// What Node brings: files, decoders of pictures, onnxruntime's own library. `open(DIR)` is all that a program needs.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";
import sharp from "sharp";
import { Embedder } from "./lib/embedder.js";
import { InputError, PackError } from "./lib/errors.js";
import { Pack } from "./lib/pack.js";

export { InputError, PackError };

/** Opens a run directory. */
export async function open(directory) {
  const pack = await Pack.open(async (file) => {
    try {
      return new Uint8Array(await readFile(path.join(directory, file)));
    } catch (error) {
      throw new PackError(`${path.join(directory, file)} cannot be read: ${error.message}`);
    }
  });
  return new Embedder(pack, {
    name: `onnxruntime-node ${ort.env.versions.node}`,
    ort,
    Tokenizer,
    decode,
    async open(program) {
      if (!program) throw new PackError("the run directory holds no ONNX; make it with `bgevis-convert export onnx`");
      await pack.bytes(program.weights); // onnxruntime reads both files itself: what it will find is checked before
      await pack.bytes(program.path);
      return ort.InferenceSession.create(path.join(directory, program.path));
    },
  });
}

/** Decodes a picture as it is stored: no orientation applied, no colour profile. */
export async function decode(bytes) {
  const file = sharp(bytes);
  const { isPalette, bitsPerSample, space, depth } = await file.metadata();
  if (depth !== "uchar") throw new Error("samples of more than 8 bits, which this decoder would scale");
  const { data, info } = await file.raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const mode = isPalette ? "P" : space === "b-w" && bitsPerSample === 1 ? "1" : channels === 4 ? "RGBA" : "RGB";
  return { mode, width, height, channels, data };
}
