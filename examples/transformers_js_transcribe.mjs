// Transcribe by Transformers.js: `node transformers_js_transcribe.mjs DIR SAMPLES DTYPE [OPTION=VALUE...]`, in a folder
// where @huggingface/transformers is installed. Opens DIR/transformers_js as it is. SAMPLES is a file of float32, one
// channel at the network's rate; an option is one of the pipeline's, such as language=de or return_timestamps=word.
// Prints what the pipeline gives, as JSON.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const installed = createRequire(pathToFileURL(join(process.cwd(), "package.json")));
const client = await import(pathToFileURL(installed.resolve("@huggingface/transformers")));

const [directory, file, dtype, ...words] = process.argv.slice(2);
client.env.allowRemoteModels = false;
client.env.localModelPath = `${resolve(directory)}/`;

const bytes = readFileSync(file);
const samples = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const transcribe = await client.pipeline("automatic-speech-recognition", "transformers_js", { dtype });
console.log(JSON.stringify(await transcribe(samples, Object.fromEntries(words.map((word) => word.split("="))))));
