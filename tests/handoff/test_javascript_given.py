"""What JavaScript's `embed` takes and refuses; a tokenizer and a runtime that are a few lines stand in for the real."""

import json
import shutil
import subprocess
from pathlib import Path

import preprocess_documents
import pytest

LIBRARY = Path(__file__).parents[2] / "examples" / "javascript" / "lib"
FIRST, AFTER = preprocess_documents.WORDS["truncation"][0], preprocess_documents.WORDS["padding"][0]
SCRIPT = """
import { Embedder } from "%(lib)s/embedder.js";
import { InputError } from "%(lib)s/errors.js";

class Tokenizer {
  encode = (text) => ({ ids: [...text].map((letter) => letter.charCodeAt(0)) });
}
class Tensor {
  constructor(type, data, dims) {
    Object.assign(this, { type, data, dims });
  }
}
const ran = [];
const session = {
  run({ input_ids: { data, dims } }) {
    ran.push(dims);
    const row = (i) => [...data.slice(i * dims[1], (i + 1) * dims[1])].map(Number);
    const vectors = Array.from({ length: dims[0] }, (_, i) => [row(i)[1], row(i).filter(Boolean).length, 1]);
    return { embeddings: new Tensor("float32", Float32Array.from(vectors.flat()), [dims[0], 3]) };
  },
};
const rules = {
  texts: %(texts)s,
  images: null,
  embeddings: { outputs: { encode: "embeddings" }, width: 3, normalize: true, similarity: "dot" },
};
const inputs = [
  { name: "input_ids", dtype: "int32" },
  { name: "attention_mask", dtype: "int32" },
];
const outputs = [{ name: "embeddings", dtype: "float32" }];
const manifest = { entry_points: { encode: { inputs, outputs, programs: { onnx: {} } } } };
const pack = { rules, manifest, json: async () => ({}) };
const model = new Embedder(pack, { Tokenizer, ort: { Tensor }, open: () => session });
"""
USE = """
const plain = (found) => (Array.isArray(found) ? found.map((row) => [...row]) : [...found]);
const found = {
  alone: plain(await model.embed("b")),
  list: plain(await model.embed(["b", "aaa", "cc"], { batchSize: 2 })),
  object: plain(await model.embed({ texts: "b" })),
  generator: plain(await model.embed((function* () { yield "b"; })())),
  none: plain(await model.embed([])),
  cut: [plain(await model.embed(["a", "aaaaaaaaaa"])).length, model.cut],
  prompted: plain(await model.embed("b", { prompt: "xy" })),
  dims: plain(await model.embed("b", { dims: 1 })),
  counts: [await model.tokenCount("abc"), await model.tokenCount(["", "aaaaaaaaaa"])],
  near: model.similarity([1, 2], [3, 4]),
  ran: ran.slice(1, 3),
};
console.log(JSON.stringify(found));
"""
REFUSED = """
const wrong = [%(wrong)s];
const found = [];
for (const use of wrong)
  try {
    await use();
    found.push("nothing was said");
  } catch (error) {
    found.push(`${error instanceof InputError ? "" : error.constructor.name}${error.message}`);
  }
console.log(JSON.stringify(found));
"""
WRONG = {
    "model.embed()": "nothing to embed",
    "model.embed(null)": "nothing to embed",
    "model.embed({})": "nothing to embed",
    "model.embed(3)": "embed was given 3",
    'model.embed({ text: "a" })': "embed was given text, expected some of texts, images",
    "model.embed([null])": "texts[0] is null, expected a string",
    'model.embed(["a", 3])': "texts[1] is 3, expected a string",
    'model.embed({ texts: ["a", undefined] })': "texts[1] is undefined",
    'model.embed(["a\\ud800"])': "texts[0] holds half of a character",
    "model.embed({ texts: 3 })": "texts is 3, expected a list",
    'model.embed({ images: ["photo.jpg"] })': 'images[0] is "photo.jpg", expected the bytes',
    "model.embed({ images: [new Uint8Array(1)] })": "no entry point for images",
    'model.embed({ texts: ["a"], images: new Uint8Array(1) })': "is a list and the other is not",
    'model.embed({ texts: ["a"], images: [] })': "1 texts and 0 images",
    'model.embed("a", { batchSize: 0 })': "batchSize is 0, expected a whole number of at least 1",
    'model.embed("a", { dims: 4 })': "dims is 4, expected a whole number from 1 to 3",
    'model.embed("a", { promptName: "no" })': "there is no prompt no",
    'model.embed("a", { promptName: "no", prompt: "" })': "give one of them",
    "model.similarity([1], [1, 2])": "embeddings of 1 and 2 numbers cannot be compared",
}


def node(text: str, folder: Path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    texts = preprocess_documents.TEXTS | preprocess_documents.UNPROMPTED
    texts |= {"truncation": FIRST, "padding": AFTER, "max_tokens": {"encode": 6}}
    (folder / "use.mjs").write_text(SCRIPT % {"lib": LIBRARY, "texts": json.dumps(texts)} + text)
    done = subprocess.run(["node", folder / "use.mjs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_texts_are_taken_in_any_form_and_come_back_in_their_order(tmp_path):
    found = node(USE, tmp_path)
    b = [98, 3, 1]
    assert found["alone"] == found["object"] == b
    assert found["list"] == [b, [97, 5, 1], [99, 4, 1]]
    assert found["ran"] == [[2, 5], [1, 3]]  # the longest first, two at once
    assert found["generator"] == [b]
    assert found["none"] == []
    assert found["cut"] == [2, [1]]
    assert found["prompted"] == [ord("x"), 5, 1]
    assert found["dims"] == [1]
    assert found["counts"] == [5, [2, 12]]
    assert found["near"] == 11


def test_what_is_wrong_is_named(tmp_path):
    said = node(REFUSED % {"wrong": ", ".join(f"() => {use}" for use in WRONG)}, tmp_path)
    assert [use for use, told in zip(WRONG, said, strict=True) if WRONG[use] not in told] == [], said


def test_it_is_found_as_a_package(tmp_path):
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "bgevis-artifact-runner").symlink_to(LIBRARY.parent)
    found = node(
        'import { replay } from "bgevis-artifact-runner/replay";\n'
        'console.log(JSON.stringify([import.meta.resolve("bgevis-artifact-runner"), typeof replay]));\n',
        tmp_path,
    )
    assert found == [(LIBRARY.parent / "node.js").as_uri(), "function"]
