"""preprocess.json in JavaScript and C: what Python accepts, alone and with a network, and no more; the same bytes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import preprocess_documents
import pytest
from PIL import Image

from bgevis.converter.pack import pictures, samples

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
