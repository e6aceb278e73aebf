"""preprocess.json in JavaScript and C: what Python accepts, alone and with a network, and no more; the same bytes."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import preprocess_documents
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bgevis.converter.pack import pictures, samples, sounds, steps, tokenizer
from bgevis.model.sound import Sound
from bgevis.model.sound import rules as sound_rules
from bgevis.validation.errors import EnvironmentFailure, InputError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DOCUMENTS = [
    *(
        (f"{name}: {what}", document, None, what == "as it is")
        for name, legal in preprocess_documents.LEGAL.items()
        for what, document in [("as it is", legal), *preprocess_documents.mutations(name)]
    ),
    *preprocess_documents.fitting(),
]
"""What it is, document, entry points that it is held to, whether it is accepted."""

JAVASCRIPT = """
import { readFileSync } from "node:fs";
import { PackError } from "%(lib)s/errors.js";
import { check, fits } from "%(lib)s/rules.js";

for (const line of readFileSync(0, "utf8").trim().split("\\n")) {
  try {
    const [document, entryPoints] = JSON.parse(line);
    check(document);
    if (entryPoints) fits(document, entryPoints);
    console.log("accepted");
  } catch (error) {
    console.log(error instanceof PackError ? "refused" : `failed: ${error}`);
  }
}
"""

# A refusal ends the program: each document has a process of its own.
C = """
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "rules.h"

int main(void) {
    static char line[1 << 16];
    while (fgets(line, sizeof line, stdin)) {
        fflush(NULL);
        pid_t child = fork();
        if (!child) {
            const Json *given = json_parse("preprocess.json", line, strlen(line));
            rules_check(&given->items[0]);
            if (given->items[1].kind == JSON_OBJECT) rules_fit(&given->items[0], &given->items[1]);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        bool ended = WIFEXITED(status);
        puts(ended && WEXITSTATUS(status) == 0 ? "accepted" : ended && WEXITSTATUS(status) == 1 ? "refused" : "failed");
    }
    return 0;
}
"""


def verdicts(*command: str | Path) -> list[str]:
    lines = "\n".join(json.dumps([document, entries]) for _, document, entries, _ in DOCUMENTS) + "\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def wrong(found: list[str]) -> list[str]:
    """Name the documents with another verdict than Python's."""
    rows = zip(DOCUMENTS, found, strict=True)
    return [name for (name, _, _, legal), verdict in rows if verdict != ("accepted" if legal else "refused")]


def test_javascript_accepts_the_same_documents(tmp_path, tell):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (tmp_path / "check.mjs").write_text(JAVASCRIPT % {"lib": EXAMPLES / "javascript" / "lib"})
    assert wrong(verdicts("node", tmp_path / "check.mjs")) == []
    tell(f"pass: JavaScript accepts and refuses {len(DOCUMENTS)} documents preprocess.json as Python does")


def test_c_accepts_the_same_documents(tmp_path, tell):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "check.c").write_text(C)
    sources = [tmp_path / "check.c", EXAMPLES / "c" / "rules.c", EXAMPLES / "c" / "pack.c"]
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=undefined", "-I", EXAMPLES / "c"]
    made = subprocess.run(
        ["cc", *strict, *sources, "-o", tmp_path / "check", "-lm"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert wrong(verdicts(tmp_path / "check")) == []
    tell(f"pass: C accepts and refuses {len(DOCUMENTS)} documents preprocess.json as Python does")


BATCH = """
import { Embedder, similarity } from "%(lib)s/embedder.js";

class Tokenizer {
  encode = (text) => ({ ids: text.split(" ").filter(Boolean).map(Number) });
}
const rules = %(rules)s;
const embedder = new Embedder({ rules: { texts: rules }, manifest: {}, json: async () => ({}) }, { Tokenizer });
const rows = [];
for (const text of %(texts)s) rows.push(await embedder.ids(text, "encode"));
const batch = Object.entries(embedder.batch(rows)).map(([name, { shape, data }]) => [name, shape, data]);
const words = ["dot", "cosine", "euclidean", "manhattan"];
const near = words.map((word) => similarity([3, 4], [6, 8], { similarity: word }));
let empty = "";
try {
  embedder.batch([[1], []]);
} catch (error) {
  empty = error.message;
}
console.log(JSON.stringify({ batch: Object.fromEntries(batch.map(([name, ...rest]) => [name, rest])), near, empty }));
"""
FIRST, LAST, REFUSED = preprocess_documents.WORDS["truncation"]
AFTER, BEFORE, WHOLE = preprocess_documents.WORDS["padding"]
ROWS: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "both ends": ({}, [[101, 5, 6, 102], [101, 5, 102, 0]]),
    "before": ({"padding": BEFORE}, [[101, 5, 6, 102], [0, 101, 5, 102]]),
    "no ends": ({"first_id": None, "last_id": None}, [[5, 6, 7, 8], [5, 0, 0, 0]]),
    "a last token": ({"first_id": None}, [[5, 6, 7, 102], [5, 102, 0, 0]]),
    "the end kept": ({"first_id": None, "truncation": LAST, "padding": BEFORE}, [[7, 8, 9, 102], [0, 0, 5, 102]]),
    "no limit": ({"max_tokens": {"encode": None}}, [[101, 5, 6, 7, 8, 9, 102], [101, 5, 102, 0, 0, 0, 0]]),
    "one length": (
        {"max_tokens": {"encode": 9}, "padding": WHOLE, "truncation": REFUSED},
        [[101, 5, 6, 7, 8, 9, 102, 0, 0], [101, 5, 102, *[0] * 6]],
    ),
    "no mask": ({"inputs": {"ids": "input_ids"}, "padding": BEFORE}, [[101, 5, 6, 102], [0, 101, 5, 102]]),
}
"""Of "5 6 7 8 9" and "5", with at most four tokens: by hand."""


@pytest.mark.parametrize("name", ROWS)
def test_javascript_pads_and_truncates_as_it_is_stated(name, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    changed, wanted = ROWS[name]
    rules = (
        preprocess_documents.TEXTS | preprocess_documents.UNPROMPTED | {"truncation": FIRST, "padding": AFTER} | changed
    )
    rules = {"max_tokens": {"encode": 4}} | {key: rules[key] for key in rules if key != "max_tokens" or key in changed}
    script = BATCH % {
        "lib": EXAMPLES / "javascript" / "lib",
        "rules": json.dumps(rules),
        "texts": json.dumps(["5 6 7 8 9", "5"]),
    }
    (tmp_path / "batch.mjs").write_text(script)
    done = subprocess.run(["node", tmp_path / "batch.mjs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got, shape = json.loads(done.stdout), [2, len(wanted[0])]
    flat = [token for row in wanted for token in row]
    assert got["batch"]["input_ids"] == [shape, flat]
    assert got["batch"].get("attention_mask") == (
        None if name == "no mask" else [shape, [int(token != 0) for token in flat]]
    )
    assert (got["near"], got["empty"]) == ([50, 1, -5, -7], "text 1 is of no tokens")


IDS = """
#define main replay
#include "replay.c"
#undef main

const char *runtime_name(void) { return ""; }
const char *const RUNTIME_FORMAT = "";
void *runtime_open(const Pack *pack, const Json *program) { return (void)pack, (void)program, NULL; }
void runtime_run(void *opened, const Tensor *inputs, size_t count, Tensor *output) {
    (void)opened, (void)inputs, (void)count, (void)output;
}

int main(int count, char **given) {
    const Json *document = json_parse("given", given[1], strlen(given[1]));
    Raw raw = {.texts = json_find(document, "texts"), .index = json_find(document, "index")};
    Case c = {.entry = "encode", .name = "raw texts"};
    const Json *rows = json_find(document, "rows"), *ready = json_find(document, "ready");
    Tensor ids = tensor_new("ids", I32, 2, (int64_t[]){2, (int64_t)ready->count / 2});
    for (size_t i = 0; i < ready->count; i++) ((int32_t *)ids.data)[i] = (int32_t)ready->items[i].number;
    check_made(&c, &raw, "texts", rows, &ids, count > 2 ? MASK : IDS);
    return 0;
}
"""


def test_c_holds_ready_ids_to_the_side_of_the_padding_and_the_ends(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "ids.c").write_text(IDS)
    sources = [tmp_path / "ids.c", *(EXAMPLES / "c" / f"{name}.c" for name in ("rules", "scores", "sounds", "pack"))]
    command = ["cc", "-std=gnu11", "-I", EXAMPLES / "c", *sources, "-o", tmp_path / "ids", "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr

    def check(changed: dict[str, Any], several: list[list[int]], ready: list[list[int]], *mask: str) -> str:
        texts = [{"name": str(i), "ids": {"encode": ids}} for i, ids in enumerate(several)]
        flat = [value for row in ready for value in row]
        rules = preprocess_documents.TEXTS | changed
        given = {"texts": rules, "index": {"texts": texts}, "rows": ["0", "1"], "ready": flat}
        done = subprocess.run([tmp_path / "ids", json.dumps(given), *mask], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1)
        return done.stderr

    for changed, wanted in ROWS.values():
        other = changed | {"padding": AFTER if changed.get("padding") == BEFORE else BEFORE}
        rows = [[token for token in row if token] for row in wanted]
        mask = [[int(token != 0) for token in row] for row in wanted]
        assert check(changed, rows, wanted) == check(changed, rows, mask, "mask") == ""
        assert "of the text '" in check(other, rows, wanted)
        assert "of the text '" in check(other, rows, mask, "mask")
    assert "does not lie between" in check({}, [[5, 6, 102], [5, 102]], [[5, 6, 102], [5, 102, 0]])


CUT = """
import { readFileSync } from "node:fs";
import { ACTIVATIONS, CUT, pairTemplate } from "%(lib)s/scores.js";

const { counts, limit, processors, logits } = JSON.parse(readFileSync(0, "utf8"));
const cut = Object.entries(CUT).map(([word, kept]) => [word, counts.map(([a, b]) => kept(a, b, limit - 3, limit))]);
const scores = Object.entries(ACTIVATIONS).map(([word, made]) => [word, logits.map((row) => made(row))]);
const templates = processors.map((processor) => {
  try {
    return pairTemplate(processor);
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify({ cut: Object.fromEntries(cut), scores: Object.fromEntries(scores), templates }));
"""


def words_of(count: int, letter: str) -> str:
    return " ".join([letter] * count)


@pytest.mark.parametrize("limit", [16, 17, 24])
def test_javascript_cuts_pairs_and_makes_scores_as_python_does(limit, tmp_path):
    """Of every two lengths up to beyond the limit; by the post-processors that pairs are made with."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    opened = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "[CLS]": 3, "[SEP]": 4}, unk_token="[UNK]"))
    opened.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = ("[SEP]", 4), ("[CLS]", 3)
    template = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    several = [template, processors.BertProcessing(*ends), processors.RobertaProcessing(*ends)]
    described, made = [], []
    for each in several:
        opened.post_processor = each
        described.append(json.loads(opened.to_str())["post_processor"])
        made.append(opened.encode("a", "b"))
    described += [{"type": "Sequence", "processors": [{"type": "ByteLevel"}, described[2]]}, {"type": "ByteLevel"}]
    opened.post_processor = template
    counts = [(first, second) for first in range(limit + 2) for second in range(limit + 2)]
    pairs = [(words_of(first, "a"), words_of(second, "b")) for first, second in counts]
    logits = [[-20.0, 0.5, 3.0], [0.0, 0.0, 0.0]]
    (tmp_path / "cut.mjs").write_text(CUT % {"lib": EXAMPLES / "javascript" / "lib"})
    given = json.dumps({"counts": counts, "limit": limit, "processors": described, "logits": logits})
    command = ["node", tmp_path / "cut.mjs"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    shorter, query = steps.CUT.values()
    tokenizer.truncate(opened, limit, FIRST)
    longest = opened.encode_batch(pairs)
    first = [each for each, _ in tokenizer.query_first(opened, pairs, limit, FIRST)]
    for word, encoded in ((shorter, longest), (query, first)):
        assert got["cut"][word] == [[each.ids.count(1), each.ids.count(2)] for each in encoded]
    for word, function in steps.SCORED.items():
        np.testing.assert_allclose(got["scores"][word], function(np.array(logits)), rtol=1e-12)
    for parts, encoded in zip(got["templates"], [*made, made[2]], strict=False):
        assert [part.get("id", part.get("text", 0) + 1) for part in parts] == encoded.ids
        if encoded is not made[2]:
            assert [part["type"] for part in parts] == encoded.type_ids
    assert "of which no pairs are made here" in got["templates"][-1]


TABLES = """
import { readFileSync } from "node:fs";
import { charsmap } from "%(lib)s/charsmap.js";

const { table, texts } = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map(charsmap(table))));
"""


@pytest.mark.parametrize("folder", ["rerankers/xlmr_reranker_1", "bge_m3/m3_three_heads"])
def test_javascript_exchanges_characters_as_the_tables_of_sentencepiece_say(oracles, folder, tmp_path):
    """Each character that a table might know, alone and behind another; accents, ligatures, flags and families."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    described = json.loads((oracles / folder / "tokenizer.json").read_text())["normalizer"]
    (table,) = (each["precompiled_charsmap"] for each in described["normalizers"] if each["type"] == "Precompiled")
    function = normalizers.Precompiled(base64.b64decode(table))
    known = [chr(code) for code in [*range(1, 0x3100), *range(0xAC00, 0xAC40), *range(0xF900, 0xFFFE), 0x1F469]]
    texts = [
        *known,
        *(f"a{one}" for one in known),
        "e\u0301\u0323 \ufb03x",
        "\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    ]
    texts += samples.texts(None).values()
    (tmp_path / "tables.mjs").write_text(TABLES % {"lib": EXAMPLES / "javascript" / "lib"})
    given = json.dumps({"table": table, "texts": texts})
    command = ["node", tmp_path / "tables.mjs"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    different = [text for text, made in zip(texts, got, strict=True) if made != function.normalize_str(text)]
    assert different == []
    assert sum(made != text for text, made in zip(texts, got, strict=True)) > 0


PIXELS = """
import { readFileSync, writeFileSync } from "node:fs";
import { pixels } from "%(javascript)s/lib/pictures.js";
import { decode } from "%(javascript)s/node.js";

const { rules, files } = JSON.parse(readFileSync(0, "utf8"));
for (const file of files) {
  const picture = await decode(readFileSync(file));
  for (const [name, one] of Object.entries(rules)) writeFileSync(`${file}.${name}`, pixels(picture, one).data);
}
"""


def drawn(folder: Path, size: int) -> dict[str, Path]:
    """Draw the raw samples for each way of rounding, and odd sizes and modes; leave out what sharp would scale."""
    folder.mkdir()
    found = {}
    for longer in ("floor", "round"):
        for picture in samples.pictures(size, longer):
            if picture.name != "deep":
                found[f"{longer} {picture.name}"] = folder / f"{longer}_{picture.file}"
                found[f"{longer} {picture.name}"].write_bytes(picture.content)
    random = np.random.default_rng(9)
    for width, height in ((300, 400), (333, 517), (size, 2 * size + 1), (40, size)):
        noise = Image.fromarray(random.integers(0, 256, (height, width, 4)).astype(np.uint8))
        for mode in ("RGB", "L", "RGBA", "LA", "1"):
            found[f"{width} x {height} {mode}"] = folder / f"{width}_{height}_{mode}.png"
            noise.convert(mode).save(found[f"{width} x {height} {mode}"])
    return found


def sized(rules: dict[str, Any], size: int) -> dict[str, Any]:
    """Give the same rules for a network that sees smaller squares, other proportions as they are."""
    text = json.dumps(rules)
    for key in ("size", "shorter_side", "height", "width"):
        text = text.replace(f'"{key}": 224', f'"{key}": {size}')
    return json.loads(text)


def test_javascript_makes_the_same_bytes(tmp_path, tell):
    """By every word: filters, roundings, offsets, colour first and last, alpha dropped and over white."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (EXAMPLES / "javascript" / "node_modules").exists():
        pytest.skip("the JavaScript packages are not installed: make handoff")
    size, legal = 32, preprocess_documents.LEGAL
    chosen = ("converted last", "converted first", "rounded", "squashed", "squashed by a bicubic")
    rules = {name.replace(" ", "_"): sized(legal[name]["images"], size) for name in chosen}
    files = drawn(tmp_path / "pictures", size)
    (tmp_path / "pixels.mjs").write_text(PIXELS % {"javascript": EXAMPLES / "javascript"})
    given = json.dumps({"rules": rules, "files": [str(path) for path in files.values()]})
    command = ["node", tmp_path / "pixels.mjs"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, path in files.items():
        for rule, one in rules.items():
            got = np.frombuffer(Path(f"{path}.{rule}").read_bytes(), np.uint8).reshape(size, size, 3)
            np.testing.assert_array_equal(got, pictures.pixels(path, one), f"{name}, {rule}")
    tell(f"pass: JavaScript makes the same bytes of {len(files)} pictures by {len(rules)} sets of rules")


SAMPLES = """
import { readFileSync, writeFileSync } from "node:fs";
import { InputError } from "%(lib)s/errors.js";
import { samples, windows } from "%(lib)s/sounds.js";

const { rules, files } = JSON.parse(readFileSync(0, "utf8"));
for (const file of files) {
  try {
    const made = samples(new Uint8Array(readFileSync(file)), rules);
    writeFileSync(`${file}.made`, made);
    console.log(windows(made, rules).length);
  } catch (error) {
    console.log(error instanceof InputError ? error.message : `failed: ${error.stack}`);
  }
}
"""

# A refusal ends the program: each file has a process of its own.
OPEN = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sounds.h"

int main(int count, char **given) {
    (void)count;
    const Json *rules = json_parse("rules", given[1], strlen(given[1]));
    FILE *file = fopen(given[2], "rb");
    static uint8_t bytes[1 << 22];
    size_t size = fread(bytes, 1, sizeof bytes, file);
    uint8_t *own = malloc(size ? size : 1); /* whose bounds the sanitizer knows */
    memcpy(own, bytes, size);
    Tensor made = sounds_open("the sound", own, size, rules);
    FILE *out = fopen(text("%s.made", given[2]), "wb");
    fwrite(made.data, made.bytes, 1, out);
    return fclose(out);
}
"""


def recordings(folder: Path) -> list[Path]:
    """Write sounds of every form and rate, and what is none or none that is read by all."""
    folder.mkdir()
    made = {sound.name: sound.content for sound in samples.sounds(16000, 16000)}
    random = np.random.default_rng(3)
    noise = random.uniform(-1, 1, (3000, 3))
    for rate in (1000, 8000, 11025, 16001, 22050, 44100, 48000, 96000, 768000):
        for channels in (1, 3):
            made[f"{rate}, {channels}"] = samples.wav(
                np.resize(noise[:, :channels], (9000 * rate // 48000 + 3000, channels)), rate, 1, 24
            )
    for bits in (8, 16, 24, 32):
        made[f"{bits} bits"] = samples.wav(noise, 16000, 1, bits, extended=bits == 24)
    made |= {f"float of {bits}": samples.wav(noise[:, 0], 16000, 3, bits) for bits in (32, 64)}
    plain = made["plain"]
    made["length unknown"] = plain[:40] + b"\xff\xff\xff\xff" + plain[44:]
    made |= {f"cut at {at}": plain[:at] for at in (0, 3, 11, 12, 19, 20, 35, 36, 43, 44, 45, 1000)}
    for name, kind, sound in (
        ("NaN", 3, [0.0, np.nan] * 2000),
        ("infinite", 3, [np.inf] * 4000),
        ("loud", 3, [1.2] * 4000),
    ):
        made[name] = samples.wav(np.array(sound), 16000, kind, 32)
    made["as loud as may be"] = samples.wav(np.array([1.0999, -1.0999] * 2000), 16000, 3, 32)
    made["too short"], made["just long enough"] = (samples.wav(noise[:n, 0], 16000, 1, 16) for n in (1599, 1600))
    made |= {f"rate {rate}": samples.wav(noise, rate, 1, 16) for rate in (0, 999, 768001)}
    for at, name in ((20, "code"), (22, "channels"), (32, "frame"), (34, "bits")):
        for value in (0, 1, 2, 3, 7, 12, 16, 17, 65, 255):
            made[f"{name} {value}"] = plain[:at] + value.to_bytes(2, "little") + plain[at + 2 :]
    made |= {"FLAC": b"fLaC" + bytes(40), "OGG": b"OggS" + bytes(40), "MP3": b"ID3" + bytes(40), "text": b"no sound"}
    swapped = plain[:12] + plain[36:] + plain[12:36]
    made["samples first"] = swapped
    for i, content in enumerate(made.values()):
        (folder / f"{i}.wav").write_bytes(content)
    return [folder / f"{i}.wav" for i in range(len(made))]


def read_alike(files: list[Path], said: list[str], tell, language: str) -> None:
    """Hold what was read, and what refused, to Python's."""
    rules, refused, worst = sound_rules(Sound(chunk_length=1)), 0, 0.0
    for file, line in zip(files, said, strict=True):
        try:
            wanted = sounds.samples(file.read_bytes(), rules)
        except (InputError, EnvironmentFailure):
            assert line.startswith("the sound "), f"{file}: {line}"
            assert not Path(f"{file}.made").exists(), f"{file} was accepted"
            refused += 1
            continue
        assert Path(f"{file}.made").exists(), f"{file}: {line}"
        got = np.frombuffer(Path(f"{file}.made").read_bytes(), np.float32)
        assert got.shape == wanted.shape, file
        worst = max(worst, float(np.abs(got - wanted).max()))
    assert worst < 2e-7
    assert 20 < refused < len(files) - 30
    tell(f"pass: {language} opens {len(files) - refused} sounds as Python does, and refuses {refused}")


@pytest.fixture
def wav_alone(monkeypatch):
    """Let Python read what it reads by itself: soundfile knows other kinds of WAV too."""
    monkeypatch.setattr("bgevis.validation.packages.installed", lambda module: False)


@pytest.mark.usefixtures("wav_alone")
def test_javascript_opens_sounds_as_python_does(tmp_path, tell):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    files = recordings(tmp_path / "sounds")
    (tmp_path / "samples.mjs").write_text(SAMPLES % {"lib": EXAMPLES / "javascript" / "lib"})
    given = json.dumps({"rules": sound_rules(Sound(chunk_length=1)), "files": [str(file) for file in files]})
    command = ["node", tmp_path / "samples.mjs"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read_alike(files, done.stdout.splitlines(), tell, "JavaScript")


@pytest.mark.usefixtures("wav_alone")
def test_c_opens_sounds_as_python_does(tmp_path, tell):
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    files = recordings(tmp_path / "sounds")
    (tmp_path / "open.c").write_text(OPEN)
    strict = ["-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=undefined,address"]
    sources = [tmp_path / "open.c", EXAMPLES / "c" / "sounds.c", EXAMPLES / "c" / "pack.c"]
    command = ["cc", *strict, "-I", EXAMPLES / "c", *sources, "-o", tmp_path / "open", "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    rules, said = json.dumps(sound_rules(Sound(chunk_length=1))), []
    for file in files:
        command = [tmp_path / "open", rules, file]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"ASAN_OPTIONS": "detect_leaks=0"}
        )
        assert done.returncode in (0, 1), f"{file}: {done.stderr}"
        said.append(done.stderr.removeprefix("error: ").strip())
    read_alike(files, said, tell, "C")


WRITTEN = """
import { readFileSync } from "node:fs";
import { decoder } from "%(lib)s/transcripts.js";

const { tokenizer, rows } = JSON.parse(readFileSync(0, "utf8"));
const text = decoder(tokenizer, { no_timestamps: null });
console.log(JSON.stringify(rows.map(text)));
"""


def test_javascript_makes_the_same_texts_of_tokens(tmp_path):
    """Of bytes in any order, which are mostly no characters; special tokens and unknown ones left out."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    opened = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    opened.decoder = decoders.ByteLevel()
    opened.add_special_tokens(["<|endoftext|>", "<|en|>"])
    opened.add_tokens(["Zürich 東京", "plain"])
    random = np.random.default_rng(7)
    rows = [random.integers(0, 262, random.integers(0, 30)).tolist() for _ in range(400)]
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in samples.texts(None).values():
        letters = "".join(part for part, _ in pre.pre_tokenize_str(text))
        rows.append([alphabet.index(letter) for letter in letters])
        rows.append(rows[-1][:-1])
    (tmp_path / "written.mjs").write_text(WRITTEN % {"lib": EXAMPLES / "javascript" / "lib"})
    given = json.dumps({"tokenizer": json.loads(opened.to_str()), "rows": rows})
    command = ["node", tmp_path / "written.mjs"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [opened.decode(row) for row in rows]
