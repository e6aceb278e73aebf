// Replay the raw texts by Transformers.js: `node transformers_js_client.mjs DIR`, in a folder where
// @huggingface/transformers is installed. Opens DIR/sentence_transformers as it is; prints each text whose embedding
// lies farther from its golden than allowed, and ends with exit code 1 if there is one.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const installed = createRequire(pathToFileURL(join(process.cwd(), "package.json")));
const { env, pipeline } = await import(pathToFileURL(installed.resolve("@huggingface/transformers")));

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
const extract = await pipeline("feature-extraction", "sentence_transformers", { dtype: "fp32" });
const pooling = json("sentence_transformers/1_Pooling/config.json").pooling_mode_mean_tokens ? "mean" : "cls";
const normalize = json("sentence_transformers/modules.json").some((module) => module.type.endsWith("Normalize"));

const raw = json("goldens/raw/index.json");
const texts = Object.fromEntries(raw.texts.map(({ name, text }) => [name, text]));
let failed = 0;
for (const [name, { texts: rows }] of Object.entries(raw.cases.encode_text)) {
  const { allowed } = json("goldens/index.json").encode_text.cases[name].budgets.embeddings;
  const want = float64("goldens/encode_text.safetensors", `${name}/outputs/embeddings`);
  const got = await extract(rows.map((row) => texts[row]), { pooling, normalize });
  const width = got.dims[1];
  rows.forEach((row, i) => {
    const errors = want.slice(i * width, (i + 1) * width).map((w, j) => Math.abs(w - got.data[i * width + j]));
    const error = Math.max(...errors);
    failed += !(error <= allowed);
    console.log(`${row}: ${error <= allowed ? "as the golden" : "NOT as the golden"}, ${error.toExponential(1)}`);
  });
}
process.exit(failed ? 1 : 0);
