// Let texts go on by Transformers.js: `node transformers_js_generate.mjs DIR TOKENS DTYPE PROMPT...`, in a folder where
// @huggingface/transformers is installed. Opens DIR/transformers_js as it is. Prints the ids of each prompt and what
// follows, as JSON, greedily, TOKENS of them at most.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const installed = createRequire(pathToFileURL(join(process.cwd(), "package.json")));
const client = await import(pathToFileURL(installed.resolve("@huggingface/transformers")));

const [directory, tokens, dtype, ...prompts] = process.argv.slice(2);
client.env.allowRemoteModels = false;
client.env.localModelPath = `${resolve(directory)}/`;

const tokenizer = await client.AutoTokenizer.from_pretrained("transformers_js");
const model = await client.AutoModelForCausalLM.from_pretrained("transformers_js", { dtype });
for (const prompt of prompts) {
  const made = await model.generate({ ...tokenizer(prompt), max_new_tokens: Number(tokens), do_sample: false });
  console.log(JSON.stringify(made.tolist()[0].map(Number)));
}
