// Texts and pictures to embeddings: the tokenizer and the pictures' rules of the pack, the ONNX programs in onnxruntime.

import { PackError, size } from "./pack.js";
import { normalized, pixels, values } from "./pictures.js";

/** Which tokens of a text that is too long are kept, by the words of preprocess.json. */
const KEPT = {
  "keep the first tokens and the special tokens": (ids, count) => ids.slice(0, count),
  "keep the last tokens and the special tokens": (ids, count) => ids.slice(Math.max(0, ids.length - count)),
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
    if (pack.rules.images) this.values = values(pack.rules.images);
  }

  /** Embeds texts, pictures (the bytes of PNG or JPEG files), or pairs of both: one Float32Array for each. */
  async embed({ texts, images }) {
    const entry = this.#entryFor(texts, images);
    const inputs = {};
    if (images) Object.assign(inputs, await this.pictures(images));
    if (texts) Object.assign(inputs, this.batch(await Promise.all(texts.map((text) => this.ids(text, entry)))));
    const { data, dims } = await this.run(entry, inputs);
    return Array.from({ length: dims[0] }, (_, row) => data.slice(row * dims[1], (row + 1) * dims[1]));
  }

  #entryFor(texts, images) {
    if (texts && images && texts.length !== images.length)
      throw new PackError(`${texts.length} texts and ${images.length} images: there must be one text for each image`);
    const wanted = texts && images ? "encode_multimodal" : images ? "encode_image" : "encode_text";
    if (!this.entryPoints[wanted]) throw new PackError(`this network has no entry point ${wanted}`);
    return wanted;
  }

  /** Gives the ids of a text for an entry point: the special tokens around as many of its tokens as fit. */
  async ids(text, entry) {
    const rules = this.pack.rules.texts;
    if (!rules?.tokenizer) throw new PackError(`the pack has no tokenizer: ${rules?.missing ?? "no text is read"}`);
    this.described ??= await this.pack.json(rules.tokenizer);
    this.tokenizer ??= new this.runtime.Tokenizer(this.described, {});
    const { ids } = this.tokenizer.encode(plainSigma(rules.prefix + text, this.described.normalizer), {
      add_special_tokens: false,
    });
    const strange = ids.find((id) => id >= rules.vocab_size);
    if (strange !== undefined)
      throw new PackError(`${rules.tokenizer} gives the id ${strange}, preprocess.json knows ${rules.vocab_size}`);
    const kept = KEPT[rules.truncation](ids, rules.max_tokens[entry] - 2);
    return [rules.first_id, ...kept, rules.last_id];
  }

  /** Pads rows of ids to the longest. */
  batch(rows) {
    const { inputs, pad_id } = this.pack.rules.texts;
    const tokens = Math.max(...rows.map((row) => row.length));
    const padded = rows.map((row) => [...row, ...Array(tokens - row.length).fill(pad_id)]);
    const mask = rows.map((row) => padded[0].map((_, i) => (i < row.length ? 1 : 0)));
    const shape = [rows.length, tokens];
    return { [inputs.ids]: { shape, data: padded.flat() }, [inputs.mask]: { shape, data: mask.flat() } };
  }

  /** Decodes and prepares the bytes of pictures. */
  async pictures(files) {
    const rules = this.pack.rules.images;
    const ready = [];
    for (const file of files) ready.push(normalized(pixels(await this.runtime.decode(file), rules), this.values));
    const data = new Float32Array(ready.length * ready[0].length);
    ready.forEach((picture, i) => data.set(picture, i * picture.length));
    return { [rules.input]: { shape: [files.length, rules.size, rules.size, 3], data } };
  }

  /** Runs an entry point on ready inputs, { name: { shape, data } }; gives its embeddings. */
  async run(entry, inputs) {
    const { ort } = this.runtime;
    const session = await (this.sessions[entry] ??= this.runtime.open(this.entryPoints[entry].programs.onnx));
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
    const name = this.pack.rules.embeddings.output;
    const output = (await session.run(feeds))[name];
    if (!output) throw new PackError(`${entry} gives no output ${name}`);
    if (output.type !== "float32" || output.data.length !== size(output.dims))
      throw new PackError(`${entry}: ${name} is ${output.type}, float32 was promised`);
    return { data: output.data, dims: output.dims };
  }

  /** Frees the memory of a program; it is opened again when it is needed. */
  async close(entry) {
    const session = await this.sessions[entry];
    delete this.sessions[entry];
    await session?.release();
  }
}

/**
 * Lower-cases the Greek capital sigma where the tokenizer would: it takes letters one by one and never gives the form
 * for the end of a word, which JavaScript's toLowerCase gives.
 */
function plainSigma(text, normalizer) {
  const lower = [normalizer, ...(normalizer?.normalizers ?? [])].some((n) => n?.lowercase || n?.type === "Lowercase");
  return lower ? text.replaceAll("\u03a3", "\u03c3") : text;
}

/** The similarity of two embeddings, by the rule that preprocess.json states. */
export function similarity(a, b, rules) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return rules.similarity === "dot" ? dot(a, b) : dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}
