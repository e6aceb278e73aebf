// Replay a run directory by Transformers.js: `node transformers_js_client.mjs DIR [DTYPE]`, in a folder where
// @huggingface/transformers is installed. Opens DIR/transformers_js, or DIR/sentence_transformers, as it is, in a dtype
// that the client has a name for. Prints each text and picture whose embedding lies farther from its golden than
// allowed; small numbers are held to their cosine. Ends with exit code 1 if there is one.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const installed = createRequire(pathToFileURL(join(process.cwd(), "package.json")));
const client = await import(pathToFileURL(installed.resolve("@huggingface/transformers")));

/** dtype -> least cosine of an embedding with its golden: docs/performance.md. */
const FLOORS = { fp16: 0.9999, q8: 0.98, int8: 0.97 };

const directory = resolve(process.argv[2]);
const dtype = process.argv[3] ?? "fp32";
const json = (path) => JSON.parse(readFileSync(join(directory, path), "utf8"));
const [manifest, goldens, raw] = ["manifest.json", "goldens/index.json", "goldens/raw/index.json"].map(json);
const names = ["transformers_js", "sentence_transformers"];
const folder = names.find((name) => existsSync(join(directory, name)));

client.env.allowRemoteModels = false;
client.env.localModelPath = `${directory}/`;

/** Read an array of a safetensors file. */
function stored(entry, name) {
  const bytes = readFileSync(join(directory, `goldens/${entry}.safetensors`));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const { dtype, shape, data_offsets } = JSON.parse(bytes.subarray(8, start))[name];
  const [from, to] = data_offsets;
  const Typed = { F64: Float64Array, F32: Float32Array, I32: Int32Array }[dtype];
  return { shape, data: new Typed(new Uint8Array(bytes.subarray(start + from, start + to)).buffer) };
}

/** Opens a folder that embeds texts: a function of texts, pooled as its files say. */
async function embedder() {
  const extract = await client.pipeline("feature-extraction", folder, { dtype });
  const pooling = json(`${folder}/1_Pooling/config.json`).pooling_mode_mean_tokens ? "mean" : "cls";
  const normalize = json(`${folder}/modules.json`).some((module) => module.type.endsWith("Normalize"));
  return (rows) => extract(rows, { pooling, normalize });
}

/** Opens a classifier's folder: a function of texts, or of pairs of them, to logits. */
async function scorer() {
  const tokenizer = await client.AutoTokenizer.from_pretrained(folder);
  const model = await client.AutoModelForSequenceClassification.from_pretrained(folder, { dtype });
  return async (rows) => {
    const [first, second] = Array.isArray(rows[0]) ? [0, 1].map((at) => rows.map((row) => row[at])) : [rows, null];
    const inputs = tokenizer(first, { text_pair: second, padding: true, truncation: true });
    return (await model(inputs)).logits;
  };
}

/** Replays a text encoder or classifier: every case of raw texts or pairs. */
async function replayTexts() {
  const compute = await (existsSync(join(directory, folder, "modules.json")) ? embedder() : scorer());
  const samples = Object.fromEntries([
    ...raw.texts.map(({ name, text }) => [name, text]),
    ...(raw.pairs ?? []).map(({ name, texts }) => [name, texts]),
  ]);
  const [[entry, cases]] = Object.entries(raw.cases);
  for (const [name, { texts, pairs }] of Object.entries(cases)) {
    const rows = pairs ?? texts;
    compare(entry, name, rows, await compute(rows.map((row) => samples[row])));
  }
}

/** Replays a network of two towers: raw texts, raw pictures, the pixels of every case, and what its labels get. */
async function replayTowers() {
  const siglip = json(`${folder}/config.json`).model_type === "siglip";
  const [Text, Vision] = siglip
    ? [client.SiglipTextModel, client.SiglipVisionModel]
    : [client.CLIPTextModelWithProjection, client.CLIPVisionModelWithProjection];
  const tokenizer = await client.AutoTokenizer.from_pretrained(folder);
  const processor = await client.AutoProcessor.from_pretrained(folder);
  const text = await Text.from_pretrained(folder, { dtype });
  const vision = await Vision.from_pretrained(folder, { dtype });
  const padding = siglip ? "max_length" : true;
  const texts = Object.fromEntries(raw.texts.map((sample) => [sample.name, sample.text]));
  const given = (output) => output.text_embeds ?? output.image_embeds ?? output.pooler_output;
  for (const [name, { texts: rows }] of Object.entries(raw.cases.encode_text)) {
    const inputs = tokenizer(
      rows.map((row) => texts[row]),
      { padding, truncation: true },
    );
    compare("encode_text", name, rows, given(await text(inputs)));
  }
  const files = Object.fromEntries(raw.images.map(({ name, file }) => [name, join(directory, "goldens/raw", file)]));
  for (const [name, { images }] of Object.entries(raw.cases.encode_image)) {
    const pictures = await Promise.all(images.map((image) => client.RawImage.read(files[image])));
    compare("encode_image", name, images, given(await vision(await processor(pictures))));
  }
  for (const name of Object.keys(goldens.encode_image.cases)) {
    const { shape, data } = stored("encode_image", `${name}/inputs/images`);
    const pixel_values = new client.Tensor("float32", data, shape).permute(0, 3, 1, 2);
    const rows = Array.from({ length: shape[0] }, (_, row) => `${name}, pixels of row ${row}`);
    compare("encode_image", name, rows, given(await vision({ pixel_values })));
  }
  const classify = await client.pipeline("zero-shot-image-classification", folder, { dtype });
  const scores = await classify(files.exact, ["fox", "cat", "dog"], { hypothesis_template: "a {}" });
  const told = scores.map(({ label, score }) => [label, score]);
  console.log(`labels of exact: ${JSON.stringify(Object.fromEntries(told))}`);
}

let failed = 0;

/** Holds the rows of a case's output to its golden. */
function compare(entry, name, rows, { dims, data }) {
  const { name: output, kind } = manifest.entry_points[entry].outputs.at(-1);
  const { allowed } = goldens[entry].cases[name].budgets[output];
  const want = stored(entry, `${name}/outputs/${output}`).data;
  const width = dims.at(-1);
  rows.forEach((row, i) => {
    const [exact, found] = [want, data].map((numbers) => Float64Array.from(numbers.slice(i * width, (i + 1) * width)));
    const lengths = [exact, found].map((vector) => Math.hypot(...vector));
    const cosine = exact.reduce((sum, value, j) => sum + value * found[j], 0) / (lengths[0] * lengths[1]);
    const scale = kind?.unit ? lengths[1] : 1;
    const error = Math.max(...exact.map((value, j) => Math.abs(value - found[j] / scale)));
    const right = dtype === "fp32" ? error <= allowed : cosine >= FLOORS[dtype];
    failed += !right;
    const told = `${error.toExponential(1)}, cosine ${cosine.toFixed(6)}`;
    console.log(`${row}: ${right ? "as the golden" : "NOT as the golden"}, ${told}`);
  });
}

await (folder === names[0] ? replayTowers() : replayTexts());
process.exit(failed ? 1 : 0);
