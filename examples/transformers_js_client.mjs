// Replay the raw texts and pairs by Transformers.js: `node transformers_js_client.mjs DIR`, in a folder where
// @huggingface/transformers is installed. Opens DIR/sentence_transformers as it is; prints each text whose embedding
// lies farther from its golden than allowed, and ends with exit code 1 if there is one.
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const installed = createRequire(pathToFileURL(join(process.cwd(), "package.json")));
const { AutoModelForSequenceClassification, AutoTokenizer, env, pipeline } = await import(pathToFileURL(installed.resolve("@huggingface/transformers")));

const directory = resolve(process.argv[2]);
const json = (path) => JSON.parse(readFileSync(join(directory, path), "utf8"));

/** Read a float64 array of a safetensors file. */
function float64(path, name) {
  const bytes = readFileSync(join(directory, path));
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const [from, to] = JSON.parse(bytes.subarray(8, start))[name].data_offsets;
  return new Float64Array(new Uint8Array(bytes.subarray(start + from, start + to)).buffer);
}

env.allowRemoteModels = false;
env.localModelPath = `${directory}/`;
const folder = "sentence_transformers";

/** Opens a folder that embeds texts: a function of texts, pooled as its files say. */
async function embedder() {
  const extract = await pipeline("feature-extraction", folder, { dtype: "fp32" });
  const pooling = json(`${folder}/1_Pooling/config.json`).pooling_mode_mean_tokens ? "mean" : "cls";
  const normalize = json(`${folder}/modules.json`).some((module) => module.type.endsWith("Normalize"));
  return (rows) => extract(rows, { pooling, normalize });
}

/** Opens a classifier's folder: a function of texts, or of pairs of them, to logits. */
async function scorer() {
  const tokenizer = await AutoTokenizer.from_pretrained(folder);
  const model = await AutoModelForSequenceClassification.from_pretrained(folder, { dtype: "fp32" });
  return async (rows) => {
    const [first, second] = Array.isArray(rows[0]) ? [0, 1].map((at) => rows.map((row) => row[at])) : [rows, null];
    const inputs = tokenizer(first, { text_pair: second, padding: true, truncation: true });
    return (await model(inputs)).logits;
  };
}

const compute = await (existsSync(join(directory, folder, "modules.json")) ? embedder() : scorer());
const raw = json("goldens/raw/index.json");
const samples = Object.fromEntries([
  ...raw.texts.map(({ name, text }) => [name, text]),
  ...(raw.pairs ?? []).map(({ name, texts }) => [name, texts]),
]);
const [[entry, cases]] = Object.entries(raw.cases);
const output = json("manifest.json").entry_points[entry].outputs[0].name;
let failed = 0;
for (const [name, { texts, pairs }] of Object.entries(cases)) {
  const rows = pairs ?? texts;
  const { allowed } = json("goldens/index.json")[entry].cases[name].budgets[output];
  const want = float64(`goldens/${entry}.safetensors`, `${name}/outputs/${output}`);
  const got = await compute(rows.map((row) => samples[row]));
  const width = got.dims[1];
  rows.forEach((row, i) => {
    const errors = want.slice(i * width, (i + 1) * width).map((w, j) => Math.abs(w - got.data[i * width + j]));
    const error = Math.max(...errors);
    failed += !(error <= allowed);
    console.log(`${row}: ${error <= allowed ? "as the golden" : "NOT as the golden"}, ${error.toExponential(1)}`);
  });
}
process.exit(failed ? 1 : 0);
